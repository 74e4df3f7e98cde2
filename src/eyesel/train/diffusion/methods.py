"""From a painter and a method to the task that trains it: what of it is trained, and what it is made of."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from eyesel.diffusion import NoiseSchedule, from_scheduler_config
from eyesel.errors import SettingError
from eyesel.models.unet import UNet
from eyesel.stable_diffusion import StableDiffusion
from eyesel.text.chunks import NO_WORDS, LearnedWords
from eyesel.train.diffusion.lora import add_loras
from eyesel.train.diffusion.lora_save import Loras
from eyesel.train.diffusion.objective import Objective, Weighting
from eyesel.train.diffusion.settings import Settings
from eyesel.train.diffusion.task import PainterTask
from eyesel.weights.lora_spelling import PARTS


@dataclass(frozen=True)
class Prepared:
    """What is trained, and the parts of it that are saved."""

    task: PainterTask
    loras: Loras = field(default_factory=dict)
    words: LearnedWords = NO_WORDS


def noise_schedule(painter: StableDiffusion) -> NoiseSchedule:
    """What the base was trained on, by its scheduler_config.json."""
    schedule = from_scheduler_config(painter.scheduler, None, None, None, xl=painter.is_xl).training
    if schedule.rescale_betas_zero_snr and schedule.prediction_type == "epsilon":
        raise SettingError(
            "the base is said to predict the noise up to zero terminal SNR, where there is nothing else to see: name "
            "prediction_type v_prediction, or take zero_terminal_snr back."
        )
    return schedule


def prepare(painter: StableDiffusion, settings: Settings, seed: int) -> Prepared:
    """The task of a method. The painter's models become its own, and change while it is trained."""
    schedule = noise_schedule(painter)
    for model in (painter.unet, painter.autoencoder, *painter.text_encoders):
        model.requires_grad_(False)
    unet = painter.unet
    if settings.method == "inpaint" and not painter.inpaints:
        unet = painter.unet = widened(unet, painter.autoencoder.config.latent_channels)
    generator = torch.Generator().manual_seed(seed)
    loras: dict[str, dict] = {}
    words = NO_WORDS
    learned: list[Tensor] = []
    if settings.adapts:
        alpha = float(settings.rank if settings.alpha is None else settings.alpha)
        models = (unet, *(painter.text_encoders if settings.train_text_encoder else ()))
        for part, model in zip(PARTS, models, strict=False):
            loras[part] = add_loras(model, settings.targets, settings.rank, alpha, generator)
    elif settings.method == "textual-inversion":
        words, learned = new_word(painter, settings)
    else:
        _train_all(unet)
        for encoder in painter.text_encoders if settings.train_text_encoder else ():
            _train_all(encoder)
    task = PainterTask(
        unet,
        painter.text_encoders,
        Objective(schedule, Weighting(settings.snr_gamma)),
        painter.autoencoder if painter.inpaints else None,
        learned,
        painter.is_xl,
    )
    return Prepared(task.train(), loras, words)


def _train_all(model: nn.Module) -> None:
    """Weights that were views of their file become memory of their own."""
    for parameter in model.parameters():
        parameter.data = parameter.detach().clone()
        parameter.requires_grad_(True)


def widened(unet: UNet, latents: int) -> UNet:
    """The same UNet with room for a mask and masked latents behind its input, which begin without weight."""
    config = replace(unet.config, in_channels=2 * latents + 1)
    warnings.warn(
        f"the base does not repaint: its first layer was widened from {unet.config.in_channels} to "
        f"{config.in_channels} channels, the new ones at zero",
        stacklevel=2,
    )
    first = nn.Conv2d(config.in_channels, config.channels[0], 3, padding=1).to(unet.conv_in.weight)
    with torch.no_grad():
        first.weight.zero_()
        first.weight[:, : unet.config.in_channels] = unet.conv_in.weight
        first.bias.copy_(unet.conv_in.bias)  # type: ignore[union-attr, arg-type]
    unet.config, unet.conv_in = config, first
    return unet


def new_word(painter: StableDiffusion, settings: Settings) -> tuple[LearnedWords, list[Tensor]]:
    """The placeholder's tokens, and the vectors of the initializer to begin from, in turn where more are asked for."""
    word, initializer = str(settings.placeholder).strip(), str(settings.initializer)
    if not word or any(character.isspace() for character in word):
        raise SettingError(f"placeholder is {settings.placeholder!r}; it must be one word, such as <cat-toy>.")
    if all(len(tokenizer.ids(word)) == 1 for tokenizer in painter.tokenizers):
        raise SettingError(f"placeholder is {word!r}, a word that the base knows: take a new one, such as <{word}>.")
    found: list[Sequence[int]] = [tokenizer.ids(initializer) for tokenizer in painter.tokenizers]
    if any(not ids for ids in found):
        raise SettingError(f"initializer is {initializer!r}; it must be a word, such as toy.")
    count = len(found[0]) if settings.vectors is None else settings.vectors
    room = painter.tokenizers[0].max_length - 2
    if count > room:
        raise SettingError(f"vectors is {count}; a prompt has room for {room}.")
    learned = []
    for ids, encoder in zip(found, painter.text_encoders, strict=True):
        rows = torch.tensor([ids[i % len(ids)] for i in range(count)], device=encoder.token_embedding.weight.device)
        learned.append(encoder.token_embedding.weight.detach()[rows].clone())
    return LearnedWords({word.lower(): range(-1, -count - 1, -1)}), learned


def painting(painter: StableDiffusion, prepared: Prepared) -> StableDiffusion:
    """The painter as it is now trained, which shares its weights."""
    if not prepared.words.ids:
        return painter
    other = painter._version(painter.unet, painter.text_encoders, ())
    [word] = prepared.words.ids
    other.prompt_encoder.learn(word, [vectors.detach().clone() for vectors in prepared.task.learned])
    return other
