"""From texts to what a UNet is told: chunks of tokens through the text encoders, weighted, joined again.

The conventions are AUTOMATIC1111's (`sd_hijack_clip.py`, `sd_emphasis.py`), so that its prompts mean here what they
mean there. A text of one chunk without weights gives exactly what the text encoder gives.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eyesel.errors import SettingError
from eyesel.models.clip_text import ClipText
from eyesel.nn.stage import Stage
from eyesel.text.chunks import Chunk, LearnedWords, chunks
from eyesel.text.tokenizer import ClipTokenizer

EMPHASES = {
    "original": "weigh the words, then scale the chunk back to its mean",
    "no norm": "weigh the words and leave it at that, often better for SDXL",
    "ignore": "read the brackets and ignore the weights",
    "none": "brackets are text like any other",
}
ROWS_AT_ONCE = 64


def emphasis_mode(name: str) -> str:
    """One of `EMPHASES`; "No norm", as A1111 writes it, and "no-norm" are read too."""
    mode = name.lower().replace("-", " ").replace("_", " ")
    if mode not in EMPHASES:
        raise SettingError(f"emphasis is {name!r}; choose one of {', '.join(EMPHASES)}.")
    return mode


@dataclass(frozen=True, eq=False)
class EncodedText:
    """What the text encoders make of one text."""

    context: Tensor  # (chunks, N, context_dim)
    pooled: Tensor  # (P,), of the first chunk and the last encoder

    def padded(self, count: int, empty: "EncodedText | None") -> "EncodedText":
        """The same with `count` chunks, those that are missing being the empty text's."""
        missing = [empty.context] * (count - len(self.context)) if empty else []
        return replace(self, context=torch.cat([self.context, *missing]))


Encode = Callable[[Iterable[str]], dict[str, EncodedText]]


class PromptEncoder:
    """The text encoders of a painter with their tokenizers, and the words that they have learned.

    `xl`: the layer before the last is used, as it is; otherwise the last, behind the final norm. `device` is where the
    encoders work.
    """

    def __init__(
        self, encoders: Sequence[ClipText], tokenizers: Sequence[ClipTokenizer], xl: bool, device: torch.device
    ) -> None:
        self.encoders, self.tokenizers, self.xl, self.device = encoders, tokenizers, xl, device
        self.words = LearnedWords()
        self.vectors: list[Tensor | None] = [None] * len(encoders)  # of the learned words, (V, dim) each

    def learn(self, word: str, vectors: Sequence[Tensor]) -> None:
        """Let `word` stand for `vectors`, one tensor (V, dim) for each text encoder: a textual inversion."""
        word = word.strip().lower()
        dims = [encoder.config.dim for encoder in self.encoders]
        vectors = [v.unsqueeze(0) if v.dim() == 1 else v for v in vectors]
        count = len(vectors[0]) if vectors else 0
        room = min(tokenizer.max_length for tokenizer in self.tokenizers) - 2
        if not word:
            raise SettingError("A learned word needs a name to be called by in prompts.")
        if [tuple(v.shape) for v in vectors] != [(count, dim) for dim in dims] or not 1 <= count <= room:
            shapes = ", ".join(str(tuple(v.shape)) for v in vectors)
            raise SettingError(
                f"The vectors of {word!r} have the shapes {shapes or 'of nothing'}; this model takes 1 to {room} "
                f"vectors of {' and '.join(map(str, dims))} numbers, so the word belongs to another one."
            )
        known = 0 if self.vectors[0] is None else len(self.vectors[0])
        added = [v.to(e.token_embedding.weight) for v, e in zip(vectors, self.encoders, strict=True)]
        self.vectors = [v if old is None else torch.cat([old, v]) for old, v in zip(self.vectors, added, strict=True)]
        self.words = LearnedWords({**self.words.ids, word: range(-known - 1, -known - count - 1, -1)})

    def version(
        self, encoders: Sequence[ClipText], words: Iterable[tuple[str, Sequence[Tensor]]] = ()
    ) -> "PromptEncoder":
        """Another one, with other encoders of the same shape, that knows the same words and some more."""
        other = copy.copy(self)
        other.encoders = encoders
        for word, vectors in words:
            other.learn(word, vectors)
        return other

    def encode(
        self, texts: Iterable[str], clip_skip: int | None = None, emphasis: str = "original"
    ) -> dict[str, EncodedText]:
        """Each text once. `clip_skip` counts layers from the end, 1 being the last."""
        texts, mode = list(dict.fromkeys(texts)), emphasis_mode(emphasis)
        skip = self._check_skip(clip_skip)
        rows = [
            [chunks(text, tokenizer, mode != "none", self.words) for text in texts] for tokenizer in self.tokenizers
        ]
        counts = [max(map(len, of_each)) for of_each in zip(*rows, strict=True)]  # chunks of each text
        contexts, pooled = [], torch.empty(0)
        for encoder, tokenizer, vectors, own in zip(self.encoders, self.tokenizers, self.vectors, rows, strict=True):
            (empty,) = chunks("", tokenizer)
            all_rows = [row for some, n in zip(own, counts, strict=True) for row in [*some, *[empty] * (n - len(some))]]
            hidden, pooled = self._run(encoder, all_rows, skip, vectors)
            if mode in ("original", "no norm"):
                weights = torch.tensor([row.weights for row in all_rows], device=hidden.device)
                hidden = weighted(hidden, weights, restore_mean=mode == "original")
            contexts.append(hidden)
        first = torch.tensor([0, *counts[:-1]], device=pooled.device).cumsum(0)
        context = torch.cat(contexts, dim=-1).split(counts)
        return {text: EncodedText(c, p) for text, c, p in zip(texts, context, pooled[first], strict=True)}

    def _check_skip(self, clip_skip: int | None) -> int:
        if clip_skip is None:
            return 2 if self.xl else 1
        depth = min(encoder.config.depth for encoder in self.encoders)
        if not isinstance(clip_skip, int) or not 1 <= clip_skip <= depth:
            raise SettingError(f"clip_skip is {clip_skip!r}; this text encoder takes 1 (its last layer) to {depth}.")
        return clip_skip

    def _run(self, encoder: ClipText, rows: list[Chunk], skip: int, vectors: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens (R, N, dim) and pooled (R, P) of all rows."""
        ids = torch.tensor([row.ids for row in rows], device=self.device)
        learned = None if vectors is None else vectors.to(self.device)

        def use(encoder: ClipText, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
            parts = [encoder(part, skip, learned) for part in ids.split(ROWS_AT_ONCE)]
            hidden = torch.cat([part.hidden for part in parts])
            return hidden if self.xl else encoder.final_layer_norm(hidden), torch.cat([part.pooled for part in parts])

        with torch.inference_mode():
            return Stage(encoder, self.device).run(use)


def weighted(hidden: Tensor, weights: Tensor, restore_mean: bool) -> Tensor:
    """Every token (R, N, dim) times its weight (R, N), and each row back to the mean that it had."""
    rows = (weights != 1).any(dim=1)
    if not rows.any():
        return hidden
    before = hidden[rows].float()
    after = before * weights[rows].unsqueeze(-1)
    if restore_mean:
        after = after * (before.mean(dim=(1, 2), keepdim=True) / after.mean(dim=(1, 2), keepdim=True))
    after = after.to(hidden.dtype)
    if not after.isfinite().all():
        raise SettingError("The weights of the prompt are too extreme: lower them, or set emphasis to 'no norm'.")
    return hidden.masked_scatter(rows[:, None, None], after)
