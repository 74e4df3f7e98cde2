"""Prompts that change while the picture is made: [from:to:when] and [a|b].

    [fox:owl:0.4]  [fox:owl:12]      a fox, and from 40 % of the steps, or after step 12, an owl
    [owl:0.4]      [fox::0.4]        an owl from 40 % of the steps on; a fox until then
    [fox|owl]                        a fox in the first step, an owl in the second, a fox in the third, ...

The syntax and its examples are AUTOMATIC1111's ("Features: prompt editing", and the docstrings of `prompt_parser.py`).
The prompt becomes a tree, and each step picks its way through it. Brackets that do not fit together are text. Nothing
here recurses, so brackets may nest at will.
"""

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(r"\\.|[(\[\])]|[:|]|[^\\()\[\]:|]+|\\", re.DOTALL)
NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"


def schedule(prompt: str, steps: int) -> list[tuple[int, str]]:
    """(last step, text) in order, steps counted from 1: each text holds up to its last step.

    A `when` with a point in it is a share of the steps, one without is a number of steps. Emphasis stays in the texts.
    """
    root, ends = _parse(prompt, steps)
    return [(last, _text_at(last, root)) for last in sorted({steps, *ends})]


@dataclass(frozen=True, eq=False)
class _Group:
    """Brackets that are no choice themselves; their content may hold some."""

    nodes: "list[_Node]"

    def at(self, step: int) -> "list[_Node]":
        return self.nodes


@dataclass(frozen=True, eq=False)
class _Edit:
    before: "list[_Node]"
    after: "list[_Node]"
    last: int  # the step up to which `before` holds

    def at(self, step: int) -> "list[_Node]":
        return self.before if step <= self.last else self.after


@dataclass(frozen=True, eq=False)
class _Alternation:
    options: "list[list[_Node]]"

    def at(self, step: int) -> "list[_Node]":
        return self.options[(step - 1) % len(self.options)]


_Node = str | _Group | _Edit | _Alternation


@dataclass(eq=False)
class _Open:
    """An open bracket and what stands behind it; the first one stands for the prompt itself."""

    bracket: str
    parts: list[list[_Node]] = field(default_factory=lambda: [[]])  # cut at the colons and bars
    cuts: list[str] = field(default_factory=list)

    def split(self, at: str = "") -> list[list[_Node]]:
        """The content in pieces; cuts other than `at` are text."""
        pieces = [list(self.parts[0])]
        for cut, part in zip(self.cuts, self.parts[1:], strict=True):
            if cut == at:
                pieces.append(list(part))
            else:
                pieces[-1] += [cut, *part]
        return pieces

    def flat(self) -> list[_Node]:
        return [self.bracket, *self.split()[0]]


def _parse(prompt: str, steps: int) -> tuple[list[_Node], set[int]]:
    """The prompt as a tree, and the steps behind which its text may change."""
    ends: set[int] = set()
    stack = [_Open("")]
    for token in _TOKEN.findall(prompt):
        inner = stack[-1]
        if token in ("(", "["):
            stack.append(_Open(token))
        elif inner.bracket + token in ("()", "[]"):
            stack.pop()
            node = _close(inner, token, steps)
            stack[-1].parts[-1].append(node)
            if isinstance(node, _Alternation):
                ends.update(range(1, steps + 1))
            elif isinstance(node, _Edit) and node.last >= 1:
                ends.add(node.last)
        elif token in (")", "]"):  # it closes nothing, so those still open have no end either
            stack[0].parts[0] += [node for open_ in stack[1:] for node in open_.flat()] + [token]
            del stack[1:]
        elif token in (":", "|") and inner.bracket == "[":
            inner.cuts.append(token)
            inner.parts.append([])
        else:
            inner.parts[-1].append(token)
    return [node for open_ in stack for node in open_.flat()], ends


def _close(group: _Open, closing: str, steps: int) -> _Node:
    last = _last_step(group, steps)
    if last is not None:
        *before, after, _ = group.split(":")
        return _Edit(before[0] if before else [], after, last)
    if "|" in group.cuts:
        return _Alternation(group.split("|"))
    return _Group([*group.flat(), closing])


def _last_step(group: _Open, steps: int) -> int | None:
    """The step up to which the first text of [from:to:when] holds; None where the brackets say something else."""
    if group.cuts.count(":") not in (1, 2) or group.cuts[-1] != ":":
        return None
    when = "".join(node if isinstance(node, str) else "()" for node in group.parts[-1]).strip()
    if re.fullmatch(NUMBER, when) is None:
        return None
    last = float(when) * steps if "." in when else float(when)
    return int(max(0.0, min(last, float(steps))))


def _text_at(step: int, nodes: list[_Node]) -> str:
    texts, pending = [], nodes[::-1]
    while pending:
        node = pending.pop()
        if isinstance(node, str):
            texts.append(node)
        else:
            pending += reversed(node.at(step))
    return "".join(texts)
