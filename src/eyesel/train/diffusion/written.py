"""What is left of a run of the painter: weights that others open, and a card that says how they were made."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainingArguments

from eyesel.errors import CheckpointError
from eyesel.stable_diffusion import StableDiffusion
from eyesel.train.card import table, write_card
from eyesel.train.diffusion.buckets import Size
from eyesel.train.diffusion.captions import Sample
from eyesel.train.diffusion.lora_save import FILE, kohya_metadata, save_diffusers, save_kohya
from eyesel.train.diffusion.methods import Prepared
from eyesel.train.diffusion.samples import SHEET
from eyesel.train.diffusion.settings import METHODS, Settings
from eyesel.train.monitor import read_metrics
from eyesel.train.output import METRICS
from eyesel.train.plots import plot_curves
from eyesel.weights.card import read_card
from eyesel.weights.checkpoint import open_painter
from eyesel.weights.diffusers_folder import write_folder
from eyesel.weights.families import pipeline_index
from eyesel.weights.load import StoredModel
from eyesel.weights.painter import Options
from eyesel.weights.save import save_tensors, stored_dtype
from eyesel.weights.views import HeldTensor

LEARNED = "learned_embeds.safetensors"
_WHOLE = ".finished"
_SHOWN = (
    *("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "lr_scheduler_type"),
    *("warmup_steps", "weight_decay", "max_grad_norm", "seed", "bf16", "fp16"),
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """`path` is where the base lies; `base` is what it was called."""

    painter: StableDiffusion
    prepared: Prepared
    settings: Settings
    samples: Sequence[Sample]
    sizes: Sequence[Size]
    args: TrainingArguments
    base: str
    path: Path
    resolution: int
    steps: int
    results: Mapping[str, float]

    def write(self, folder: Path) -> None:
        """All of it, or nothing of the weights."""
        whole = folder / _WHOLE
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        try:
            self._weights(whole, folder.absolute().name)
        except BaseException:
            shutil.rmtree(whole, ignore_errors=True)
            raise
        for path in whole.iterdir():
            target = folder / path.name
            if target.is_dir():  # of a run that was stopped while it wrote
                shutil.rmtree(target)
            path.replace(target)
        whole.rmdir()
        plot_curves(folder / "curves.png", read_metrics(folder / METRICS))
        self._card(folder)

    def _weights(self, folder: Path, title: str) -> None:
        if self.settings.adapts:
            self._loras(folder, title)
        elif self.settings.method == "textual-inversion":
            self._word(folder)
        else:
            self._folder(folder)

    def _loras(self, folder: Path, title: str) -> None:
        dtype, stored, settings = stored_dtype(self.settings.save_precision), self._stored(), self.settings
        assert dtype is not None
        save_diffusers(folder / FILE, self.prepared.loras, dtype)
        metadata = kohya_metadata(
            title=title,
            base=self.base,
            family=stored.family,
            prediction_type=self.prepared.task.objective.prediction_type,
            resolution=self.resolution,
            rank=settings.rank,
            alpha=float(settings.rank if settings.alpha is None else settings.alpha),
            samples=self.samples,
            sizes=self.sizes,
            arguments=self.args,
            steps=self.steps,
            settings=settings.record(),
        )
        config = self.painter.unet.config
        save_kohya(folder / f"{title}.safetensors", self.prepared.loras, config, stored.family, metadata, dtype)

    def _word(self, folder: Path) -> None:
        """diffusers': the word and its vectors; for SDXL those of each text encoder."""
        vectors = [HeldTensor(each.detach().float().cpu()) for each in self.prepared.task.learned]
        names = [str(self.settings.placeholder)] if len(vectors) == 1 else ["clip_l", "clip_g"]
        tensors = dict(zip(names, vectors, strict=True))
        save_tensors(folder / LEARNED, tensors, {"format": "pt"}, stored_dtype(self.settings.save_precision))

    def _folder(self, folder: Path) -> None:
        stored = self._stored()
        task, encoders = self.prepared.task, list(stored.text_encoders)
        unet = _held(self.painter.unet, self.painter.unet.config, stored.unet)
        if self.settings.train_text_encoder:
            own = zip(task.text_encoders, encoders, strict=True)
            encoders = [_held(encoder, each.config, each) for encoder, each in own]
        index = stored.index
        if self.painter.inpaints:
            index = {**index, "_class_name": pipeline_index(stored.family, stored.scheduler, True)["_class_name"]}
        changed = replace(stored, unet=unet, text_encoders=encoders, index=index)
        write_folder(changed, folder, stored_dtype(self.settings.save_precision))
        said = self.path / "generation_config.json"
        if said.is_file():
            shutil.copyfile(said, folder / said.name)

    def _stored(self) -> Any:
        settings = self.settings
        options = Options(
            variant=settings.variant,
            vae=None if settings.vae is None else Path(settings.vae).expanduser(),
            prediction_type=settings.prediction_type,
            zero_terminal_snr=settings.zero_terminal_snr,
        )
        return open_painter(self.path, options)

    def _card(self, folder: Path) -> None:
        settings, name = self.settings, folder.absolute().name
        try:
            licence = read_card(self.path).licence
        except CheckpointError:  # a card that cannot be read says nothing
            licence = None
        own = {each.name: getattr(settings, each.name) for each in fields(settings)}
        own = {each.name: own[each.name] for each in fields(settings) if own[each.name] != each.default}
        length = "max_steps" if self.args.max_steps > 0 else "num_train_epochs"
        shown = {each: getattr(self.args, each) for each in (length, *_SHOWN)}
        kept = sum(sample.prior for sample in self.samples)
        beside = f", beside {kept} of what is to be kept" if kept else ""
        prompts = "".join(f"\n- {prompt}" for prompt in settings.validation_prompt)
        kind = {"lora": ["lora"], "textual-inversion": ["textual_inversion"], "dreambooth": ["dreambooth"]}
        of_the_hub = self.base.count("/") == 1 and not Path(self.base).exists()
        write_card(
            folder,
            name,
            {
                "license": licence,
                "library_name": "diffusers",
                "pipeline_tag": "text-to-image",
                "tags": ["stable-diffusion", "text-to-image", *kind.get(settings.method, []), "eyesel"],
                "base_model": self.base if of_the_hub else None,
                "instance_prompt": settings.instance_prompt,
            },
            {
                "Samples": f"![samples]({SHEET})\n{prompts}" if settings.validation_prompt else "",
                "Training": f"{len(self.samples) - kept} pictures{beside}, method {settings.method}: "
                f"{METHODS[settings.method]}, on the base `{self.base}`.\n\n![loss](curves.png)\n\n"
                + table(("setting", "value"), ((k, _plain(v)) for k, v in {**shown, **own}.items())),
                "Results": table(("measure", "value"), self.results.items()),
                "Use": f"```python\nimport eyesel\n\n{self._use(name)}\n```",
            },
        )

    def _use(self, name: str) -> str:
        if self.settings.adapts:
            return f'easel = eyesel.StableDiffusion.load("{self.base}").with_loras(["{name}"])'
        if self.settings.method == "textual-inversion":
            return (
                f'easel = eyesel.StableDiffusion.load("{self.base}").with_embeddings(["{name}"])\n'
                f'easel.generate("a photo of a {self.settings.placeholder}")'
            )
        return f'easel = eyesel.StableDiffusion.load("{name}")'


def _held(model: nn.Module, config: Any, stored: StoredModel[Any]) -> StoredModel[Any]:
    tensors = {name: HeldTensor(each.detach().cpu().contiguous()) for name, each in model.state_dict().items()}
    return StoredModel(stored.kind, config, tensors, "the trained model")


def _plain(value: Any) -> Any:
    """As a table shows it."""
    return ", ".join(value) if isinstance(value, tuple) else getattr(value, "value", value)
