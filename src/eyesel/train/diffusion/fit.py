"""Fine-tuning of the easel on one's own pictures, by one of five methods."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainingArguments

from eyesel.errors import ImageError, SettingError
from eyesel.stable_diffusion import StableDiffusion
from eyesel.stylize.inversions import fingerprint
from eyesel.text.chunks import LearnedWords
from eyesel.train.arguments import training_arguments
from eyesel.train.diffusion.buckets import Bucketed, Buckets
from eyesel.train.diffusion.cache import Cache
from eyesel.train.diffusion.captions import Sample, read_samples
from eyesel.train.diffusion.dataset import Drawing, Drawn, collate
from eyesel.train.diffusion.encode import encoded, encoded_texts
from eyesel.train.diffusion.methods import new_word, noise_schedule, painting, prepare
from eyesel.train.diffusion.prior import balanced, captioned_samples, check_apart, class_samples
from eyesel.train.diffusion.samples import Samples
from eyesel.train.diffusion.settings import NAMES, Settings
from eyesel.train.diffusion.texts import TEMPLATES, Reader, Wording
from eyesel.train.diffusion.written import Outcome
from eyesel.train.output import Output, seen
from eyesel.train.pictures import Pictures, about_skipped, opened
from eyesel.train.trainer import Trainer
from eyesel.weights.hub import resolve

CLASS_FOLDER = "class"
_USUAL: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "logging_steps": 10,
    "save_steps": 500,
    "save_total_limit": 2,
    "report_to": "none",
    "dataloader_pin_memory": False,
}
_NOTHING = {"eval_strategy": "no", "load_best_model_at_end": False, "label_smoothing_factor": 0.0}
# Learning rate and steps, as the READMEs of diffusers' scripts advise; that of textual inversion has a rate of 5e-4,
# times a batch of four (--scale_lr).
_BY_METHOD = {
    "full": (1e-5, 2000),
    "lora": (1e-4, 1000),
    "dreambooth": (5e-6, 800),
    "textual-inversion": (2e-3, 3000),
    "inpaint": (5e-6, 2000),
}


def diffusion_arguments(output: str | Path, settings: Settings, said: Mapping[str, Any]) -> TrainingArguments:
    """TrainingArguments with a method's defaults; an asked-for number of epochs takes the place of its steps."""
    rate, steps = _BY_METHOD["lora" if settings.adapts else settings.method]
    # of the text encoders of SDXL, a UNet does not hear the last layers
    usual = {**_USUAL, "learning_rate": rate, "ddp_find_unused_parameters": settings.train_text_encoder}
    if "num_train_epochs" not in said:
        usual["max_steps"] = steps
    return training_arguments(output, usual, said, NAMES)


def fit_diffusion(
    data: str | Path,
    output: str | Path,
    base: str | Path = "tiny",
    *,
    resume: bool = False,
    force: bool = False,
    **settings: Any,
) -> StableDiffusion:
    """Fine-tune `base` on the pictures and captions of the folder `data`, and open what came out, in `output`.

    `settings` are fields of `Settings`, `method` the first of them, and of transformers' TrainingArguments. `resume`
    goes on with a run that was stopped, `force` replaces one. Raises `EyeselError`.
    """
    own: dict[str, Any] = {name: settings.pop(name) for name in NAMES if name in settings}
    prompts = own.get("validation_prompt", ())
    own["validation_prompt"] = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    chosen = Settings(**own)
    train_diffusion(data, diffusion_arguments(output, chosen, settings), str(base), chosen, resume, force)
    if chosen.adapts or chosen.method == "textual-inversion":
        painter = load_base(str(base), chosen)
        return painter.with_loras([output]) if chosen.adapts else painter.with_embeddings([output])
    return StableDiffusion.load(output)


def load_base(base: str, settings: Settings, **others: Any) -> StableDiffusion:
    return StableDiffusion.load(
        base,
        variant=settings.variant,
        vae=settings.vae,
        prediction_type=settings.prediction_type,
        zero_terminal_snr=settings.zero_terminal_snr,
        offline=settings.offline,
        **others,
    )


