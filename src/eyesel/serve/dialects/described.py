"""What the OpenAPI page says of a route of a dialect: one sentence, a curl, and the parameters.

`HOST` becomes the address of the server that is asked, `JOB` is the id of a job that is done, `fox.png` any picture.
"""

import base64
import io
import json
import re
from typing import Any

from PIL import Image
from pydantic import BaseModel

# For curls
AS_JSON = """-H "Content-Type: application/json" """
FOX = "a large fox on a blue background"
PICTURE = """"'"$(base64 -w0 fox.png)"'\""""  # between the single quotes of -d

_ERROR = {"description": "What was wrong, and the field at fault, in the dialect's own shape."}
BUSY = {"description": "The server is at fault, or busy: Retry-After, as with 429, says when to come again."}


def described(
    said: str, curl: str, kind: type[BaseModel] | None = None, files: tuple[str, ...] = (), raw: bool = False
) -> dict[str, Any]:
    """Keywords for the decorator of a route that takes `kind`, with pictures `files`, or the bytes of one (`raw`)."""
    extra: dict[str, Any] = {}
    if kind is not None:
        schema = _flat(kind.model_json_schema())
        content: dict[str, Any] = {"application/json": {"schema": _with(schema, files, {"type": "string"})}}
        content["application/json"] |= example(curl)
        if files:
            binary = {"type": "string", "format": "binary"}
            content["multipart/form-data"] = {"schema": _with(schema, files, binary)}
        if raw:
            content["image/png"] = {"schema": {"type": "string", "format": "binary"}}
        extra["requestBody"] = {"content": content}
    return {
        "summary": said.split(":")[0].rstrip("."),
        "description": f"{said}\n\n```sh\ncurl {curl}\n```",
        "responses": {"4XX": _ERROR, "5XX": BUSY},
        "openapi_extra": extra,
    }


def example(curl: str) -> dict[str, Any]:
    """The JSON that a curl sends, if it does, as OpenAPI has it: what the page offers to try."""
    sent = re.search(r"-d '(.*?)' ", curl)
    return {"example": json.loads(sent[1].replace(PICTURE, f'"{_small_picture()}"'))} if sent else {}


def _small_picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "teal").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _with(schema: dict[str, Any], files: tuple[str, ...], kind: dict[str, Any]) -> dict[str, Any]:
    """`additionalProperties`, too: the settings of eyesel are not in the models."""
    properties = {**schema.get("properties", {}), **dict.fromkeys(files, kind)}
    return {**schema, "properties": properties, "additionalProperties": True}


def _flat(schema: dict[str, Any]) -> dict[str, Any]:
    """Without `$defs`, which an OpenAPI document keeps in another place."""
    kinds = schema.pop("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return resolved(kinds[part["$ref"].rsplit("/", 1)[1]])
            return {name: resolved(value) for name, value in part.items()}
        return [resolved(each) for each in part] if isinstance(part, list) else part

    flat = resolved(schema)
    flat.pop("title", None)
    return dict(flat)
