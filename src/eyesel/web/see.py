"""The tab that looks: what is in a picture, where the classifier looked, and which known pictures are like it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from eyesel.classifier import ImageClassifier
from eyesel.errors import SettingError
from eyesel.explain import METHODS
from eyesel.search.identity import identity_of
from eyesel.search.index import Hit
from eyesel.search.pictures import thumbnail
from eyesel.web.pictures import view
from eyesel.web.studio import Studio, bars, client, line, sentences
from eyesel.weights.hub import ASSETS

EXAMPLES = [[str(file)] for file in sorted((ASSETS / "tiny" / "examples").glob("*.png"))]
SEEN = "what it sees"
NEIGHBOURS = 12
SIDE = 256  # pixels of the longer side of a picture that is like it
TITLES = {
    "rollout": "Rollout through the layers",
    "attention": "Attention of a layer",
    "gradient-rollout": "Gradient rollout, for a class",
    "gradcam": "Grad-CAM, for a class",
    "norms": "Norms of the patches",
    "pca": "Features as colours",
}


def see(studio: Studio, blocks: gr.Blocks) -> gr.Image:
    """Gives the place for the picture, into which other tabs send theirs."""
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=5, min_width=300):
            picture = gr.Image(
                label="Picture", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=300,
                buttons=[], elem_classes="stage place", elem_id="see-picture",
            )  # fmt: skip
            gr.Examples(EXAMPLES, picture, label="For example", api_visibility="private")
            model = studio.models("classifier")
            labels = gr.HTML(line("Drop a picture: its labels appear here."), elem_id="labels")
        with gr.Column(scale=6, min_width=300):
            overlay = gr.Image(
                label="What it looked at", interactive=False, height=420, buttons=["download", "fullscreen"],
                format="png", elem_classes="stage", elem_id="overlay",
            )  # fmt: skip
            method = gr.Dropdown(
                [(TITLES[name], name) for name in METHODS], value="rollout", label="Method", elem_id="method"
            )
            with gr.Row():
                layer = gr.Slider(0, 1, 1, step=1, label="Layer", elem_id="layer")
                head = gr.Slider(-1, 1, -1, step=1, label="Head (-1: all)", elem_id="head")
            target = gr.Dropdown([(SEEN, "")], value="", label="Class", visible=False, filterable=True, elem_id="class")
            if studio.index is not None:
                found = gr.Gallery(
                    label=f"Most like it, of {len(studio.index):,} pictures", columns=6, height="auto",
                    object_fit="contain", allow_preview=False, buttons=[], elem_classes="film", elem_id="neighbours",
                )  # fmt: skip

    keys: dict[str, Any] = {}  # of models, by which an index knows its own

    async def eye(id: str) -> ImageClassifier:
        model: ImageClassifier = await asyncio.to_thread(studio.engine.models.get, id, "classifier")
        return model

    async def known(id: str | None) -> list[Any]:
        """The layers, heads and classes of the chosen model."""
        if id is None:
            return [gr.skip()] * 3
        with sentences():
            chosen = await eye(id)
            config = chosen.model.config
            return [
                gr.update(maximum=config.depth - 1, value=config.depth - 1),
                gr.update(maximum=config.heads - 1, value=-1),
                gr.update(choices=[(SEEN, ""), *chosen.labels], value=""),
            ]

    async def classified(file: str | None, id: str, request: gr.Request) -> str:
        if file is None:
            return line("Drop a picture: its labels appear here.")
        with sentences():
            image = await studio.opened(file)
            [found] = await studio.engine.classify([image], id, client=client(request))
            return bars(found)

    async def looked(file: str | None, id: str, method: str, layer: int, head: int, target: str) -> Any:
        if file is None:
            return None
        kind = METHODS[method]
        settings: dict[str, Any] = {"method": method, "layer": layer}
        settings |= {"head": head} if kind.heads and head >= 0 else {}
        settings |= {"target": target} if kind.classes and target else {}
        with sentences():
            attention = await studio.engine.attend(await studio.opened(file), id, **settings)
            return gr.update(value=view(attention.overlay()), label=_title(attention.target))

    async def nearest(file: str | None, id: str, request: gr.Request) -> list[tuple[Image.Image, str]]:
        index = studio.index
        if file is None or index is None:
            return []
        with sentences():
            pool = index.identity.pool
            if id not in keys:  # reading all weights takes a while
                keys[id] = (await asyncio.to_thread(identity_of, await eye(id), pool)).key
            if keys[id] != index.identity.key:
                raise SettingError(f"the index is of {index.identity}: choose that model to find what is like it.")
            [vector] = await studio.engine.embed([await studio.opened(file)], id, pool=pool, client=client(request))
            return await asyncio.to_thread(_tiles, index.search(vector, NEIGHBOURS))

    def fields(method: str) -> list[Any]:
        kind = METHODS[method]
        return [gr.update(visible=kind.heads), gr.update(visible=kind.classes)]

    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    question = [picture, model, method, layer, head, target]
    blocks.load(known, model, [layer, head, target], **hidden)
    changed = model.change(known, model, [layer, head, target], **hidden)
    hidden["concurrency_limit"] = None
    method.change(fields, method, [head, target], **hidden)
    for moved in (picture.change, changed.then):
        moved(classified, [picture, model], labels, **hidden)
        moved(looked, question, overlay, **hidden)
        if studio.index is not None:
            moved(nearest, [picture, model], found, **hidden)
    asked = [method.change, layer.release, head.release, target.change]
    gr.on(asked, looked, question, overlay, trigger_mode="always_last", **hidden)
    return picture


def _title(target: str | None) -> str:
    return "What it looked at" if target is None else f"What speaks for {target}"


def _tiles(hits: Sequence[Hit]) -> list[tuple[Image.Image, str]]:
    return [(thumbnail(hit.path, SIDE), f"{hit.label or Path(hit.path).stem}, {hit.distance:.2f}") for hit in hits]
