"""The options of AUTOMATIC1111 that mean something here, each client's own, and the jobs that each client waits for."""

import re
from collections import OrderedDict
from typing import Annotated, Any, Literal

from pydantic import Field

from eyesel.serve.dialects.parameters import Number, Said, Whole, spoken, understood
from eyesel.serve.engine import Engine
from eyesel.serve.jobs import Job
from eyesel.serve.pool import ModelCard

MOST_CLIENTS = 1000  # whose options are remembered
FORMATS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}
RNGS = {"GPU": "philox", "NV": "philox", "CPU": "cpu"}
_HASH = re.compile(r" \[[0-9a-fA-F]{6,64}\]$")


class Options(Said):
    """With AUTOMATIC1111's names and defaults; a value that is the only one says what is always so."""

    sd_model_checkpoint: str | None = None
    sd_checkpoint_hash: None = None
    sd_vae: Literal["Automatic", "None"] = "Automatic"
    CLIP_stop_at_last_layers: Annotated[Whole, Field(ge=1, le=12)] = 1
    randn_source: Literal["GPU", "CPU", "NV"] = "GPU"
    emphasis: Literal["Original", "No norm", "Ignore", "None"] = "Original"
    eta_noise_seed_delta: Literal[0] = 0
    samples_format: Literal["png", "jpg", "jpeg", "webp"] = "png"
    jpeg_quality: Annotated[Whole, Field(ge=1, le=100)] = 80
    interrogate_return_ranks: bool = False
    interrogate_deepbooru_score_threshold: Annotated[Number, Field(ge=0, le=1)] = 0.5
    enable_pnginfo: Literal[True] = True
    return_grid: Literal[False] = False
    inpainting_mask_weight: Literal[1] = 1
    initial_noise_multiplier: Literal[1] = 1
    img2img_color_correction: Literal[False] = False

    def changed(self, said: dict[str, Any], engine: Engine, field: str | None = None) -> "Options":
        """With other values of some; `field` is where they stand in the request. Raises `ApiError`."""
        given = {name: value for name, value in said.items() if value is not None}
        new = self.model_copy(update=understood(Options, given, 422, field).model_dump(exclude_unset=True))
        new.model(engine)
        return new

    def model(self, engine: Engine) -> str | None:
        """The id of the checkpoint, None for the first one."""
        if not self.sd_model_checkpoint:
            return None
        name = _HASH.sub("", self.sd_model_checkpoint)
        titled = next((card.id for card in painters(engine) if title(card) == name), name)
        with spoken({"model": "sd_model_checkpoint"}):
            return engine.models.resolve(titled, "painter")

    def told(self, engine: Engine) -> dict[str, Any]:
        """As `GET options` has them."""
        id = self.model(engine)
        card = next((card for card in painters(engine) if id in (None, card.id)), None)
        return {**self.model_dump(), "sd_model_checkpoint": None if card is None else title(card)}


def painters(engine: Engine) -> list[ModelCard]:
    return [card for card in engine.models.cards() if card.kind == "painter"]


def title(card: ModelCard) -> str:
    """A checkpoint's file name, as AUTOMATIC1111 has it; hashes would have to be computed over the whole file."""
    return card.path.name if card.path.is_file() else card.id


class Clients:
    """What AUTOMATIC1111 has once for everybody: options, and the job that runs."""

    def __init__(self) -> None:
        self._options: OrderedDict[str, Options] = OrderedDict()
        self._jobs: dict[str, list[Job]] = {}

    def options(self, client: str) -> Options:
        return self._options.get(client, Options())

    def keep(self, client: str, options: Options) -> None:
        self._options.pop(client, None)
        self._options[client] = options
        while len(self._options) > MOST_CLIENTS:
            self._options.popitem(last=False)

    def begin(self, client: str, job: Job) -> None:
        self._jobs.setdefault(client, []).append(job)

    def end(self, client: str, job: Job) -> None:
        left = [each for each in self._jobs.get(client, []) if each is not job]
        if left:
            self._jobs[client] = left
        else:
            self._jobs.pop(client, None)

    def jobs(self, client: str) -> list[Job]:
        """Those that have not ended, what runs first."""
        waiting = [job for job in self._jobs.get(client, []) if not job.ended]
        return sorted(waiting, key=lambda job: job.state != "running")
