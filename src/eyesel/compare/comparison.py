"""All that is known of two models, who is ahead in what, and a verdict that follows from it by rule."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eyesel.compare.facts import Facts
from eyesel.compare.measure import Measured
from eyesel.compare.quality import BINS, Quality, chance

NEAR = 1.1  # measured figures within a tenth of each other are a tie: runs differ by as much
SURE = 0.05  # a difference in accuracy that chance makes more often is none


@dataclass(frozen=True, eq=False)
class Model:
    """One of the two. `quality` None is unknown; `seen` is the share of prompts whose object the judge saw."""

    facts: Facts
    measured: Measured
    quality: Quality | None = None
    seen: float | None = None

    def figure(self, name: str) -> float | None:
        """By the name of a metric; None if it is unknown or means nothing for this kind."""
        known = {
            "parameters": self.facts.parameters,
            "bytes": self.facts.bytes,
            "accuracy": None if self.quality is None else self.quality.accuracy,
            "calibration_error": None if self.quality is None else self.quality.calibration_error,
            "seen": self.seen,
        }
        return known[name] if name in known else self.measured.figures.get(name)


@dataclass(frozen=True)
class Metric:
    """A column: how it is called and written, whether more is better, and how much more is a difference."""

    name: str
    title: str
    text: Callable[[float], str]
    more: bool
    near: float = 1.0
    better: str = ""  # in a verdict: "faster"
    kind: str | None = None


def _bytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


METRICS = (
    Metric("parameters", "parameters", lambda n: f"{n:,.0f}", False, better="smaller"),
    Metric("bytes", "files", _bytes, False),
    Metric("load_seconds", "loading", lambda s: f"{s:.2f} s", False, NEAR),
    Metric("peak_bytes", "peak memory of the process", _bytes, False, NEAR, "lighter in memory"),
    Metric("images_per_second_1", "one picture at a time", "{:.1f} pictures/s".format, True, NEAR, "", "classifier"),
    Metric("images_per_second_8", "eight at a time", "{:.1f} pictures/s".format, True, NEAR, "faster", "classifier"),
    Metric("step_seconds", "a guided step", lambda s: f"{s:.3g} s", False, NEAR, "faster", "painter"),
    Metric("accuracy", "accuracy", _percent, True, kind="classifier"),
    Metric("calibration_error", f"calibration error ({BINS} bins)", "{:.3f}".format, False, NEAR, "", "classifier"),
    Metric("seen", "prompts whose object the judge sees", _percent, True, kind="painter"),
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """`labels` are those of the judged pictures, one a picture; notes say what was left out."""

    first: Model
    second: Model
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    machine: str = ""

    @property
    def models(self) -> tuple[Model, Model]:
        return self.first, self.second

    @property
    def metrics(self) -> list[Metric]:
        """Those that mean something for one of the two."""
        kinds = {model.facts.kind for model in self.models}
        return [metric for metric in METRICS if metric.kind is None or metric.kind in kinds]

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
        if max(a, b) <= metric.near * min(a, b) or (metric.name == "accuracy" and self.luck() > SURE):
            return 1, 1
        return (1, 2) if (a > b) == metric.more else (2, 1)

    def luck(self) -> float:
        """How probable the difference in accuracy is between equals."""
        one, two = (model.quality for model in self.models)
        return 1.0 if one is None or two is None else chance(one.right, two.right)

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
            told = [
                f"{name} {'names' if model.facts.kind == 'classifier' else 'paints'}"
                f"{' what is in pictures' if model.facts.kind == 'classifier' else ' them'}"
                for name, model in zip(names, self.models, strict=True)
            ]
            return f"They do different things and neither replaces the other: {' and '.join(told)}."
        ahead: tuple[list[str], list[str]] = ([], [])
        for metric in self.metrics:
            ranks = self.ranks(metric)
            if metric.better and ranks in ((1, 2), (2, 1)):
                ahead[ranks.index(1)].append(f"{self._factor(metric)} times {metric.better}")
        other = [f"{name} is {_listed(words)}" for name, words in zip(names, ahead, strict=True) if words]
        costs = "; ".join(other) or "in size, memory and speed there is no difference of more than a tenth"
        return f"{self._better()}; {costs}."

    def _better(self) -> str:
        """What the figures of quality say."""
        name = "accuracy" if self.first.facts.kind == "classifier" else "seen"
        metric = next(metric for metric in METRICS if metric.name == name)
        ranks, (a, b) = self.ranks(metric), (model.figure(name) for model in self.models)
        if ranks is None or a is None or b is None:
            return "Which does its work better is unknown, as it was not measured on pictures"
        text = f"{metric.text(a)} against {metric.text(b)}"
        if ranks == (1, 1):
            how = f", a difference that chance makes in {self.luck():.0%} of cases" if a != b else ""
            return f"Neither is shown to be better ({text}{how})"
        of = f" of {len(self.labels)} pictures, by chance in {self.luck():.2%} of cases" if name == "accuracy" else ""
        first, second = (a, b) if ranks == (1, 2) else (b, a)
        what = "is right more often" if name == "accuracy" else "paints what was asked for more often"
        return f"{self.names()[ranks.index(1)]} {what} ({metric.text(first)} against {metric.text(second)}{of})"

    def _factor(self, metric: Metric) -> str:
        a, b = (model.figure(metric.name) or 0.0 for model in self.models)
        return f"{max(a, b) / min(a, b):.1f}" if min(a, b) else "many"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