def train_diffusion(
    data: str | Path,
    args: TrainingArguments,
    base: str,
    settings: Settings,
    resume: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """The same from ready arguments; gives the metrics, in every process of a run."""
    first = args.process_index == 0
    for name, usual in _NOTHING.items():
        if getattr(args, name) != usual:
            raise SettingError(
                f"{name} does nothing here, where a validation loss would say little: leave it out, and look at what "
                "validation_prompt paints."
            )
    check_apart(data, str(args.output_dir), settings)
    painter = load_base(base, settings, device=str(args.device), precision="float32")
    buckets = buckets_for(painter, settings)
    check(painter, settings)
    told, notes = data_samples(data, settings)
    prior, of_prior = captioned_samples(settings)
    pictures, told, skipped = opened_samples(told, settings.strict)
    check_sizes(pictures, buckets)
    if first:
        _say(*notes, *of_prior, *about_skipped(skipped))
    models = [painter.unet, painter.autoencoder, *painter.text_encoders]
    record = {
        "task": "diffusion",
        "data": str(Path(data).expanduser().absolute()),
        "base": base,
        "weights": fingerprint(models),
        "pictures": seen(pictures.sources, ((each.caption, each.repeats) for each in told)),
        **({"kept": seen([each.path for each in prior], ((e.caption, e.repeats) for e in prior))} if prior else {}),
        **settings.record(),
    }
    reads = [data, base, settings.class_data, settings.cache, settings.vae]
    begun = Output.begin(args, record, resume, force, reads)
    if begun.finished:
        return {}
    with begun.kept():
        return _run(painter, buckets, told, prior, pictures, args, base, settings, begun)


def _run(
    painter: StableDiffusion,
    buckets: Buckets,
    told: Sequence[Sample],
    prior: list[Sample],
    pictures: Pictures,
    args: TrainingArguments,
    base: str,
    settings: Settings,
    begun: Output,
) -> dict[str, Any]:
    first, seed = args.process_index == 0, args.seed if args.data_seed is None else args.data_seed
    samples = told = [sample for sample in told for _ in range(settings.repeats * sample.repeats)]
    if settings.class_prompt:
        folder = begun.folder / CLASS_FOLDER if settings.class_data is None else Path(settings.class_data).expanduser()
        with PartialState().main_process_first():
            prior = class_samples(painter, folder, settings.class_prompt, settings.class_pictures, buckets.resolution)
        if settings.class_data is not None:
            begun.promise("kept", seen([each.path for each in prior], [settings.class_prompt] * len(prior)))
    if prior:
        painted, prior, skipped = opened_samples(prior, settings.strict)
        if first:
            _say(*about_skipped(skipped))
        pictures = Pictures([*pictures.sources, *painted.sources], [*pictures.kept, *painted.kept])
        samples = balanced(told, [sample for sample in prior for _ in range(sample.repeats)])
    cache = Cache(settings.cache)
    with PartialState().main_process_first():
        examples = encoded(painter, samples, pictures, buckets, cache, settings.flip)
    prepared = prepare(painter, settings, args.seed)
    reader = Reader(painter.tokenizers, settings.chunks, prepared.words)
    wording = wording_of(settings)
    if first:
        _say(*about_cut(samples, reader))
    with PartialState().main_process_first():
        texts = encoded_texts(prepared, reader, wording, examples, cache)
    drawing = Drawing(
        config=painter.autoencoder.config,
        wording=wording,
        reader=reader,
        timesteps=noise_schedule(painter).num_train_timesteps,
        seed=seed,
        noise_offset=settings.noise_offset,
        prior_weight=settings.prior_weight,
        texts=texts,
        zero=painter.zero_negative,
        xl=painter.is_xl,
        repaints=painter.inpaints,
    )
    drawn = Drawn(examples, pictures, cache, drawing)
    watching = []
    if settings.validation_prompt:
        watching = [
            Samples(
                begun.folder,
                partial(painting, painter, prepared),
                prepared.task,
                settings.validation_prompt,
                settings.validation_steps,
                settings.validation_seed,
                buckets.resolution,
            )
        ]
    trainer = _Trainer(prepared.task, args, begun, drawn, collate, average=settings.ema, callbacks=[*watching])
    for each in watching:
        each.watch(trainer)
    result = trainer.fit()
    metrics = {**result.metrics, **trainer.speed.whole()}
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    if first:
        path = resolve(base, kind="painter", variant=settings.variant, offline=settings.offline)
        steps = trainer.state.global_step
        shown = {example.sample: example.placed.size for example in examples}
        outcome = Outcome(
            painter,
            prepared,
            settings,
            list(shown),
            [size for sample, size in shown.items() if not sample.prior],
            args,
            base,
            path,
            buckets.resolution,
            steps,
            metrics,
        )
        outcome.write(begun.folder)
        begun.finish()
    trainer.accelerator.wait_for_everyone()
    return metrics


class _Trainer(Trainer):
    def train_sampler(self) -> Bucketed:
        drawn = self.train_dataset
        assert isinstance(drawn, Drawn)
        return Bucketed(drawn.sizes, self._train_batch_size * self.args.world_size, drawn.drawing.seed)


def buckets_for(painter: StableDiffusion, settings: Settings) -> Buckets:
    """kohya's sizes (half to twice the resolution, steps of 64 pixels, 8 where the base is small)."""
    side = settings.resolution or painter.picture_size()[0]
    step = settings.bucket_step or (64 if side >= 256 else 8)
    if step % 8:
        raise SettingError(f"bucket_step is {step}; it must be a multiple of 8.")
    if not settings.buckets:
        for name in ("bucket_step", "min_bucket", "max_bucket"):
            if getattr(settings, name) is not None:
                raise SettingError(f"{name} does nothing without buckets: leave one of them out.")
        return Buckets(side, 8, side, side, square=True)
    least, most = settings.min_bucket or max(side // 2 // step, 1) * step, settings.max_bucket or 2 * side
    for name, value in (("min_bucket", settings.min_bucket), ("max_bucket", settings.max_bucket)):
        if value is not None and value % step:
            raise SettingError(f"{name} is {value}; it must be a multiple of {step}, the step of the buckets.")
    return Buckets(side, step, least, most, settings.upscale)


def check(painter: StableDiffusion, settings: Settings) -> None:
    """What a painter and settings say against each other."""
    noise_schedule(painter)
    if painter.is_refiner:
        raise SettingError("this is the refiner of Stable Diffusion XL, which is not fine-tuned here: take the base.")
    if settings.method == "textual-inversion":
        new_word(painter, settings)
    for prompt in settings.validation_prompt:
        painter.asked_for([prompt])
    if settings.validation_prompt and (painter.inpaints or settings.method == "inpaint"):
        raise SettingError("validation_prompt paints whole pictures, which a repainting UNet does not: leave it out.")


def check_sizes(pictures: Pictures, buckets: Buckets) -> None:
    """That each picture has a bucket; what is enlarged has one always."""
    if buckets.upscale or buckets.square:
        return
    for number, path in enumerate(pictures.sources):
        try:
            buckets.place(pictures[number].size)
        except SettingError as error:
            raise SettingError(f"{path}: {error}") from None


def data_samples(data: str | Path, settings: Settings) -> tuple[list[Sample], list[str]]:
    """The pictures of the data set, and notes about them.

    Those of a textual inversion need no caption; one that is there must have its word.
    """
    inversion = settings.method == "textual-inversion"
    samples, notes = read_samples(
        data, settings.caption_column, settings.instance_prompt, not inversion, settings.strict
    )
    for sample in samples if inversion else ():
        words = LearnedWords({str(settings.placeholder): (-1,)})
        if sample.caption is not None and not any(found for _, found in words.split(sample.caption)):
            raise SettingError(
                f"the caption {sample.caption!r} of {sample.path} has no {settings.placeholder}, which is to be "
                "learned: say it, or leave all captions out."
            )
    return samples, notes


def opened_samples(samples: Sequence[Sample], strict: bool) -> tuple[Pictures, list[Sample], list[str]]:
    """Pictures, those of the samples that can be read, and a sentence about each that cannot."""
    paths = [sample.path for sample in samples]
    pictures, good, errors = opened(paths, strict)
    if not good:
        raise ImageError("none of these pictures can be read: give PNG, JPEG, WebP, GIF, BMP or TIFF files.")
    return pictures, [samples[index] for index in good], errors


def wording_of(settings: Settings) -> Wording:
    inversion = settings.method == "textual-inversion"
    return Wording(
        settings.caption_dropout,
        settings.shuffle_tags,
        settings.keep_tokens,
        TEMPLATES[settings.learnable_property] if inversion else (),
        str(settings.placeholder),
    )


def about_cut(samples: Sequence[Sample], reader: Reader) -> list[str]:
    cut = [text for text in dict.fromkeys(sample.caption for sample in samples) if text and reader.is_cut(text)]
    room = reader.count * (reader.tokenizers[0].max_length - 2)
    words = f"captions longer than {room} tokens, which are cut (chunks reads more): {len(cut)}"
    return [f"{words} ({cut[0][:60]}...)"] if cut else []


def _say(*notes: str) -> None:
    for note in notes:
        print(f"eyesel: note: {note}", file=sys.stderr)
