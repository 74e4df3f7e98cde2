"""The text that AUTOMATIC1111 writes into its pictures, as `create_infotext` and `parse_generation_parameters` have it.

The prompt's lines, the negative prompt's lines from the first one on that begins with "Negative prompt:", and one line
of entries `name: value`. The format has no way to escape: a prompt with a line "Negative prompt: ..." of its own reads
back as a prompt and a negative one, and of nothing negative it cannot tell whether that was "" or None. Files of eyesel
hold an exact record besides (record.py).
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from eyesel.diffusion.aliases import AUTOMATIC, plain
from eyesel.errors import SettingError
from eyesel.infotext.rows import READ_ALSO, ROWS, SIZE, Row, Said, resolve_names

MAX_CHARACTERS = 1_000_000
FEWEST = 3  # entries in the last line, or it belongs to the prompt: AUTOMATIC1111's rule
NEGATIVE = "Negative prompt:"
UNKNOWN = "unknown"  # where `parse` keeps the entries that mean nothing here

# What k-diffusion's samplers do in AUTOMATIC1111 where no schedule is named, and since 1.9 where it is "Automatic".
UNNAMED = "normal"
AUTOMATICALLY = {
    "euler": "normal",
    "euler_ancestral": "normal",
    "heun": "normal",
    "lms": "normal",
    "dpm2": "karras",
    "dpm2_ancestral": "karras",
    "dpmpp_2s_ancestral": "karras",
    "dpmpp_sde": "karras",
    "dpmpp_2m": "karras",
    "dpmpp_2m_sde": "exponential",
}


# --- writing


def format(settings: Mapping[str, Any], seed: int | None = None) -> str:
    """`settings` (and `seed`) as text. What is None or the default is left out; LoRAs become tags in the prompt."""
    said = {"seed": seed, **settings} if seed is not None else dict(settings)
    if said.get("width") is not None and said.get("height") is not None:
        said[SIZE] = said["width"], said["height"]
    entries: dict[str, str] = {}
    for row in ROWS:
        if _is_written(row, said):
            entries.setdefault(row.name, row.write(said[row.setting]))
    lines = [_with_loras(said.get("prompt") or "", said.get("loras") or ())]
    if said.get("negative"):
        lines.append(f"{NEGATIVE} {said['negative']}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in entries.items() if value))
    return "\n".join(lines)


def _is_written(row: Row, said: Mapping[str, Any]) -> bool:
    value = said.get(row.setting)
    if value is None or (row.default is not None and value == row.default):
        return False
    return row.within is None or (said.get(row.within) is not None and said[row.within] is not False)


def _with_loras(prompt: str, loras: Any) -> str:
    for path, text_weight, unet_weight in loras:
        name = PurePath(path.replace("\\", "/")).stem  # as others know it
        if f"<lora:{name}:" not in prompt and f"<lora:{name}>" not in prompt:
            weights = [f"{text_weight:g}"] if text_weight == unet_weight else [f"{text_weight:g}", f"{unet_weight:g}"]
            prompt += f" <lora:{':'.join([name, *weights])}>"
    return prompt


def _quoted(value: str) -> str:
    plainly = value.isprintable() and value == value.strip() and not re.search(r'[,:]|^["\[{]', value)
    return value if plainly else json.dumps(value, ensure_ascii=False)


# --- reading


def parse(text: str) -> dict[str, Any]:
    """The settings that a text says, under eyesel's names; entries that mean nothing here are kept under "unknown".

    Names of samplers and schedules are read in all spellings that eyesel knows; one that it does not know is kept, and
    refused where it is used. A text of another program that does not say them means the noise of a GPU (ComfyUI: of
    the CPU) and, for the samplers of k-diffusion, their own schedule. Without a line of entries all of the text is the
    prompt. Raises `SettingError` where a value cannot be read.
    """
    check_length(text)
    lines = text.replace("\r\n", "\n").removesuffix("\0").split("\n")
    last = _line_of_entries(lines)
    prompt, negative = _prompts(lines if last is None else lines[:last])
    settings: dict[str, Any] = {"prompt": prompt}
    if negative:
        settings["negative"] = negative
    if last is None:
        return settings
    entries = {name or value: value for name, value in _entries(lines[last])}
    for line in filter(str.strip, lines[last + 1 :]):  # the templates of sd-dynamic-prompts stand there
        name, _, value = line.partition(":")
        entries.setdefault(name.strip(), value.strip())
    return settings | _understood(entries)


def check_length(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise SettingError(f"the text has {len(text):,} characters, more than the {MAX_CHARACTERS:,} that are read.")


def _line_of_entries(lines: list[str]) -> int | None:
    filled = [i for i, line in enumerate(lines) if line.strip()]
    candidates = [*filled[-1:], *(i for i in reversed(filled[:-1]) if lines[i].startswith("Steps:"))]
    return next((i for i in candidates if sum(name is not None for name, _ in _entries(lines[i])) >= FEWEST), None)


def _prompts(lines: list[str]) -> tuple[str, str]:
    start = next((i for i, line in enumerate(lines) if line.lstrip().startswith(NEGATIVE)), len(lines))
    negative = lines[start:]
    if negative:
        negative[0] = negative[0].lstrip().removeprefix(NEGATIVE).removeprefix(" ")
    return "\n".join(lines[:start]), "\n".join(negative)


_NAME = re.compile(r"\s*+(\w[\w \-/]{0,99}+):\s*+")
_NEXT = re.compile(r"\s*+(?:,|$)")
_DECODER = json.JSONDecoder(strict=False)
_OPENING = ('"', "[", "{")


def _entries(line: str) -> list[tuple[str | None, str]]:
    """The names and values of a line. Values may be quoted as JSON, or be JSON. What stands without a name is given as
    it is, unless the value before it has opened a bracket.
    """
    entries: list[tuple[str | None, list[str]]] = []
    at = 0
    while at < len(line):
        name = _NAME.match(line, at)
        value, at = _value(line, name.end() if name else at)
        if name:
            entries.append((name[1].rstrip(), [value]))
        elif entries and entries[-1][1][0].startswith(_OPENING):
            entries[-1][1].append(value)
        elif value:
            entries.append((None, [value]))
    return [(name, ", ".join(values)) for name, values in entries]


def _value(line: str, start: int) -> tuple[str, int]:
    """The value from `start` on, and where the next entry begins."""
    if line.startswith(_OPENING, start):
        try:
            value, end = _DECODER.raw_decode(line, start)
        except (ValueError, RecursionError):
            pass
        else:
            if after := _NEXT.match(line, end):
                return value if isinstance(value, str) else line[start:end], after.end()
    end = line.find(",", start)
    end = len(line) if end < 0 else end
    return line[start:end].strip(), end + 1


def _understood(entries: Mapping[str, str]) -> dict[str, Any]:
    rows = {row.name: row for row in reversed(ROWS)}  # of two rows of a name, the first
    if any(name.startswith("Hires ") for name in entries):
        rows["Denoising strength"] = next(row for row in ROWS if row.setting == "hires_strength")
    settings: dict[str, Any] = {}
    unknown = {}
    for name, text in entries.items():
        row = rows.get(READ_ALSO.get(name, name))
        if row is None:
            unknown[name] = text
            continue
        try:
            settings[row.setting] = row.read(text)
        except ValueError as error:
            raise SettingError(f"{name} is {text[:60]!r}; it must be {error}.") from None
    if SIZE in settings:
        settings["width"], settings["height"] = settings.pop(SIZE)
    resolve_names(settings)
    _say_the_unsaid(settings, entries)
    settings = {name: value for name, value in settings.items() if value is not None}
    Said(**settings)
    return {**settings, UNKNOWN: unknown} if unknown else settings


def _say_the_unsaid(settings: dict[str, Any], entries: Mapping[str, str]) -> None:
    """What the programs that write this format, except eyesel, take for granted."""
    version = settings.get("version", "").lower()
    if version.startswith("eyesel"):
        return
    settings.setdefault("rng", "cpu" if "comfy" in version else "philox")
    if settings.get("solver") in AUTOMATICALLY and settings.get("schedule") is None:
        automatic = AUTOMATIC in (plain(entries.get(name, "")) for name in ("Schedule type", "Scheduler"))
        settings["schedule"] = AUTOMATICALLY[settings["solver"]] if automatic else UNNAMED
    if "stable-diffusion.cpp" in version and settings.get("solver") not in ("ddim", "tcd"):
        settings.pop("eta", None)  # which it writes for all of its samplers


# --- showing


def printable(text: str) -> str:
    """Text of a stranger for a terminal: nothing in it can move the cursor or turn the direction of writing."""
    return "".join(ascii(c)[1:-1] if unicodedata.category(c)[0] == "C" and c not in "\n\u200d" else c for c in text)
