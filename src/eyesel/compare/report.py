"""A comparison as rows of a table, Markdown and JSON."""

from typing import Any

from eyesel.compare.comparison import Comparison, Metric, Model
from eyesel.compare.measure import CAPABILITIES, Capability

UNKNOWN = "unknown"
MOST_CLASSES = 10  # that a table shows

Row = tuple[str, str, str]


def rows(comparison: Comparison) -> list[Row]:
    """(what, of the first, of the second)."""

    def row(title: str, *texts: str | None) -> Row:
        first, second = (text or UNKNOWN for text in texts)
        return title, first, second

    facts = [model.facts for model in comparison.models]
    measured = [model.measured for model in comparison.models]
    table = [
        row("kind", *(fact.kind for fact in facts)),
        row("type", *(fact.type for fact in facts)),
        row("licence", *(fact.licence for fact in facts)),
        row("tags", *(", ".join(fact.tags) for fact in facts)),
        row("stored as", *(fact.stored for fact in facts)),
        row("computed as", *(each.dtype and f"{each.dtype} on {each.device}" for each in measured)),
    ]
    for metric in comparison.metrics:
        table.append(row(metric.title, *_figures(comparison, metric)))
    for name in dict.fromkeys(name for fact in facts for name in CAPABILITIES[fact.kind]):
        table.append(row(name, *(_capability(model, name) for model in comparison.models)))
    return table


def class_rows(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """(label, pictures, of the first, of the second), the greatest differences first; none where they agree."""
    return [
        (row["label"], str(row["pictures"]), *(f"{share:.0%}" for share in row["accuracy"]))
        for row in comparison.per_class()
        if None not in row["accuracy"] and row["accuracy"][0] != row["accuracy"][1]
    ]


def markdown(comparison: Comparison) -> str:
    names = comparison.names()
    parts = [_table(("", *names), rows(comparison))]
    classes = class_rows(comparison)
    if classes:
        parts.append(_table(("label", "pictures", *names), classes[:MOST_CLASSES]))
        if len(classes) > MOST_CLASSES:
            parts.append(f"... and {len(classes) - MOST_CLASSES} more labels in which they differ.")
    if comparison.notes:
        parts.append("\n".join(f"- {note}" for note in comparison.notes))
    parts += [f"Measured on {comparison.machine}.", f"**Verdict.** {comparison.verdict()}"]
    return "\n\n".join(parts) + "\n"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything; unknown is null."""
    return {
        "models": [
            _model(comparison, model, name) for model, name in zip(comparison.models, comparison.names(), strict=True)
        ],
        "ranks": {metric.name: comparison.ranks(metric) for metric in comparison.metrics},
        "per_class": comparison.per_class(),
        "chance": None if any(model.right is None for model in comparison.models) else comparison.luck(),
        "notes": list(comparison.notes),
        "machine": comparison.machine,
        "verdict": comparison.verdict(),
    }


def _model(comparison: Comparison, model: Model, name: str) -> dict[str, Any]:
    facts = {key: value for key, value in vars(model.facts).items() if key not in ("path", "name")}
    return {
        "name": name,
        "path": str(model.facts.path),
        **facts,
        **{metric.name: model.figure(metric.name) for metric in comparison.metrics},
        "device": model.measured.device,
        "dtype": model.measured.dtype,
        "capabilities": {name: vars(found) for name, found in model.measured.capabilities.items()},
    }


def _figures(comparison: Comparison, metric: Metric) -> tuple[str, str]:
    ranks = comparison.ranks(metric) or ("", "")
    first, second = (
        _figure(model, metric, f" ({'1st' if rank == 1 else '2nd'})" if rank and set(ranks) == {1, 2} else "")
        for model, rank in zip(comparison.models, ranks, strict=True)
    )
    return first, second


def _figure(model: Model, metric: Metric, place: str) -> str:
    if metric.kind not in (None, model.facts.kind):
        return "-"
    value = model.figure(metric.name)
    return UNKNOWN if value is None else f"{metric.text(value)}{place}"


def _capability(model: Model, name: str) -> str:
    if name not in CAPABILITIES[model.facts.kind]:
        return "-"
    found: Capability = model.measured.capabilities[name]
    if found.can is None:
        return UNKNOWN
    word = "yes" if found.can else "no"
    return f"{word}: {found.detail}" if found.detail else word


def _table(head: tuple[str, ...], lines: list[Any]) -> str:
    body = [" | ".join(str(cell).replace("|", "\\|") for cell in line) for line in (head, *lines)]
    body.insert(1, " | ".join("---" for _ in head))
    return "\n".join(f"| {line} |" for line in body)
