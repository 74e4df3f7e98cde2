"""What the OpenAPI page says of the native routes, each with a curl that works as it stands.

`HOST` becomes the address of the server that is asked, `JOB` is the id of a job, and `fox.png` any picture.
"""

from typing import Any

from eyesel.serve.dialects.described import BUSY, example

_SETTINGS = "all settings of `eyesel generate`, `inpaint` or `stylize` by their names (solver, size, strength, ...)"
_PICTURE = {"type": "string", "description": "A picture in base64, with or without `data:`, or an address if allowed."}
_TOLD = {"message": {"type": "string"}, "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]}}
_ERROR = {
    "description": "What was wrong, in one sentence, and the field at fault.",
    "content": {
        "application/json": {
            "schema": {"type": "object", "properties": {"error": {"type": "object", "properties": _TOLD}}}
        }
    },
}

# name: (what it does, the options of curl and its path, the parameters of the body, those in the address)
_ROUTES: dict[str, tuple[str, str, dict[str, Any], bool]] = {
    "submit": (
        f"Queue pictures to be painted. Takes `prompt`, `n`, `seed`, `model`, `priority` and {_SETTINGS}; pictures are "
        "`image`, `mask` and `style`. Answers at once: ask for `/jobs/{id}` or listen to its events.",
        """-d '{"prompt": "a large fox on a blue background", "seed": 7, "steps": 4}' """
        """-H "Content-Type: application/json" HOST/jobs""",
        {
            "task": {"type": "string", "enum": ["generate", "inpaint", "stylize"]},
            "prompt": {"type": "string"},
            "n": {"type": "integer", "minimum": 1},
            "seed": {"type": "integer", "minimum": 0},
            "model": {"type": "string"},
            "priority": {"type": "integer", "minimum": -10, "maximum": 10},
            "steps": {"type": "integer", "minimum": 1},
            "size": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
            "image": _PICTURE,
            "mask": _PICTURE,
            "style": _PICTURE,
        },
        True,
    ),
    "jobs": ("Your jobs, the newest first.", "HOST/jobs", {}, False),
    "job": ("One job: state, position, progress, and when it is done its pictures.", "HOST/jobs/JOB", {}, False),
    "events": (
        "Server-sent events of a job, one for each step, with a preview.",
        "-N HOST/jobs/JOB/events",
        {},
        False,
    ),
    "cancel": ("Cancel a job that waits or runs.", "-X DELETE HOST/jobs/JOB", {}, False),
    "picture": (
        "A finished picture as PNG, with its settings in its metadata.",
        "-o fox.png HOST/jobs/JOB/pictures/0",
        {},
        False,
    ),
    "classify": (
        "Labels and scores, best first, of one picture or several.",
        "--data-binary @fox.png 'HOST/classify?top_k=3'",
        {
            "image": _PICTURE,
            "top_k": {"type": "integer", "minimum": 1},
            "function_to_apply": {"type": "string", "enum": ["softmax", "sigmoid", "none"]},
            "model": {"type": "string"},
        },
        True,
    ),
    "embed": (
        "An embedding of each picture.",
        "-F image=@fox.png -F pool=mean HOST/embed",
        {
            "image": _PICTURE,
            "pool": {"type": "string", "enum": ["cls", "mean", "none", "grid"]},
            "layer": {"type": "integer"},
            "normalize": {"type": "boolean"},
            "model": {"type": "string"},
        },
        True,
    ),
    "attend": (
        "What the classifier looked at: a heat map, and the picture under it, made smaller where it has more than 2048 "
        "pixels on a side, which is all with `Accept: image/png`.",
        """-F image=@fox.png -F method=rollout -H "Accept: image/png" -o looked-at.png HOST/attend""",
        {
            "image": _PICTURE,
            "method": {
                "type": "string",
                "enum": ["rollout", "attention", "gradient-rollout", "gradcam", "norms", "pca"],
            },
            "layer": {"type": "integer"},
            "head": {"type": "integer"},
            "target": {"type": "string"},
            "model": {"type": "string"},
        },
        True,
    ),
}


def documented(name: str) -> dict[str, Any]:
    """Keywords for the decorator of a route."""
    said, curl, body, has_body = _ROUTES[name]
    extra: dict[str, Any] = {}
    if has_body:
        schema = {"type": "object", "properties": body}
        files = {key: {"type": "string", "format": "binary"} for key, value in body.items() if value is _PICTURE}
        form = {"type": "object", "properties": {**body, **files}}
        extra["requestBody"] = {
            "content": {
                "application/json": {"schema": schema, **example(curl)},
                "multipart/form-data": {"schema": form},
                "image/png": {"schema": {"type": "string", "format": "binary"}},
            }
        }
    return {
        "summary": said.split(":")[0].split(".")[0],
        "description": f"{said}\n\n```sh\ncurl {curl}\n```",
        "responses": {"4XX": _ERROR, "5XX": BUSY},
        "openapi_extra": extra,
        "tags": ["eyesel"],
    }
