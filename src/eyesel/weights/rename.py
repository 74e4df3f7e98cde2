"""One rename table a format, as data that reads both ways.

A table maps the names of a file to ours, row by row, the first row that matches:

    "encoder.layer.{}.attention.attention.query.{}": "layers.{}.attention.to_q.{}"

`{}` stands for one part between dots (a layer index, `weight` or `bias`), `**` for any number of them. `None` drops a
name on purpose; a tuple of names splits the tensor into equal parts along its first dimension, as fused projections
need. A name that no row matches is nobody's: the loader reports it. `forms` says which of the file's tensors hold a
matrix otherwise than we do.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from eyesel.weights.views import Form, HeldTensor, StoredTensor, as_matrix, from_matrix, joined, part

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
    forms: Mapping[str, Form] = field(default_factory=dict)

    @cached_property
    def _reading(self) -> list[tuple[re.Pattern[str], Target]]:
        return [(_pattern(theirs), ours) for theirs, ours in self.rows.items()]

    @cached_property
    def _writing(self) -> list[tuple[re.Pattern[str], str, tuple[str, ...]]]:
        return [
            (_pattern(part), theirs, ours if isinstance(ours, tuple) else ())
            for theirs, ours in self.rows.items()
            if ours is not None
            for part in ([ours] if isinstance(ours, str) else ours)
        ]

    @cached_property
    def _forms(self) -> list[tuple[re.Pattern[str], Form]]:
        return [(_pattern(theirs), form) for theirs, form in self.forms.items()]

    def read(self, name: str) -> tuple[str, ...] | bool:
        """Our name, or names of equal parts, for one of the file; True if dropped on purpose, False if unknown."""
        bare = name.removeprefix(self.prefix)
        for pattern, ours in self._reading:
            if match := pattern.match(bare):
                if ours is None:
                    return True
                return tuple(_fill(each, match.groups()) for each in ([ours] if isinstance(ours, str) else ours))
        return False

    def renamed(self, tensors: Mapping[str, StoredTensor]) -> tuple[dict[str, StoredTensor], list[str]]:
        """The file's tensors under our names, and the names that the format does not have."""
        result: dict[str, StoredTensor] = {}
        unknown = []
        for name, stored in tensors.items():
            targets = self.read(name)
            if targets is False:
                unknown.append(name)
            elif isinstance(targets, tuple):
                stored = as_matrix(stored, self._form(name.removeprefix(self.prefix)))
                result |= {target: part(stored, i, len(targets)) for i, target in enumerate(targets)}
        return result, unknown

    def written(self, tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
        """Our tensors under the names of the file."""
        result: dict[str, StoredTensor] = {}
        done: set[str] = set()
        for name in tensors:
            if name in done:
                continue
            target, parts = self._target(name)
            done.update(parts)
            result[self._prefixed(target)] = from_matrix(joined([tensors[each] for each in parts]), self._form(target))
        return result

    def spelling(self, name: str) -> str:
        """The file's name for one of ours; of the whole where ours is a part of it."""
        return self._prefixed(self._target(name)[0])

    def _prefixed(self, target: str) -> str:
        return target if target.startswith(self.unprefixed or ("\0",)) else self.prefix + target

    def write(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same for tensors in memory."""
        held = {name: HeldTensor(tensor) for name, tensor in state.items()}
        return {name: stored.mapped() for name, stored in self.written(held).items()}

    def _target(self, name: str) -> tuple[str, tuple[str, ...]]:
        """The file's name for one of ours, without the prefix, and all of ours that stand in it."""
        for pattern, theirs, fused in self._writing:
            if match := pattern.match(name):
                parts = tuple(_fill(each, match.groups()) for each in fused) or (name,)
                return _fill(theirs, match.groups()), parts
        raise KeyError(f"no row of the table writes {name!r}")

    def _form(self, theirs: str) -> Form | None:
        return next((form for pattern, form in self._forms if pattern.match(theirs)), None)
