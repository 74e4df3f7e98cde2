"""The tab that restyles: two pictures, and one dial between the content of the one and the style of the other."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr

from eyesel.errors import ImageError
from eyesel.web.outcome import Outcome
from eyesel.web.studio import Studio, in_sight, sentences, stop, whole
from eyesel.weights.hub import ASSETS

EXAMPLES = ASSETS / "tiny" / "examples"
PAIRS = [("fox", "rocket"), ("owl", "fox"), ("rocket", "owl")]
COLOURS: list[tuple[str, str | float]] = [
    ("of the style", "style"),
    ("half and half", 0.5),
    ("of the content", "content"),
]


def style(studio: Studio) -> gr.Image:
    """Gives the place for the content, into which other tabs send their pictures."""
    place: dict[str, Any] = {
        "type": "filepath",
        "image_mode": None,
        "sources": ["upload", "clipboard"],
        "height": 210,
        "buttons": [],
        "elem_classes": "stage place",
    }
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=5, min_width=300):
            with gr.Row():
                content = gr.Image(label="Content", min_width=140, elem_id="content", **place)
                style_ = gr.Image(label="Style", min_width=140, elem_id="style", **place)
            gr.Examples(
                [[str(EXAMPLES / f"{name}.png") for name in pair] for pair in PAIRS],
                [content, style_],
                label="For example",
                example_labels=[f"{one} like {other}" for one, other in PAIRS],
                api_visibility="private",
            )
            strength = gr.Slider(
                0, 1, 0.5, step=0.05, label="Strength: from the content to the style", elem_id="strength"
            )
            color = gr.Radio([*COLOURS], value="style", label="Colours")
            with gr.Row():
                restyle = gr.Button("Restyle", variant="primary", scale=3, elem_id="restyle")
                cancel = gr.Button("Cancel", interactive=False, min_width=90)
            with gr.Accordion("Settings", open=False):
                model = studio.models("painter")
                steps = gr.Slider(1, min(100, studio.options.limits.steps), 50, step=1, label="Steps")
                longest = gr.Textbox(
                    "128" if studio.tiny else "", label="Longest side", placeholder="the content's own, in pixels"
                )
                prompt = gr.Textbox("", label="What the result shows", placeholder="need not be said")
        with gr.Column(scale=6, min_width=300):
            outcome = Outcome("style", "The content and its new look appear here.", "Restyle it again")

    async def run(
        content: str | None,
        style: str | None,
        strength: float,
        color: str | float,
        model: str,
        steps: int,
        longest: str,
        prompt: str,
        request: gr.Request,
    ) -> AsyncIterator[dict[Any, Any]]:
        with sentences():
            if content is None or style is None:
                raise ImageError("two pictures are needed: drop a content and a style.")
            before = await studio.opened(content)
            settings = {"strength": strength, "color": color, "steps": steps, "longest": whole(longest, "longest")}
            settings["prompt"] = prompt.strip() or None
            images = {"image": before, "style": await studio.opened(style, "style")}
            looks = studio.painting(request, "stylize", settings, images, 1, model)
            named = f"{Path(content).stem[:20]} like {Path(style).stem[:16]}"
            async for change in outcome.shown(looks, before, cancel, lambda _: named):
                yield change

    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    inputs = [content, style_, strength, color, model, steps, longest, prompt]
    outputs = outcome.outputs(cancel)
    started = restyle.click(run, inputs, outputs, concurrency_limit=None, **hidden)
    restyle.click(None, js=in_sight("#style-slider"))
    started.then(lambda: [gr.update(interactive=False), None], None, [cancel, outcome.running], **hidden)
    cancel.click(stop(studio.engine), outcome.running, outcome.progress, queue=False, **hidden)
    outcome.onward.click(lambda path: path, outcome.result, content, **hidden)
    return content
