"""The metadata of a picture file: AUTOMATIC1111's text for everybody, and beside it eyesel's own exact record in JSON.

Where both are there and disagree, because somebody has edited one of them, eyesel's own record wins, since only that
one gives the same picture to the last bit; what the text says otherwise is kept, and told to whoever asks.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from eyesel.errors import SettingError
from eyesel.infotext import comfyui, invokeai
from eyesel.infotext.rows import KNOWN, Said
from eyesel.infotext.text import UNKNOWN, check_length, format, parse

TEXT, OWN = "parameters", "eyesel"  # the names under which files keep the two


@dataclass(frozen=True)
class Record:
    """How a picture was painted, as far as its file says."""

    program: str
    settings: dict[str, Any]  # under eyesel's names; nothing is None
    unknown: dict[str, str] = field(default_factory=dict)  # what else is said, and means nothing here
    otherwise: dict[str, Any] = field(default_factory=dict)  # settings that the text, edited, says otherwise


def metadata(settings: Mapping[str, Any]) -> dict[str, str]:
    """Both records of a picture, for its file."""
    return {TEXT: format(settings), OWN: json.dumps(dict(settings), ensure_ascii=False)}


def read(metadata: Mapping[str, str]) -> Record | None:
    """What a file's metadata say, None where they say nothing of the kind; `SettingError` where they make no sense."""
    if OWN in metadata:
        return _own(metadata[OWN], metadata.get(TEXT))
    if TEXT in metadata:
        settings = parse(metadata[TEXT])
        if settings.keys() - {"prompt", "negative"}:  # else it is some text
            unknown = settings.pop(UNKNOWN, {})
            return Record(_program(settings.get("version")), settings, unknown)
    for program, reader in (("ComfyUI", comfyui.read), ("InvokeAI", invokeai.read)):
        if found := reader(metadata):
            settings, unknown = found
            Said(**settings)
            return Record(program, settings, unknown)
    return None


def _own(text: str, other: str | None) -> Record:
    check_length(text)
    try:
        record = json.loads(text, parse_constant=_refuse)
        said = {name: _tuples(value) for name, value in record.items() if name in KNOWN and value is not None}
        unknown = {name: json.dumps(value) for name, value in record.items() if name not in KNOWN}
    except (ValueError, AttributeError, RecursionError):
        raise SettingError("its record of eyesel is no JSON object that could be read.") from None
    Said(**said)
    program = said.get("version", "eyesel")
    if other is None or "version" not in said:  # the text of the first version left more unsaid
        return Record(program, said, unknown)
    try:
        stated, expected = parse(other), parse(format(said))
    except SettingError as error:
        return Record(program, said, unknown, {TEXT: str(error)})
    unknown = stated.pop(UNKNOWN, {}) | unknown
    return Record(program, said, unknown, {name: v for name, v in stated.items() if v != expected.get(name)})


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _program(version: str | None) -> str:
    if version is None:
        return "a program that writes as AUTOMATIC1111 does"
    if re.match(r"v?\d", version):
        return f"AUTOMATIC1111 {version}"
    return f"Forge {version}" if re.match(r"f\d", version) else version
