"""What can be seen in a picture: interrogate, with labels for a caption, and png-info.

There is no network here that makes sentences of pictures, as BLIP does behind the program's "clip", or that knows the
tags of "deepdanbooru". Both names stand for the first classifier, as those of OpenAI's models stand for the first
painter, and a classifier's own name for itself. The caption is made of its labels as the program makes one of tags:
the best one, and the others whose score is not below `interrogate_deepbooru_score_threshold`, with commas between
them, their brackets written so that a prompt takes them for text. With `interrogate_return_ranks` it has the scores.
"""

import asyncio
import re

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from eyesel.classifier import Prediction
from eyesel.serve.access import client_of
from eyesel.serve.dialects.automatic1111 import answers
from eyesel.serve.dialects.automatic1111.options import Clients, Options
from eyesel.serve.dialects.automatic1111.sent import OnePicture, P, one_picture
from eyesel.serve.dialects.described import AS_JSON, PICTURE, described
from eyesel.serve.dialects.parameters import Whole
from eyesel.serve.dialects.pictures import texts_of
from eyesel.serve.engine import Engine
from eyesel.serve.intake import picture_bytes
from eyesel.serve.options import ServerOptions

ALIASES = ("clip", "deepdanbooru")
MOST_TAGS = 100


class Interrogation(OnePicture):
    model: str = "clip"
    width: Whole | None = None  # of the picture, as a plugin of Krita says
    height: Whole | None = None


def add_looking(routes: APIRouter, engine: Engine, options: ServerOptions, clients: Clients) -> None:
    @routes.post("/interrogate", **described(
        "What is in a picture: a caption of a classifier's labels.",
        AS_JSON + f"""-d '{{"image": {PICTURE}}}' HOST/sdapi/v1/interrogate""", Interrogation,
    ))  # fmt: skip
    async def interrogate(request: Request) -> JSONResponse:
        data, asked = await looked_at(request, Interrogation)
        client = client_of(request.scope)
        model = None if asked.model in ALIASES else asked.model
        found = await engine.classify([data], model, MOST_TAGS, None, client)
        return JSONResponse({"caption": caption(found[0], clients.options(client))})

    @routes.post("/png-info", **described(
        "How a picture was painted.", AS_JSON + f"""-d '{{"image": {PICTURE}}}' HOST/sdapi/v1/png-info""", OnePicture
    ))  # fmt: skip
    async def png_info(request: Request) -> JSONResponse:
        data, _ = await looked_at(request, OnePicture)
        return JSONResponse(answers.picture_info(await asyncio.to_thread(texts_of, data)))

    async def looked_at(request: Request, kind: type[P]) -> tuple[bytes, P]:
        source, asked = await one_picture(request, kind)
        return await picture_bytes(source, options), asked


def caption(found: list[Prediction], options: Options) -> str:
    """Of predictions, best first."""
    likely = [each for each in found if each.score >= options.interrogate_deepbooru_score_threshold]
    tags = [(re.sub(r"([\\()\[\]])", r"\\\1", each.label), each.score) for each in likely or found[:1]]
    return ", ".join(f"({tag}:{score:.3f})" if options.interrogate_return_ranks else tag for tag, score in tags)
