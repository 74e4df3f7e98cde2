"""What a painter learns besides its checkpoint: LoRAs, words of textual inversions, and pictures that it is shown.

Each makes another painter, which shares every weight that is not changed.
"""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from eyesel.easel import Easel
from eyesel.errors import CheckpointError, SettingError
from eyesel.models.clip_text import ClipText
from eyesel.models.image_blocks import Blocks
from eyesel.models.unet import UNet
from eyesel.text.prompt import loras as tags
from eyesel.weights.ip_adapter import with_image_prompt
from eyesel.weights.lora import LoraLike, lora_file, with_loras
from eyesel.weights.textual_inversion import Embedding, open_embedding


class AdaptableEasel(Easel):
    """An easel, and the others that can be made of it."""

    def with_loras(self, loras: Sequence[LoraLike], fuse: bool = True) -> Self:
        """Another painter, with LoRAs applied; this one stays as it is, and they share whatever is not changed.

        A LoRA is a path, (path, weight) or (path, text weight, UNet weight), of any family: kohya's, LyCORIS',
        diffusers' or PEFT's. `fuse` makes new weights; without it the LoRAs' factors stay apart, which takes a few
        megabytes instead of a second set of weights, and is a little slower. Raises `CheckpointError`.
        """
        other = self._adapted(loras, fuse)
        added = [[str(lora.path), lora.text_weight, lora.both[1]] for lora in map(lora_file, loras)]
        other.remarks = {**self.remarks, "loras": [*self.remarks.get("loras", []), *added]}
        return other

    def _adapted(self, loras: Sequence[LoraLike], fuse: bool = True) -> Self:
        adapted = with_loras(self.unet, self.text_encoders, loras, fuse)
        return self._version(adapted.unet, adapted.text_encoders, adapted.words)

    def asked_for(
        self, prompts: Sequence[str], negative: str | None = None, loras: Sequence[LoraLike] = ()
    ) -> tuple[Self, list[str]]:
        """The painter with `loras` and what prompts ask for besides, and the prompts without their `<lora:...>`.

        LoRAs and the words of textual inversions are looked up in the folder of models.
        """
        read = [tags(prompt) for prompt in prompts]  # which also refuses what is no text
        if not prompts or any(not prompt.strip() for prompt in prompts):
            raise SettingError("The prompt is empty: say what to paint.")
        wanted = read[0][1]
        if any(others != wanted for _, others in read):
            raise SettingError("These prompts ask for different LoRAs: paint them in calls of their own.")
        _, avoided = tags(negative or "")
        if avoided:
            raise SettingError(f"The negative prompt asks for the LoRA {avoided[0].name!r}: ask for it in the prompt.")
        if wanted and self.library is None:
            raise SettingError(
                f"The prompt asks for the LoRA {wanted[0].name!r}, and there is no folder to find it in: name one with "
                "models_dir (--models-dir) or the environment variable EYESEL_MODELS."
            )
        painter, said = self, [text for text, _ in read]
        if self.library is not None:
            if tagged := self.library.loras_of(wanted):  # which the prompt itself records
                painter = painter._adapted(tagged)
            learned = self._fitting(self.library.embeddings_in(*said, negative or ""))
            painter = painter.with_embeddings(learned) if learned else painter
        return painter.with_loras(loras) if loras else painter, said

    def _fitting(self, files: Sequence[Path]) -> list[Embedding]:
        """The embeddings that were made for text encoders like these; of the others the word is a word."""
        fitting, dims = [], tuple(encoder.config.dim for encoder in self.text_encoders)
        for file in files:
            if file.stem.lower() in self.prompt_encoder.words.ids:
                continue
            try:
                embedding = open_embedding(file)
            except CheckpointError as error:
                warnings.warn(f"{file.stem!r} is a word: {error}", stacklevel=2)
                continue
            if embedding.widths == dims:
                fitting.append(embedding)
            else:
                made_for = embedding.base or "another model"
                warnings.warn(f"{embedding.where} is for {made_for}: {embedding.words[0]!r} is a word", stacklevel=2)
        return fitting

    def with_embeddings(self, embeddings: Sequence[str | Path | Embedding]) -> Self:
        """Another painter, which shares everything with this one and knows the words of textual inversions besides.

        A word is the stem of its file and, in files of diffusers, the token that they name. Raises `CheckpointError`.
        """
        if isinstance(embeddings, str | Path):
            raise SettingError(f"embeddings are a list, such as [{str(embeddings)!r}].")
        opened = [each if isinstance(each, Embedding) else open_embedding(each) for each in embeddings]
        other = self._version(self.unet, self.text_encoders, opened)
        words = [embedding.words[0] for embedding in opened]
        other.remarks = {**self.remarks, "embeddings": [*self.remarks.get("embeddings", []), *words]}
        return other

    def with_image_prompt(
        self,
        adapter: str | Path,
        image: Any,
        scale: float = 1.0,
        blocks: Blocks = "all",
        image_encoder: str | Path | None = None,
    ) -> Self:
        """Another painter, which is told of pictures besides the prompt, by an IP-Adapter; it shares all its weights.

        `adapter` is a `.safetensors` or `.bin` file, plain, plus or of faces (but not FaceID); `image` what
        `open_image` takes, or a list of several that are shown together; `image_encoder` the folder or file of CLIP's
        image encoder, by default the folder of that name beside the adapter. `scale` weighs pictures against words: 1
        is much, 0.5 balanced. `blocks` says where: "all", "style", "layout", "style+layout", or numbers by block as
        diffusers has them, {"down": {"block_2": [0, 1]}, "up": {"block_0": [0, 1, 0]}}. A second adapter is added to
        the first. Raises `CheckpointError` for adapters of another model or image encoder.
        """
        other = copy.copy(self)
        other.unet, prompt = with_image_prompt(self.unet, adapter, image, scale, blocks, image_encoder)
        other.image_prompts = (*self.image_prompts, prompt)
        return other

    def _version(self, unet: UNet, text_encoders: list[ClipText], words: Sequence[Embedding]) -> Self:
        dims = [encoder.config.dim for encoder in text_encoders]
        learned = [(word, each.vectors_for(dims)) for each in words for word in each.words]
        other = copy.copy(self)
        other.unet, other.text_encoders = unet, text_encoders
        other.prompt_encoder = self.prompt_encoder.version(text_encoders, learned)
        return other
