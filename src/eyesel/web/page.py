"""The page as a whole, and its place in the application of a server."""

import gradio as gr
from fastapi import FastAPI

from eyesel.search.index import Index
from eyesel.serve.engine import Engine
from eyesel.serve.options import ServerOptions
from eyesel.web import look
from eyesel.web.closed import Closed
from eyesel.web.compare import compare
from eyesel.web.edit import edit
from eyesel.web.generate import generate
from eyesel.web.see import see
from eyesel.web.studio import Studio
from eyesel.web.style import style

HOUR = 3600  # seconds
KEPT = 24 * HOUR  # of a picture that a visit left behind


def page(engine: Engine, options: ServerOptions) -> gr.Blocks:
    """The page of an engine, which may be started later.

    Raises `SettingError` where there is no index in the folder `options.index`.
    """
    index = None if options.index is None else Index.open(options.index)
    studio = Studio(engine, options, index)
    painters, classifiers = studio.cards("painter"), studio.cards("classifier")
    with gr.Blocks(title="eyesel", analytics_enabled=False, delete_cache=(HOUR, KEPT), fill_width=True) as blocks:
        gr.HTML(look.HEADER)
        with gr.Tabs(selected="generate" if painters else "see") as tabs:
            places = {}
            if painters:
                with gr.Tab("Generate", id="generate"):
                    painting = generate(studio)
                with gr.Tab("Edit", id="edit"):
                    places["edit"] = edit(studio)
                with gr.Tab("Style", id="style"):
                    places["style"] = style(studio)
            if classifiers:
                with gr.Tab("See", id="see"):
                    places["see"] = see(studio, blocks)
            with gr.Tab("Compare", id="compare"):
                compare(studio)
        if painters:
            buttons = {"edit": painting.to_edit, "style": painting.to_style, "see": painting.to_see}
            for name, place in places.items():
                _send(buttons[name], painting.shown, place, tabs, name)
    return blocks


def _send(button: gr.Button, shown: gr.State, place: gr.Image, tabs: gr.Tabs, name: str) -> None:
    """The picture that is shown goes to the place in another tab, and so does the visitor."""
    button.click(
        lambda now: [now.file, gr.Tabs(selected=name)],
        shown,
        [place, tabs],
        api_visibility="private",
        show_progress="hidden",
    )


def mount(app: FastAPI, engine: Engine, options: ServerOptions) -> None:
    """Put the page at `/`, behind all routes that are there already; the application asks for the key of a server."""
    blocks = page(engine, options)
    blocks.queue(default_concurrency_limit=None)  # the engine has a queue of its own
    gr.mount_gradio_app(
        app,
        blocks,
        "/",
        theme=look.theme(),
        css_paths=look.CSS,
        head=look.HEAD,
        footer_links=["settings"],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        max_file_size=options.limits.body,
    )
    app.add_middleware(Closed)
