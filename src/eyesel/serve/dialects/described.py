"""What the OpenAPI page says of a route of a dialect: one sentence, a curl, and the parameters.

`HOST` is where the server listens, JOB a job that is done, `fox.png` a picture; with a key, add
`-H "Authorization: Bearer KEY"`.
"""

from typing import Any

from pydantic import BaseModel

_ERROR = {"description": "What was wrong, and the field at fault, in the dialect's own shape."}


def described(
    said: str, curl: str, kind: type[BaseModel] | None = None, files: tuple[str, ...] = (), raw: bool = False
) -> dict[str, Any]:
    """Keywords for the decorator of a route that takes `kind`, with pictures `files`, or the bytes of one (`raw`)."""
    extra: dict[str, Any] = {"x-curl": f"curl {curl}"}
    if kind is not None:
        schema = _flat(kind.model_json_schema())
        content: dict[str, Any] = {"application/json": {"schema": _with(schema, files, {"type": "string"})}}
        if files:
            binary = {"type": "string", "format": "binary"}
            content["multipart/form-data"] = {"schema": _with(schema, files, binary)}
        if raw:
            content["image/png"] = {"schema": {"type": "string", "format": "binary"}}
        extra["requestBody"] = {"content": content}
    return {
        "summary": said.split(":")[0].rstrip("."),
        "description": f"{said}\n\n```sh\ncurl {curl}\n```",
        "responses": dict.fromkeys((400, 401, 404, 413, 422, 429, 503), _ERROR),
        "openapi_extra": extra,
    }


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
