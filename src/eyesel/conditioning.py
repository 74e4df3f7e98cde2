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
from eyesel.text.chunks import Chunk, LearnedWords, chunks
from eyesel.text.prompt import Subprompt, parse
from eyesel.text.schedule import schedule
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

    `xl`: the layer before the last is used, as it is; otherwise the last, behind the final norm.
    """

    def __init__(self, encoders: Sequence[ClipText], tokenizers: Sequence[ClipTokenizer], xl: bool) -> None:
        self.encoders, self.tokenizers, self.xl = encoders, tokenizers, xl
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
        ids = torch.tensor([row.ids for row in rows], device=encoder.token_embedding.weight.device)
        with torch.inference_mode():
            parts = [encoder(part, skip, vectors) for part in ids.split(ROWS_AT_ONCE)]
            hidden = torch.cat([part.hidden for part in parts])
            return hidden if self.xl else encoder.final_layer_norm(hidden), torch.cat([part.pooled for part in parts])


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


class Script:
    """The prompts of a run, parsed and encoded: what is said about each image, and in which step.

    Row r of what is wanted speaks for image `images[r]` with `weights[r]`; an `AND` gives an image several rows. All
    rows of an image get equally many chunks, whatever the batch holds besides, so that it is the same picture alone.
    """

    def __init__(self, prompts: Sequence[str], negative: str, steps: int, encode: Encode) -> None:
        parsed = {prompt: parse(prompt, steps) for prompt in prompts}
        rows = [(image, subprompt) for image, prompt in enumerate(prompts) for subprompt in parsed[prompt]]
        self.images = [image for image, _ in rows]
        self.weights = [subprompt.weight for _, subprompt in rows]
        self._wanted = [subprompt for _, subprompt in rows]
        self._avoided = Subprompt(1.0, tuple(schedule(negative, steps)))
        self._encoded = encode(text for subprompt in self._wanted for text in subprompt.texts)
        self._encoded_negative = encode(self._avoided.texts)

        # chunks of each image: as many as the longest of all that is ever said about it
        self.chunks = [max(len(text.context) for text in self._encoded_negative.values())] * len(prompts)
        for image, subprompt in rows:
            self.chunks[image] = max(self.chunks[image], *(len(self._encoded[t].context) for t in subprompt.texts))
        self._empty = encode([""])[""] if max(self.chunks) > 1 else None

    def at(self, step: int) -> tuple[str, ...]:
        """The negative text, and the text of each row, in `step`, counted from 1."""
        return (self._avoided.at(step), *(subprompt.at(step) for subprompt in self._wanted))

    def conditional(self, step: int) -> list[EncodedText]:
        """One for each row."""
        _, *texts = self.at(step)
        counts = [self.chunks[image] for image in self.images]
        return [self._encoded[text].padded(n, self._empty) for text, n in zip(texts, counts, strict=True)]

    def unconditional(self, step: int) -> list[EncodedText]:
        """One for each image."""
        text = self._encoded_negative[self._avoided.at(step)]
        return [text.padded(n, self._empty) for n in self.chunks]


def by_length(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A network for rows of context of different `length`: those of equal length go through it together."""

    def grouped(x: Tensor, t: Tensor, context: Tensor, length: Tensor | None = None, **added: Tensor) -> Tensor:
        if length is None:
            return network(x, t, context, **added)
        groups = [((length == n).nonzero().squeeze(1), n) for n in length.unique().tolist()]
        outputs = [
            network(x[rows], t[rows], context[rows, :n], **{name: value[rows] for name, value in added.items()})
            for rows, n in groups
        ]
        return torch.cat(outputs)[torch.cat([rows for rows, _ in groups]).argsort()]

    return grouped
