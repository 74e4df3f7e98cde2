"""The OpenAPI document, and the page at `/docs` that shows it: Swagger UI, all of which comes from this server.

What the routes say of themselves holds for any server; here each curl gets the address by which this one was asked,
and where keys are needed, a place for the key. The page needs one, too: a browser asks for it as Basic's password.
"""

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from starlette.routing import Route

DOCUMENT = "/openapi.json"
ABOUT = (
    "Every route has a curl that works as it stands: `fox.png` is any picture, and `JOB` the id of a job that is done."
)
WITH_KEY = f"{ABOUT} `KEY` is a key of the server, which may also be sent as `X-API-Key` or as Basic's password."
DIALECTS = {  # in the order of the page
    "eyesel": "Jobs for what is painted, and answers at once for what is understood.",
    "OpenAI": "The Images API, for its clients and those of others.",
    "Hugging Face": "Inference as `InferenceClient` and Inference Endpoints speak it.",
    "AUTOMATIC1111": "The web API of Stable Diffusion web UI, for Open WebUI, SillyTavern, `webuiapi` and plugins.",
    "Open Inference Protocol v2": "Classifiers for KServe, Triton and their load tools.",
    "operations": "For those who run the server.",
}
_CURL, _CURL_WITH_KEY = "```sh\ncurl ", '```sh\ncurl -H "Authorization: Bearer KEY" '
_SECURITY = {"key": {"type": "http", "scheme": "bearer"}}


def documented_app(keys: bool, **settings: Any) -> FastAPI:
    """An application with `settings`; `keys` is whether it asks for one."""
    app = FastAPIOffline(
        redoc_url=None,
        openapi_url=DOCUMENT,
        description=WITH_KEY if keys else ABOUT,
        openapi_tags=[{"name": name, "description": said} for name, said in DIALECTS.items()],
        swagger_ui_parameters={"docExpansion": "none"},
        **settings,
    )

    async def document(request: Request) -> Response:
        told = app.openapi()
        if keys:
            parts = {**told.get("components", {}), "securitySchemes": _SECURITY}
            told = {**told, "components": parts, "security": [{name: [] for name in _SECURITY}]}
        text = json.dumps(told).replace("HOST/", _inner(str(request.base_url)))
        text = text.replace(_inner(_CURL), _inner(_CURL_WITH_KEY)) if keys else text
        return Response(text, media_type="application/json")

    app.router.routes.insert(0, Route(DOCUMENT, document, include_in_schema=False))  # before FastAPI's own
    return app


def _inner(text: str) -> str:
    """As it stands inside a string of JSON."""
    return json.dumps(text)[1:-1]
