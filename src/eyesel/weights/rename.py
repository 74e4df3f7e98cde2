"""One rename table a format, as data that reads both ways.

A table maps the names of a file to ours, row by row, the first row that matches:

    "encoder.layer.{}.attention.attention.query.{}": "layers.{}.attention.to_q.{}"

`{}` stands for one part between dots (a layer index, `weight` or `bias`), `**` for any number of them. `None` drops a
name on purpose; a tuple of names splits the tensor into equal parts along its first dimension, as fused projections
need. A name that no row matches is nobody's: the loader reports it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Target = str | tuple[str, ...] | None
_PARTS = {"{}": r"([^.]+)", "**": r"(.+)"}


def _pattern(template: str) -> re.Pattern[str]:
    pieces = re.split(r"(\{\}|\*\*)", template)
    return re.compile("".join(_PARTS.get(piece, re.escape(piece)) for piece in pieces) + r"\Z")


def _fill(template: str, parts: tuple[str, ...]) -> str:
    return template.replace("**", "{}").format(*parts)


@dataclass(frozen=True)
class RenameTable:
    """`prefix` may stand before every name of the file but those in `unprefixed`; it is optional when reading."""

    rows: Mapping[str, Target]
    prefix: str = ""
    unprefixed: tuple[str, ...] = ()

    @cached_property
    def _reading(self) -> list[tuple[re.Pattern[str], Target]]:
        return [(_pattern(theirs), ours) for theirs, ours in self.rows.items()]

    @cached_property
    def _writing(self) -> list[tuple[re.Pattern[str], str, tuple[str, ...]]]:
        return [
            (_pattern(ours[0] if isinstance(ours, tuple) else ours), theirs, ours if isinstance(ours, tuple) else ())
            for theirs, ours in self.rows.items()
            if ours is not None
        ]

    def read(self, name: str) -> tuple[str, ...] | bool:
        """Our name, or names of equal parts, for one of the file; True if dropped on purpose, False if unknown."""
        bare = name.removeprefix(self.prefix)
        for pattern, ours in self._reading:
            if match := pattern.match(bare):
                if ours is None:
                    return True
                return tuple(_fill(each, match.groups()) for each in ([ours] if isinstance(ours, str) else ours))
        return False

    def write(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors under the names of the file."""
        result: dict[str, Tensor] = {}
        done: set[str] = set()
        for name in state:
            if name in done:
                continue
            for pattern, theirs, fused in self._writing:
                if match := pattern.match(name):
                    parts = [_fill(each, match.groups()) for each in fused] or [name]
                    target = _fill(theirs, match.groups())
                    if not target.startswith(self.unprefixed or ("\0",)):
                        target = self.prefix + target
                    result[target] = state[name] if not fused else torch.cat([state[part] for part in parts])
                    done.update(parts)
                    break
            else:
                raise KeyError(f"no row of the table writes {name!r}")
        return result
