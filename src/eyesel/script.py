"""The script of a run: what the network is told about each image, in every step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from eyesel.conditioning import Encode, EncodedText
from eyesel.diffusion import Composition
from eyesel.models.ip_adapter import ImagePrompt
from eyesel.models.unet import UNetConfig
from eyesel.text.prompt import Subprompt, parse
from eyesel.text.schedule import schedule

Said = tuple[str, ...]  # the negative text, and the text of each row


class Script:
    """The prompts of a run, parsed and encoded: what is said about each image, and in which step.

    Row r of what is wanted speaks for image `images[r]` with `weights[r]`; an `AND` gives an image several rows. All
    rows of an image get equally many chunks, whatever the batch holds besides, so that it is the same picture alone;
    where the images are `aligned` with each other, all rows of the batch do.
    """

    def __init__(
        self, prompts: Sequence[str], negative: str, steps: int, encode: Encode, aligned: bool = False
    ) -> None:
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
        if aligned:
            self.chunks = [max(self.chunks)] * len(prompts)
        self._empty = encode([""])[""] if max(self.chunks) > 1 else None

    def at(self, step: int) -> Said:
        """What is said in `step`, counted from 1."""
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


AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5  # what the refiner of SDXL is told of good and of bad pictures


@dataclass(frozen=True)
class Inputs:
    """Texts as the rows of a batch of the UNet: `context`, its `length` if rows differ, for SDXL `pooled` and `sizes`,
    and `image_0`, `image_1`, ... for what adapters add.

    `zero`: the negative prompt, being none, is zeros, as SDXL was trained, and not the empty text.
    """

    config: UNetConfig
    size: tuple[int, int]  # of the picture, width and height in pixels
    zero: bool = False
    image_prompts: Sequence[ImagePrompt] = ()

    def conditional(self, texts: Sequence[EncodedText]) -> dict[str, Tensor]:
        rows = self._rows(texts, AESTHETIC_SCORE)
        return rows | {f"image_{i}": p.tokens.expand(len(texts), -1, -1) for i, p in enumerate(self.image_prompts)}

    def unconditional(self, texts: Sequence[EncodedText]) -> dict[str, Tensor]:
        rows = self._rows(texts, NEGATIVE_AESTHETIC_SCORE)
        if self.zero:
            rows |= {name: torch.zeros_like(rows[name]) for name in ("context", "pooled")}
        return rows | {f"image_{i}": p.nothing.expand(len(texts), -1, -1) for i, p in enumerate(self.image_prompts)}

    def _rows(self, texts: Sequence[EncodedText], score: float) -> dict[str, Tensor]:
        contexts = [text.context.flatten(0, 1) for text in texts]  # (chunks, N, dim) -> (chunks · N, dim)
        lengths = [len(context) for context in contexts]
        rows = {"context": pad_sequence(contexts, batch_first=True)}
        device = rows["context"].device
        if len(set(lengths)) > 1:
            rows["length"] = torch.tensor(lengths, device=device)
        if self.config.size_dim and self.config.added_dim:
            width, height = self.size
            rows["pooled"] = torch.stack([text.pooled for text in texts])
            refiner = self.config.added_dim == rows["pooled"].shape[1] + 5 * self.config.size_dim
            end = [score] if refiner else [height, width]
            sizes = [[height, width, 0, 0, *end]] * len(texts)
            rows["sizes"] = torch.tensor(sizes, dtype=torch.float32, device=device)
        return rows

    def of(self, script: Script, steps: int) -> "dict[Said, tuple[dict[str, Tensor], dict[str, Tensor]]]":
        """The network's conditional and unconditional inputs, for each thing that is said in the course of a run."""
        return {
            said: (self.conditional(script.conditional(step)), self.unconditional(script.unconditional(step)))
            for said, step in {script.at(step): step for step in range(1, steps + 1)}.items()
        }


def composition(script: Script, device: torch.device) -> Composition | None:
    """How the rows of each image add up, if some image has several."""
    if len(script.images) == len(script.chunks):
        return None
    return Composition(torch.tensor(script.images, device=device), torch.tensor(script.weights, device=device))
