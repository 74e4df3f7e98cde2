"""A text of any length in chunks that a text encoder can read, with a weight for every token.

CLIP reads 77 tokens: the start, 75 of the text, and the end. Longer texts are cut as AUTOMATIC1111 cuts them
(`sd_hijack_clip.py`): where a chunk is full, behind its last comma if that is among its last 20 tokens; and at every
BREAK.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from eyesel.text.prompt import check_text, emphasis
from eyesel.text.tokenizer import ClipTokenizer

COMMA_BACKTRACK = 20  # tokens


class Token(NamedTuple):
    id: int
    weight: float
    joined: bool = False  # one more vector of the learned word before it, not to be cut off


@dataclass(frozen=True)
class Chunk:
    """One row for the text encoder: the start, the tokens, the end, and padding; all but the tokens weigh 1."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class LearnedWords:
    """Words that stand for learned vectors (Gal et al. 2022, textual inversion) instead of tokens of the vocabulary.

    `ids` are negative, one for each vector: -1, -2, ... A word is found wherever it stands alone, in any case.
    """

    ids: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def split(self, text: str) -> Iterator[tuple[str, Sequence[int]]]:
        """(text, ids) pieces, one of the two empty."""
        if not self.ids:
            yield text, ()
            return
        words = sorted(self.ids, key=len, reverse=True)
        end = 0
        for match in re.finditer("|".join(rf"(?<!\w)({re.escape(w)})(?!\w)" for w in words), text, re.IGNORECASE):
            yield text[end : match.start()], ()
            yield "", self.ids[words[(match.lastindex or 1) - 1]]
            end = match.end()
        yield text[end:], ()


NO_WORDS = LearnedWords()


def chunks(text: str, tokenizer: ClipTokenizer, weighted: bool = True, words: LearnedWords = NO_WORDS) -> list[Chunk]:
    """At least one chunk. Without `weighted`, brackets and BREAK are text like any other."""
    check_text(text)
    room = tokenizer.max_length - 2
    sections = emphasis(text) if weighted else [[(text, 1.0)]]
    if len(sections) > 1 and not sections[-1]:
        del sections[-1]  # a BREAK at the end starts nothing
    return [
        _row(chunk, tokenizer)
        for section in sections
        for chunk in cut(_tokens(section, tokenizer, words), room, tokenizer.comma_id)
    ]


def cut(tokens: list[Token], room: int, comma: int | None, backtrack: int = COMMA_BACKTRACK) -> Iterator[list[Token]]:
    """Pieces of at most `room` tokens."""
    start = 0
    while len(tokens) - start > room:
        end = start + room
        if tokens[end].joined:
            while tokens[end].joined:
                end -= 1
        elif tokens[end].id != comma:
            nearby = range(end - 1, max(start, end - backtrack) - 1, -1)
            end = next((i + 1 for i in nearby if tokens[i].id == comma), end)
        yield tokens[start:end]
        start = end
    yield tokens[start:]


def _tokens(section: list[tuple[str, float]], tokenizer: ClipTokenizer, words: LearnedWords) -> list[Token]:
    tokens = []
    for text, weight in section:
        for piece, learned in words.split(text):
            tokens += [Token(id_, weight) for id_ in tokenizer.ids(piece)]
            tokens += [Token(id_, weight, joined=i > 0) for i, id_ in enumerate(learned)]
    return tokens


def _row(tokens: list[Token], tokenizer: ClipTokenizer) -> Chunk:
    padding = tokenizer.max_length - 2 - len(tokens)
    return Chunk(
        [tokenizer.bos_id, *(token.id for token in tokens), tokenizer.eos_id, *[tokenizer.pad_id] * padding],
        [1.0, *(token.weight for token in tokens), 1.0, *[1.0] * padding],
    )
