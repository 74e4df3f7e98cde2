"""What Hugging Face Inference Endpoints call: `EndpointHandler(folder)`, then `handler(data)` for every request.

The container (github.com/huggingface/huggingface-inference-toolkit) hands over the JSON of a request, or the picture in
its body as a PIL image, and sends back what this returns: lists as JSON, pictures as PNG. What is raised becomes status
400 with its sentence. Names of parameters are those of huggingface_hub's InferenceClient.
"""

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from eyesel.classifier import ImageClassifier
from eyesel.errors import EyeselError, ImageError, SettingError
from eyesel.fields import check_fields
from eyesel.images import open_image
from eyesel.images.decode import identified
from eyesel.settings import Settings
from eyesel.stable_diffusion import StableDiffusion
from eyesel.weights.inside import model_inside

T = TypeVar("T")


class EndpointHandler:
    """A folder of weights of either kind; threads can share one."""

    def __init__(self, path: str | Path) -> None:
        kind, model = model_inside(Path(path))
        self.painter = StableDiffusion.load(model, offline=True) if kind == "painter" else None
        self.classifier = ImageClassifier.load(model, offline=True) if kind == "classifier" else None

    def __call__(self, data: Mapping[str, Any]) -> Any:
        """`data` holds `inputs` and, if need be, `parameters`; which ones, `classify`, `embed` and `paint` say.

        Raises an `EyeselError` of one sentence for whatever cannot be done.
        """
        if not isinstance(data, Mapping) or data.get("inputs") is None:
            raise SettingError('The request has no inputs: send {"inputs": ..., "parameters": {...}}.')
        parameters = {} if data.get("parameters") is None else data["parameters"]
        if not isinstance(parameters, Mapping):
            raise SettingError(f"parameters are a {type(parameters).__name__}; they must be an object of names.")
        given = {str(name): value for name, value in parameters.items() if value is not None}
        if self.painter is not None:
            return paint(self.painter, data["inputs"], given)
        assert self.classifier is not None  # one of the two is there
        return (classify if self.classifier.labels else embed)(self.classifier, data["inputs"], given)


@dataclass(frozen=True)
class Classification:
    """The parameters of the task image-classification."""

    top_k: int = 5
    function_to_apply: str | None = None


@dataclass(frozen=True)
class Extraction:
    """The parameters of the task image-feature-extraction."""

    normalize: bool = False


def classify(classifier: ImageClassifier, inputs: Any, parameters: Mapping[str, Any]) -> list[Any]:
    """[{"label", "score"}, ...] of a picture, best first; of a list of pictures, a list of those."""
    asked: Any = _checked(Classification, parameters)
    found = classifier.classify(_pictures(inputs), asked.top_k, function_to_apply=asked.function_to_apply)
    rows = [[{"label": each.label, "score": each.score} for each in row] for row in found]
    return rows if isinstance(inputs, list) else rows[0]


def embed(encoder: ImageClassifier, inputs: Any, parameters: Mapping[str, Any]) -> list[Any]:
    """The numbers of the class token, for a network that has no head; of a list of pictures, a list of those."""
    asked = _checked(Extraction, parameters)
    rows: list[Any] = encoder.embed(_pictures(inputs), normalize=asked.normalize).tolist()
    return rows if isinstance(inputs, list) else rows[0]


# From the names of InferenceClient and diffusers to those of `Settings`, which are understood besides.
_NAMES = {
    "negative_prompt": "negative",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "scheduler": "solver",
    "num_images_per_prompt": "n",
}
_BESIDES = ("seed", "n")


def paint(painter: StableDiffusion, inputs: Any, parameters: Mapping[str, Any]) -> Image.Image | list[Image.Image]:
    """A picture, or with num_images_per_prompt a list.

    `inputs` are the prompt, or a picture to start from, and then the prompt is a parameter. Beside those of
    `_NAMES` and `Settings` the parameters are `seed`, `width` and `height`, or `target_size`, an object of the two, and
    `mask_image`, a picture that is white where the other is to be repainted.
    """
    given = {_NAMES.get(name, name): value for name, value in parameters.items()}
    image, prompt = inputs, given.pop("prompt", "")
    if not isinstance(prompt, str):
        raise SettingError(f"prompt is a {type(prompt).__name__}; it must be a text.")
    if isinstance(inputs, str) and not prompt and not _is_picture(inputs):
        image, prompt = None, inputs
    starts: dict[str, Any] = {} if image is None else {"image": _picture(image)}
    if (mask := given.pop("mask_image", None)) is not None:
        starts["mask"] = _picture(mask)
    settings = {**_sized(painter, given), **given}
    Settings.of({name: value for name, value in settings.items() if name not in _BESIDES})  # and nothing else
    painted = painter.generate(prompt, **starts, **settings)
    return [each.image for each in painted] if isinstance(painted, list) else painted.image


def _sized(painter: StableDiffusion, given: dict[str, Any]) -> dict[str, Any]:
    """Takes the size out of the parameters; a side that is not given is that of the model."""
    target = given.pop("target_size", {})
    if not isinstance(target, Mapping) or (set(target) | {"width", "height"}) != {"width", "height"}:
        raise SettingError(f'target_size is {str(target)[:100]}; it must be {{"width": ..., "height": ...}}.')
    sides = {name: given.pop(name) for name in ("width", "height") if name in given} | dict(target)
    if not sides:
        return {}
    width, height = painter.picture_size()
    return {"size": (sides.get("width", width), sides.get("height", height))}


def _checked(kind: type[T], parameters: Mapping[str, Any]) -> T:
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in parameters:
        if name not in known:
            raise SettingError(f"There is no parameter {name!r} for this model; there are {', '.join(known)}.")
    asked = kind(**parameters)
    check_fields(asked, SettingError)
    return asked


def _pictures(inputs: Any) -> list[Image.Image]:
    return [_picture(each) for each in (inputs if isinstance(inputs, list) else [inputs])]


def _picture(given: Any) -> Image.Image:
    """Of a PIL image, bytes, or a text in base64, with or without `data:`; a text is never taken for a path."""
    if isinstance(given, str):
        data = _decoded(given)
        if data is None:
            raise ImageError(f"the text {given[:40]!r} is no picture: send its bytes in base64.")
        return open_image(data)
    if isinstance(given, Image.Image | bytes | bytearray):
        return open_image(given)
    raise ImageError(f"a {type(given).__name__} is no picture: send its bytes, or a text of them in base64.")


def _is_picture(text: str) -> bool:
    """Whether a text that may be a prompt is a picture in base64."""
    data = _decoded(text)
    try:
        return data is not None and identified(io.BytesIO(data), "the text").format is not None
    except EyeselError:
        return text.startswith("data:")


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(re.sub(r"^data:[^,]*,|[\r\n]", "", text), validate=True)
    except ValueError:
        return None
