r"""The language of prompts, as AUTOMATIC1111's Stable Diffusion web UI has taught it to everybody.

    (fox)  (fox:1.3)  [fox]          1.1 times, 1.3 times, 1 / 1.1 times the attention; brackets nest
    \(  \)  \[  \]  \\               these characters themselves
    a fox BREAK a blue sky           the blue sky is encoded on its own, in another chunk of 75 tokens
    a fox AND an owl :1.2            two prompts that both guide the picture, each with its weight (Liu et al. 2022)
    <lora:name:0.8>                  a LoRA to apply
    [fox:owl:0.4]  [fox|owl]         texts that change over the steps: schedule.py

They are read from the outside in: `loras`, `subprompts`, `schedule`, and in the text of each step, `emphasis`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from eyesel.errors import SettingError
from eyesel.text.schedule import NUMBER, schedule

MAX_CHARACTERS = 100_000  # of one prompt
MAX_SUBPROMPTS = 64  # each costs a pass through the UNet at every step
MAX_WEIGHT = 100.0  # beyond it words overflow half precision
STRONGER = 1.1  # what a bracket without a number does


@dataclass(frozen=True)
class Subprompt:
    """One side of an `AND`: its weight, and its text at every step."""

    weight: float
    pieces: tuple[tuple[int, str], ...]  # as `schedule` gives them

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.pieces]

    def at(self, step: int) -> str:
        """The text in `step`, counted from 1."""
        return next(text for last, text in self.pieces if step <= last)


def parse(prompt: str, steps: int) -> list[Subprompt]:
    """What a prompt without LoRAs says in each of `steps` steps."""
    return [Subprompt(weight, tuple(schedule(text, steps))) for text, weight in subprompts(prompt)]


def check_text(text: str) -> None:
    """Refuse what cannot be a prompt."""
    if not isinstance(text, str):
        raise SettingError(f"a prompt must be text, and {text!r} is of type {type(text).__name__}.")
    if len(text) > MAX_CHARACTERS:
        raise SettingError(f"the prompt has {len(text):,} characters, more than {MAX_CHARACTERS:,}: shorten it.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SettingError(
            f"the prompt has no valid character at position {error.start} ({text[error.start]!r}): use UTF-8."
        ) from None


def shortened(text: str, length: int = 60) -> str:
    """Text as a message can quote it."""
    return text if len(text) <= length else f"{text[:length]}..."


# --- <lora:name:0.8>


@dataclass(frozen=True)
class Lora:
    """A LoRA that a prompt asks for, with its weights on the text encoders and on the UNet."""

    name: str
    text_weight: float = 1.0
    unet_weight: float = 1.0


_TAG = re.compile(r"<(lora|lyco|hypernet):([^<>]*)>")


def loras(prompt: str) -> tuple[str, list[Lora]]:
    """The prompt without its tags `<lora:name>`, `<lora:name:both>` or `<lora:name:text:unet>`, and what they say.

    `te=0.5` and `unet=0.5` name a weight, and `lyco` is another word for `lora`, as in A1111.
    """
    check_text(prompt)
    return _TAG.sub("", prompt), [_lora(tag) for tag in _TAG.finditer(prompt)]


def _lora(tag: re.Match[str]) -> Lora:
    kind, content = tag.groups()
    if kind == "hypernet":
        raise SettingError(f"The prompt asks for a hypernetwork, {shortened(tag[0])}, and eyesel has none: remove it.")
    name, *weights = (part.strip() for part in content.split(":"))
    named = dict(part.split("=", 1) for part in weights if "=" in part)
    plain = [part for part in weights if "=" not in part]
    readable = name and len(plain) <= 2 and named.keys() <= {"te", "unet"}
    if not readable or not all(map(_is_weight, [*plain, *named.values()])):
        raise SettingError(
            f"The prompt's {shortened(tag[0])} cannot be read; write <lora:name:0.8>, or <lora:name:0.8:0.6> for the "
            f"text encoders and the UNet, with weights up to {MAX_WEIGHT:g}."
        )
    text = named.get("te", plain[0] if plain else "1")
    return Lora(name, float(text), float(named.get("unet", plain[1] if len(plain) > 1 else text)))


def _is_weight(text: str) -> bool:
    return re.fullmatch(NUMBER, text) is not None and abs(float(text)) <= MAX_WEIGHT


# --- a AND b :1.2


def subprompts(prompt: str) -> list[tuple[str, float]]:
    """The texts between the `AND`s, and their weights. Without an `AND`, a number at the end is part of the text."""
    texts = re.split(r"\bAND\b", prompt)
    if len(texts) > MAX_SUBPROMPTS:
        raise SettingError(f"The prompt has {len(texts):,} sides of an AND, more than {MAX_SUBPROMPTS}: join some.")
    return [(prompt, 1.0)] if len(texts) == 1 else [_subprompt(text, prompt) for text in texts]


def _subprompt(text: str, prompt: str) -> tuple[str, float]:
    body, colon, number = text.rpartition(":")
    number = number.strip()
    if not colon or re.fullmatch(NUMBER, number) is None:
        body, number = text, "1"
    if not body.strip():
        raise SettingError(
            f"An AND of the prompt {shortened(prompt)!r} has nothing on one side: write `a fox AND an owl`."
        )
    if not _is_weight(number):
        raise SettingError(f"The weight {shortened(number)} of {shortened(body)!r} is beyond {MAX_WEIGHT:g}: lower it.")
    return body, float(number)


# --- (a:1.2), [a] and BREAK


_EMPHASIS = re.compile(rf"\\[()\[\]\\]|[(\[\])]|:\s*({NUMBER})\s*\)|[^\\()\[\]:]+|[:\\]")
_BREAK = re.compile(r"\bBREAK\b")


def emphasis(text: str) -> list[list[tuple[str, float]]]:
    """The sections between the `BREAK`s, each a list of (text, weight); neighbours of equal weight are one.

    A bracket that is never closed counts to the end; one that was never opened is text.
    """
    sections: list[list[tuple[str, float]]] = [[]]
    for piece, weight in _weighted(text):
        if not abs(weight) <= MAX_WEIGHT:
            raise SettingError(
                f"The brackets around {shortened(piece)!r} in the prompt make a weight of {weight:g}; "
                f"take {MAX_WEIGHT:g} at most."
            )
        first, *others = _BREAK.split(piece)
        _append(sections[-1], first.rstrip() if others else first, weight)
        for i, other in enumerate(others, 1):
            sections.append([])
            _append(sections[-1], other.strip() if i < len(others) else other.lstrip(), weight)
    return sections


def _append(section: list[tuple[str, float]], text: str, weight: float) -> None:
    if section and section[-1][1] == weight:
        section[-1] = section[-1][0] + text, weight
    elif text:
        section.append((text, weight))


def _weighted(text: str) -> Iterator[tuple[str, float]]:
    """The text in literal pieces with their weights."""
    tokens = list(_EMPHASIS.finditer(text))
    factors = _bracket_factors(tokens)
    rounds, squares = [1.0], [1.0]  # the product of the open brackets of each kind; the two kinds may overlap
    for i, token in enumerate(tokens):
        piece = token[0]
        if piece == "(":
            rounds.append(rounds[-1] * factors[i])
        elif piece == "[":
            squares.append(squares[-1] / STRONGER)
        elif (piece == ")" or token[1]) and len(rounds) > 1:
            rounds.pop()
        elif piece == "]" and len(squares) > 1:
            squares.pop()
        else:
            escaped = len(piece) == 2 and piece[0] == "\\"
            yield piece[1:] if escaped else piece, rounds[-1] * squares[-1]


def _bracket_factors(tokens: list[re.Match[str]]) -> dict[int, float]:
    """What each round bracket, by the number of its token, multiplies by: it says so where it closes."""
    factors: dict[int, float] = {}
    open_: list[int] = []
    for i, token in enumerate(tokens):
        if token[0] == "(":
            factors[i] = STRONGER
            open_.append(i)
        elif token[1] and open_:
            factors[open_.pop()] = float(token[1])
        elif token[0] == ")" and open_:
            open_.pop()
    return factors
