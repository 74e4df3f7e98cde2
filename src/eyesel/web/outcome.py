"""What came of a picture: before and after under one handle, with how far the work is, a download, and what next."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr
from PIL import Image

from eyesel.picture import Picture
from eyesel.web.pictures import kept, view
from eyesel.web.studio import Look, line


class Outcome:
    """Made where it is to stand on the page; `result` is the file of the finished picture, `running` its job."""

    def __init__(self, name: str, hint: str, again: str) -> None:
        self.running, self.result = gr.State(), gr.State()
        self.slider = gr.ImageSlider(
            label="Before and after", show_label=False, format="png", height=480, interactive=False,
            buttons=["fullscreen"], elem_classes="stage", elem_id=f"{name}-slider",
        )  # fmt: skip
        self.progress = gr.HTML(line(hint))
        with gr.Row():
            self.download = gr.DownloadButton("Download", size="sm", interactive=False, elem_id=f"{name}-download")
            self.onward = gr.Button(again, size="sm", interactive=False)

    def outputs(self, cancel: gr.Button) -> list[Any]:
        """All that `shown` changes."""
        return [self.slider, self.progress, self.running, cancel, self.result, self.download, self.onward]

    async def shown(
        self, looks: AsyncIterator[Look], before: Image.Image, cancel: gr.Button, name: Callable[[Picture], str]
    ) -> AsyncIterator[dict[Any, Any]]:
        """Changes of the page while a job goes on, and the last when it is done."""
        look = None
        async for look in looks:
            change: dict[Any, Any] = {
                self.progress: look.line,
                self.running: look.job.id,
                cancel: gr.update(interactive=True),
            }
            if look.preview is not None:
                change[self.slider] = (view(before), view(look.preview))
            yield change
        if look is not None and look.job.state == "done":
            after = look.job.pictures[0]
            path = kept(after, self.slider, name(after))
            yield {
                self.slider: (view(before), view(after.image)),
                self.result: path,
                self.download: gr.update(value=path, interactive=True),
                self.onward: gr.update(interactive=True),
            }
