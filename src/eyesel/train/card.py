"""The model card of a run (huggingface.co/docs/hub/model-cards): front matter, results, settings, versions."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

FILE = "README.md"
_PACKAGES = ("eyesel", "torch", "transformers", "accelerate", "peft")


def write_card(folder: Path, title: str, data: Mapping[str, Any], sections: Mapping[str, str]) -> None:
    """`data` is the front matter in the words of `ModelCardData`; `sections` are Markdown by heading, empty ones left
    out. The versions of what it was made with come last.
    """
    front = ModelCardData(**{name: value for name, value in data.items() if value not in (None, [], "")})
    parts = [f"---\n{front.to_yaml()}\n---\n", f"# {title}\n"]
    parts += [f"## {heading}\n\n{text.strip()}\n" for heading, text in sections.items() if text.strip()]
    parts.append(f"## Versions\n\n{versions()}\n")
    (folder / FILE).write_text("\n".join(parts), encoding="utf-8")


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def versions() -> str:
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return table(("package", "version"), found.items())
