"""All that is known of two models, who is ahead in what, and a verdict that follows from it by rule."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from eyesel.compare.facts import Facts
from eyesel.compare.measure import Measured
from eyesel.compare.quality import BINS, Quality, chance

ONCE = 2.0  # what is measured a single time has to differ by more
NEAR = 1.1  # measured figures within a tenth of each other are a tie: runs differ by as much
SURE = 0.05  # a difference in accuracy that chance makes more often is none


@dataclass(frozen=True, eq=False)
class Model:
    """One of the two. `quality` None is unknown; so is `seen`: of each prompt, whether the judge saw its object."""

    facts: Facts
    measured: Measured
    quality: Quality | None = None
    seen: np.ndarray | None = None

    @property
    def right(self) -> np.ndarray | None:
        """(B,) bool: of each picture, or prompt, whether it did well."""
        return self.seen if self.quality is None else self.quality.right

    def figure(self, name: str) -> float | None:
        """By the name of a metric; None if it is unknown or means nothing for this kind."""
        known = {
            "parameters": self.facts.parameters,
            "bytes": self.facts.bytes,
            "accuracy": None if self.quality is None else self.quality.accuracy,
            "calibration_error": None if self.quality is None else self.quality.calibration_error,
            "seen": None if self.seen is None else float(self.seen.mean()),
        }
        return known[name] if name in known else self.measured.figure(name)

    def task(self) -> str:
        """What it does and how well, in words."""
        size = f"with {self.facts.parameters:,} parameters"
        if self.facts.kind == "classifier":
            how = "unknown how well" if self.quality is None else f"{_percent(self.quality.accuracy)} of them rightly"
            return f"names what is in pictures ({how}) {size}"
        how = "unknown how well" if self.seen is None else f"{_percent(self.seen.mean())} of the prompts to be seen"
        return f"paints them ({how}) {size}"


@dataclass(frozen=True)
class Metric:
    """A column: how it is called and written, whether more is better, and how much more is a difference. Those of a
    verdict have a word for what is `better`, and for what they are `about`.
    """

    name: str
    title: str
    text: Callable[[float], str]
    more: bool
    near: float = 1.0
    better: str = ""
    about: str = ""
    kind: str | None = None


def _bytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


METRICS = (
    Metric("parameters", "parameters", lambda n: f"{n:,.0f}", False, better="smaller", about="size"),
    Metric("bytes", "files", _bytes, False, 1.01),
    Metric("load_seconds", "loading, once", lambda s: f"{s:.2f} s", False, ONCE),
    Metric("peak_bytes", "peak memory of the process", _bytes, False, NEAR, "lighter in memory", "memory"),
    Metric("images_per_second_1", "one picture at a time", "{:.1f} pictures/s".format, True, NEAR, kind="classifier"),
    Metric(
        "images_per_second_8",
        "eight at a time",
        "{:.1f} pictures/s".format,
        True,
        NEAR,
        "faster",
        "speed",
        "classifier",
    ),
    Metric("step_seconds", "a guided step", lambda s: f"{s:.3g} s", False, NEAR, "faster", "speed", "painter"),
    Metric("accuracy", "accuracy", _percent, True, kind="classifier"),
    Metric(
        "calibration_error",
        f"calibration error ({BINS} bins)",
        "{:.3f}".format,
        False,
        NEAR,
        "better calibrated",
        "calibration",
        "classifier",
    ),
    Metric("seen", "prompts whose object the judge sees", _percent, True, kind="painter"),
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """`labels` are those of the judged pictures, one a picture; `left_out` says what was not judged."""

    first: Model
    second: Model
    labels: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    machine: str = ""

    @property
    def models(self) -> tuple[Model, Model]:
        return self.first, self.second

    @property
    def metrics(self) -> list[Metric]:
        """Those that mean something for one of the two."""
        kinds = {model.facts.kind for model in self.models}
        return [metric for metric in METRICS if metric.kind is None or metric.kind in kinds]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, and why something is unknown."""
        pairs = [(name, model.measured.note) for name, model in zip(self.names(), self.models, strict=True)]
        return (*self.left_out, *(f"{name}: {note}; what is missing is unknown" for name, note in pairs if note))

    def names(self) -> tuple[str, str]:
        """As in tables: the names, told apart where they are the same."""
        one, two = self.first.facts, self.second.facts
        if one.name != two.name:
            return one.name, two.name
        return (f"{one.name} ({one.kind})", f"{two.name} ({two.kind})") if one.kind != two.kind else ("A", "B")

    def ranks(self, metric: Metric) -> tuple[int, int] | None:
        """1 is the better; 1 and 1 a tie; None where one of them is unknown or they are not of one kind."""
        a, b = (model.figure(metric.name) for model in self.models)
        if a is None or b is None or self.first.facts.kind != self.second.facts.kind:
            return None
        by_chance = metric.name in ("accuracy", "seen") and self.luck() > SURE
        if by_chance or max(a, b) <= metric.near * min(a, b) or not self._always(metric.name):
            return 1, 1
        return (1, 2) if (a > b) == metric.more else (2, 1)

    def luck(self) -> float:
        """How probable the difference in accuracy, or in prompts seen, is between equals."""
        one, two = (model.right for model in self.models)
        return 1.0 if one is None or two is None else chance(one, two)

    def _always(self, name: str) -> bool:
        """Whether the same model was ahead in every round of what was timed."""
        rounds = [model.measured.figures.get(name, []) for model in self.models]
        return len({a > b for a, b in zip(*rounds, strict=False)}) < 2

    def per_class(self) -> list[dict[str, Any]]:
        """Of each label: pictures, and what share each model got right; the greatest differences first."""
        members = defaultdict(list)
        for i, label in enumerate(self.labels):
            members[label].append(i)
        rows = []
        for label, some in members.items():
            shares = [None if m.quality is None else float(m.quality.right[some].mean()) for m in self.models]
            rows.append({"label": label, "pictures": len(some), "accuracy": shares})
        return sorted(rows, key=lambda row: (-abs((row["accuracy"][0] or 0) - (row["accuracy"][1] or 0)), row["label"]))

    def verdict(self) -> str:
        """One sentence."""
        names = self.names()
        if self.first.facts.kind != self.second.facts.kind:
            told = " and ".join(f"{name} {model.task()}" for name, model in zip(names, self.models, strict=True))
            return f"They do different things and neither replaces the other: {told}."
        ahead: tuple[list[str], list[str]] = ([], [])
        even, unknown = [], []
        for metric in (metric for metric in self.metrics if metric.better):
            ranks = self.ranks(metric)
            if ranks is None:
                unknown.append(metric.about)
            elif ranks == (1, 1):
                even.append(metric.about)
            else:
                ahead[ranks.index(1)].append(f"{self._factor(metric)} times {metric.better}")
        parts = [f"{name} is {_listed(words)}" for name, words in zip(names, ahead, strict=True) if words]
        parts += [f"they are even in {_listed(even)}"] if even else []
        parts += [f"unknown: {_listed(unknown)}"] if unknown else []
        return "; ".join([self._better(), *parts]) + "."

    def _better(self) -> str:
        """What the figures of quality say."""
        name = "accuracy" if self.first.facts.kind == "classifier" else "seen"
        metric = next(metric for metric in METRICS if metric.name == name)
        ranks, (a, b) = self.ranks(metric), (model.figure(name) for model in self.models)
        if ranks is None or a is None or b is None:
            return "Which does its work better is unknown, as it was not measured on pictures"
        text = f"{metric.text(a)} against {metric.text(b)}"
        if ranks == (1, 1):
            how = f", a difference that chance makes {_rarely(self.luck())}" if a != b else ""
            return f"Neither is shown to be better ({text}{how})"
        of = f" of {len(self.labels)} pictures" if name == "accuracy" else " of the prompts"
        first, second = (metric.text(value) for value in ((a, b) if ranks == (1, 2) else (b, a)))
        what = "is right more often" if name == "accuracy" else "paints what was asked for more often"
        how = f"{first} against {second}{of}, a difference that chance makes {_rarely(self.luck())}"
        return f"{self.names()[ranks.index(1)]} {what} ({how})"

    def _factor(self, metric: Metric) -> str:
        a, b = (model.figure(metric.name) or 0.0 for model in self.models)
        return f"{max(a, b) / min(a, b):.1f}" if min(a, b) else "many"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _rarely(probability: float) -> str:
    return "less than once in a thousand times" if probability < 0.001 else f"in {100 * probability:.1f} % of cases"
