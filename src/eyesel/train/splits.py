"""From what was read to what is trained on: unreadable pictures left out, a part held back, classes checked."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from eyesel.errors import SettingError
from eyesel.train.draws import generator
from eyesel.train.labelled import Labelled
from eyesel.train.pictures import KEEP, Pictures, opened

_HOLDING_BACK = 1 << 20  # a key of `generator` that no epoch has


@dataclass(frozen=True, eq=False)
class Split:
    pictures: Pictures
    names: Sequence[str]
    labels: Sequence[int]  # numbers of classes

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Splits:
    """`skipped` is a sentence for every picture that cannot be read, `notes` are what else should be known."""

    classes: Sequence[str]
    train: Split
    validation: Split
    test: Split | None
    skipped: Sequence[str]
    notes: Sequence[str]

    def ordered(self, classes: Sequence[str]) -> "Splits":
        """The same classes in another order."""
        numbers = [classes.index(label) for label in self.classes]

        def renumbered(split: Split) -> Split:
            return replace(split, labels=[numbers[label] for label in split.labels])

        test = None if self.test is None else renumbered(self.test)
        return Splits(classes, renumbered(self.train), renumbered(self.validation), test, self.skipped, self.notes)


def make_splits(
    read: Mapping[str, Labelled], share: float, seed: int, strict: bool = False, at_least: int | None = None
) -> Splits:
    """Open every picture once; hold back `share` of each class for validation if there is no such split. Pictures of
    the training split are reduced to `at_least` pixels a side (see `Pictures`), the others are whole.

    Raises `SettingError` for one class, an empty class, or labels that only another split has; with `strict`,
    `ImageError` for the first picture that cannot be read.
    """
    skipped, parts, pictures = [], {}, {}
    for split, labelled in read.items():
        found, good, errors = opened(labelled.sources, strict, KEEP if split == "train" else 0, at_least)
        pictures[split] = found if split == "train" else found.whole()
        skipped += errors
        parts[split] = labelled.subset(good)
    classes = _checked_classes(parts)
    numbers = {label: i for i, label in enumerate(classes)}
    made = {
        split: Split(pictures[split], part.names, [numbers[label] for label in part.labels])
        for split, part in parts.items()
    }
    if "validation" not in made:
        made["train"], made["validation"] = hold_back(made["train"], share, seed)
    return Splits(classes, made["train"], made["validation"], made.get("test"), skipped, _notes(parts, classes))


def hold_back(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """The rest, and `share` of each class, rounded and at least one of a class of two or more, chosen by chance."""
    held: list[int] = []
    chance = generator(seed, _HOLDING_BACK)
    for label in sorted(set(split.labels)):
        own = [i for i, other in enumerate(split.labels) if other == label]
        count = min(max(round(share * len(own)), 1), len(own) - 1)
        held += [own[i] for i in chance.permutation(len(own))[:count].tolist()]
    if not held:
        raise SettingError("there is one picture of each class, so none can be held back for validation: add pictures.")
    chosen = set(held)
    rest = _part(split, [i for i in range(len(split)) if i not in chosen])
    back = _part(split, sorted(held))
    return rest, replace(back, pictures=back.pictures.whole())


def _part(split: Split, numbers: Sequence[int]) -> Split:
    return Split(split.pictures.subset(numbers), [split.names[i] for i in numbers], [split.labels[i] for i in numbers])


def _checked_classes(parts: Mapping[str, Labelled]) -> list[str]:
    counts = Counter(parts["train"].labels)
    classes = list(dict.fromkeys([*parts["train"].classes, *sorted(counts)]))
    empty = [label for label in classes if not counts[label]]
    if empty:
        raise SettingError(
            f"the class {empty[0]!r} has no picture that can be read in the training split: add some, or remove it."
        )
    if len(classes) < 2:
        raise SettingError(f"there is one class, {classes[0]!r}: a classifier needs two or more.")
    for split, part in parts.items():
        there = set(part.labels)
        if not part.labels:
            raise SettingError(f"the {split} split has no picture that can be read: add some, or remove it.")
        if unknown := sorted(there - set(classes)):
            raise SettingError(
                f"the {split} split has the label {unknown[0]!r}, which the training split has not: make them the same."
            )
    return classes


def _notes(parts: Mapping[str, Labelled], classes: Sequence[str]) -> list[str]:
    notes = []
    for split, part in parts.items():
        if missing := sorted(set(classes) - set(part.labels)):
            more = f" and {len(missing) - 1} more classes" if len(missing) > 1 else ""
            notes.append(f"the {split} split has no picture of {missing[0]!r}{more}")
    return notes
