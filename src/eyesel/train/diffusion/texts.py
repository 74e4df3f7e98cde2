"""What a text encoder reads in one draw: a caption dropped, shuffled, or made from a template, as rows of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eyesel.text.chunks import NO_WORDS, Chunk, LearnedWords, chunks
from eyesel.text.tokenizer import ClipTokenizer

# Of diffusers' textual_inversion.py, which has them from the authors (Gal et al. 2022, appendix).
TEMPLATES = {
    "object": (
        "a photo of a {}", "a rendering of a {}", "a cropped photo of the {}", "the photo of a {}",
        "a photo of a clean {}", "a photo of a dirty {}", "a dark photo of the {}", "a photo of my {}",
        "a photo of the cool {}", "a close-up photo of a {}", "a bright photo of the {}", "a cropped photo of a {}",
        "a photo of the {}", "a good photo of the {}", "a photo of one {}", "a close-up photo of the {}",
        "a rendition of the {}", "a photo of the clean {}", "a rendition of a {}", "a photo of a nice {}",
        "a good photo of a {}", "a photo of the nice {}", "a photo of the small {}", "a photo of the weird {}",
        "a photo of the large {}", "a photo of a cool {}", "a photo of a small {}",
    ),
    "style": (
        "a painting in the style of {}", "a rendering in the style of {}", "a cropped painting in the style of {}",
        "the painting in the style of {}", "a clean painting in the style of {}", "a dirty painting in the style of {}",
        "a dark painting in the style of {}", "a picture in the style of {}", "a cool painting in the style of {}",
        "a close-up painting in the style of {}", "a bright painting in the style of {}",
        "a good painting in the style of {}", "a rendition in the style of {}", "a nice painting in the style of {}",
        "a small painting in the style of {}", "a weird painting in the style of {}",
        "a large painting in the style of {}",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Wording:
    """How captions are said. `dropout` is the share that is left out altogether, for guidance (Ho & Salimans 2022);
    `shuffle` changes the order of tags between commas, all but the first `keep`.
    """

    dropout: float = 0.0
    shuffle: bool = False
    keep: int = 0
    templates: tuple[str, ...] = ()
    word: str = ""

    @property
    def fixed(self) -> bool:
        """Whether a caption is the same in every epoch, but for being dropped."""
        return not self.shuffle and not self.templates

    def draw(self, caption: str | None, rng: np.random.Generator) -> str | None:
        """What is said this time; None for nothing."""
        dropped, template = rng.random() < self.dropout, rng.random()
        if dropped:
            return None
        if caption is None:
            return self.templates[int(template * len(self.templates))].format(self.word)
        if not self.shuffle:
            return caption
        tags = [tag.strip() for tag in caption.split(",") if tag.strip()]
        kept, rest = tags[: self.keep], tags[self.keep :]
        return ", ".join([*kept, *(rest[i] for i in rng.permutation(len(rest)))])


@dataclass(frozen=True)
class Reader:
    """Texts as ids, one tensor for each text encoder; longer ones are cut. Brackets are text like any other."""

    tokenizers: Sequence[ClipTokenizer]
    count: int = 1
    words: LearnedWords = NO_WORDS

    def ids(self, text: str) -> list[Tensor]:
        """(count, N) of each tokenizer."""
        found = []
        for tokenizer in self.tokenizers:
            rows = [chunk.ids for chunk in self._chunks(text, tokenizer)[: self.count]]
            empty = self._chunks("", tokenizer)[0].ids
            found.append(torch.tensor([*rows, *[empty] * (self.count - len(rows))]))
        return found

    def is_cut(self, text: str) -> bool:
        return any(len(self._chunks(text, tokenizer)) > self.count for tokenizer in self.tokenizers)

    def _chunks(self, text: str, tokenizer: ClipTokenizer) -> list[Chunk]:
        return chunks(text, tokenizer, weighted=False, words=self.words)
