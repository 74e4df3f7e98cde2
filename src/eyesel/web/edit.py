"""The tab that repaints: a mask is painted over a picture, and what is under it is made anew."""

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from eyesel.errors import ImageError
from eyesel.images import open_mask
from eyesel.settings import FILLS
from eyesel.web.outcome import Outcome
from eyesel.web.pictures import mask_of, view
from eyesel.web.studio import Studio, in_sight, sentences, stop, whole

MAGENTA, CYAN = ("#c22fc9", 0.62), ("#18b7c4", 0.62)  # one of them is seen on any picture


def edit(studio: Studio) -> gr.Image:
    """Gives the place for the picture, into which other tabs send theirs."""
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=5, min_width=300):
            picture = gr.Image(
                label="Picture", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=220,
                buttons=[], elem_classes="stage place", elem_id="edit-picture",
            )  # fmt: skip
            editor = gr.ImageEditor(
                label="Paint the mask",
                type="pil",
                image_mode="RGBA",
                format="png",
                sources=(),
                transforms=(),
                layers=False,
                brush=gr.Brush(colors=[MAGENTA, CYAN], color_mode="fixed", default_size=48),
                eraser=gr.Eraser(default_size=48),
                height=430,
                visible=False,
                elem_id="editor",
            )
            prompt = gr.Textbox(
                "", label="Prompt", lines=2, placeholder="What the picture shows then", elem_id="edit-prompt"
            )
            with gr.Row():
                repaint = gr.Button("Repaint", variant="primary", scale=3, elem_id="repaint")
                cancel = gr.Button("Cancel", interactive=False, min_width=90)
            with gr.Accordion("Settings", open=False):
                model = studio.models("painter")
                strength = gr.Slider(0.05, 1, 1, step=0.05, label="Strength", info="How much is made anew")
                blur = gr.Slider(
                    0, 64, 2, step=1, label="Soft edge", info="Pixels by which the mask's edge is softened"
                )
                fills = [(f"{name}: {what}", name) for name, what in FILLS.items()]
                fill = gr.Dropdown([("by strength", ""), *fills], value="", label="Start from")
                only = gr.Checkbox(label="Repaint the masked part alone, at the model's full size")
                seed = gr.Textbox("", label="Seed", placeholder="drawn by chance")
                mask_file = gr.Image(
                    label="Or a mask as a picture, white where it changes", type="filepath", image_mode=None,
                    sources=["upload", "clipboard"], height=140, buttons=[], elem_classes="stage place",
                )  # fmt: skip
        with gr.Column(scale=6, min_width=300):
            outcome = Outcome("edit", "Before and after appear here, with a handle between them.", "Go on with it")

    async def opened(file: str | None) -> list[Any]:
        """The picture laid under the brush."""
        if file is None:
            return [gr.update(value=None, visible=False), gr.update(height=220)]
        with sentences():
            shown = view(await studio.opened(file))
            value = {"background": shown, "layers": [], "composite": None}
            return [gr.update(value=value, visible=True, canvas_size=shown.size), gr.update(height=130)]

    async def run(
        file: str | None,
        painted: dict[str, Any] | None,
        mask_file: str | None,
        prompt: str,
        model: str,
        strength: float,
        blur: int,
        fill: str,
        only: bool,
        seed: str,
        request: gr.Request,
    ) -> AsyncIterator[dict[Any, Any]]:
        with sentences():
            if file is None:
                raise ImageError("there is no picture: drop one, or send one from another tab.")
            before = await studio.opened(file)
            mask = mask_of((painted or {}).get("layers") or [], before.size)
            if mask_file is not None:
                mask = open_mask(await studio.opened(mask_file, "mask", "RGBA"))
            if mask is None:
                raise ImageError("nothing is marked: paint over what is to change.")
            settings = {"prompt": prompt, "seed": whole(seed, "seed"), "strength": strength, "mask_blur": blur}
            settings |= {"fill": fill or None, "only_masked": only}
            images = {"image": before, "mask": mask}
            looks = studio.painting(request, "inpaint", settings, images, 1, model)
            async for change in outcome.shown(looks, before, cancel, lambda after: f"{prompt[:32]} {after.seed}"):
                yield change

    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    picture.change(opened, picture, [editor, picture], **hidden)
    inputs = [picture, editor, mask_file, prompt, model, strength, blur, fill, only, seed]
    outputs = outcome.outputs(cancel)
    started = gr.on([repaint.click, prompt.submit], run, inputs, outputs, concurrency_limit=None, **hidden)
    for shows in (repaint.click, prompt.submit):
        shows(None, js=in_sight("#edit-slider"))
    started.then(lambda: [gr.update(interactive=False), None], None, [cancel, outcome.running], **hidden)
    cancel.click(stop(studio.engine), outcome.running, outcome.progress, queue=False, **hidden)
    outcome.onward.click(lambda path: path, outcome.result, picture, **hidden)
    return picture
