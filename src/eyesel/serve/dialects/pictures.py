"""Pictures as the dialects give them back: bytes with their settings in the metadata, or these bytes in base64."""

import base64
import io

from PIL import Image

from eyesel import infotext
from eyesel.errors import EyeselError
from eyesel.images import texts_in, write_image
from eyesel.picture import Picture
from eyesel.serve.engine import Engine
from eyesel.serve.errors import ApiError

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
MEDIA_TYPES = {name: f"image/{name}" for name in FORMATS}


def encoded(picture: Picture | Image.Image, format: str = "png", quality: int = 95) -> bytes:
    """The bytes of a file of a format of `FORMATS`; blocks a little. A preview has no metadata."""
    file = io.BytesIO()
    if isinstance(picture, Picture):
        write_image(picture.image, file, FORMATS[format], infotext.metadata(picture.record), quality)
    else:
        write_image(picture, file, FORMATS[format], None, quality)
    return file.getvalue()


def base64_of(picture: Picture | Image.Image, format: str = "png", quality: int = 95) -> str:
    return base64.b64encode(encoded(picture, format, quality)).decode()


def texts_of(data: bytes, field: str = "image") -> dict[str, str]:
    """What the metadata of a picture say; blocks a little. Halves of characters, which no answer can hold, are "?"."""
    try:
        texts = texts_in(io.BytesIO(data), f"the {len(data)} bytes given")
    except EyeselError as error:
        raise ApiError(400, str(error), field, "invalid_image") from None
    return {_whole(name): _whole(text) for name, text in texts.items()}


def _whole(text: str) -> str:
    return text.encode(errors="replace").decode()


async def words_for(engine: Engine, data: bytes, client: str, field: str = "image") -> str:
    """The prompt of a picture that came without one: that in its metadata, else what the classifier sees in it."""
    record = _record(data, field)
    if record is not None and str(record.settings.get("prompt", "")).strip():
        return str(record.settings["prompt"])
    if not any(card.kind == "classifier" for card in engine.models.cards()):
        raise ApiError(
            400, "The prompt is missing, and no classifier is served that could say what to paint.", "prompt"
        )
    return (await engine.classify([data], None, 1, None, client))[0][0].label


def _record(data: bytes, field: str) -> infotext.Record | None:
    """None, too, where what is said makes no sense: there are still the pixels."""
    texts = texts_of(data, field)
    try:
        return infotext.read(texts)
    except EyeselError:
        return None
