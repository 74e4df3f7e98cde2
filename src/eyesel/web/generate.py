"""The tab that paints: a prompt and settings, a look at the picture in the making, and what this visit has painted."""

import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from eyesel.diffusion import SCHEDULES, SOLVERS
from eyesel.infotext import printable
from eyesel.picture import Picture, settings_from
from eyesel.web.pictures import kept
from eyesel.web.studio import Studio, in_sight, line, note, sentences, sides, stop, whole
from eyesel.weights.diffusers_folder import recommended

OWN = "default"
FORM = ("prompt", "negative", "model", "seed", "size", "n", "steps", "guidance", "solver", "schedule")
FOR_TINY = [
    "a large fox on a blue background",
    "a small owl on a yellow background",
    "a large rocket on a purple background",
    "a large turtle on a green background",
]
FOR_OTHERS = [
    "a lighthouse on a cliff at dawn, oil painting",
    "a red fox in the snow, photograph",
    "a bowl of oranges on a wooden table, still life",
    "a street in the rain at night, watercolour",
]


@dataclass(frozen=True)
class Painted:
    """A picture of this visit: its file, the keywords that paint it again, and the same as text."""

    file: str
    settings: dict[str, Any]
    text: str


@dataclass(frozen=True)
class Generate:
    """What other tabs connect to: buttons, and the state with the file of the picture that is shown."""

    to_edit: gr.Button
    to_style: gr.Button
    to_see: gr.Button
    shown: gr.State


def generate(studio: Studio) -> Generate:
    shown, history, running = gr.State(), gr.State([]), gr.State()
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=5, min_width=300):
            prompt = gr.Textbox(
                "", label="Prompt", lines=3, max_lines=8, placeholder="What to paint", autofocus=True, elem_id="prompt"
            )
            negative = gr.Textbox("", label="Stay away from", lines=1, placeholder="Nothing in particular")
            with gr.Row():
                paint = gr.Button("Paint", variant="primary", scale=3, elem_id="paint")
                cancel = gr.Button("Cancel", variant="secondary", interactive=False, min_width=90, elem_id="cancel")
            gr.Examples(FOR_TINY if studio.tiny else FOR_OTHERS, prompt, label="For example", api_visibility="private")
            with gr.Accordion("Settings", open=False, elem_id="settings"):
                model = studio.models("painter")
                with gr.Row(elem_classes="low"):
                    seed = gr.Textbox("", label="Seed", placeholder="drawn by chance", scale=2, min_width=100)
                    dice = gr.Button("⚄ By chance", size="sm", min_width=84)
                    reuse = gr.Button("↺ As shown", size="sm", min_width=84)
                size = gr.Textbox(
                    "", label="Size", placeholder="the model's own, or 512x768", max_lines=1, elem_id="size"
                )
                n = gr.Slider(1, studio.options.limits.n, 1, step=1, label="Pictures", elem_id="count")
                usual = _usual(studio, studio.cards("painter")[0].id)
                steps = gr.Slider(1, studio.options.limits.steps, usual["steps"], step=1, label="Steps")
                guidance = gr.Slider(1, 30, usual["guidance"], step=0.1, label="Guidance")
                with gr.Row():
                    solver = gr.Dropdown([(OWN, ""), *SOLVERS], value="", label="Solver", min_width=130)
                    schedule = gr.Dropdown([(OWN, ""), *SCHEDULES], value="", label="Schedule", min_width=130)
                source = gr.File(
                    label="Drop a picture to read its settings", file_types=["image"], height=140, elem_id="source"
                )
        with gr.Column(scale=6, min_width=300):
            stage = gr.Image(
                label="Picture",
                show_label=False,
                interactive=False,
                format="webp",
                height=480,
                buttons=["download", "fullscreen"],
                elem_classes="stage",
                elem_id="stage",
            )
            progress = gr.HTML(line("What you paint appears here."), elem_id="progress")
            with gr.Row():
                to_edit = gr.Button("Edit it", size="sm", interactive=False, min_width=80)
                to_style = gr.Button("Restyle it", size="sm", interactive=False, min_width=80)
                to_see = gr.Button("Look at it", size="sm", interactive=False, min_width=80)
                again = gr.Button("Use its settings", size="sm", interactive=False, min_width=80)
            film = gr.Gallery(
                label="Painted in this visit",
                columns=6,
                height="auto",
                allow_preview=False,
                object_fit="contain",
                visible=False,
                buttons=[],
                elem_classes="film",
                elem_id="film",
            )
            text = gr.Textbox(
                label="How it was painted", lines=2, interactive=False, buttons=["copy"], visible=False, elem_id="told"
            )
    form = [prompt, negative, model, seed, size, n, steps, guidance, solver, schedule]
    actions = [to_edit, to_style, to_see, again]

    def show(picture: Painted) -> dict[Any, Any]:
        """A picture of this visit on the stage."""
        return {
            stage: picture.file,
            shown: picture,
            text: gr.update(value=picture.text, visible=True),
            **{button: gr.update(interactive=True) for button in actions},
        }

    async def run(
        past: list[Painted], before: Painted | None, request: gr.Request, *values: Any
    ) -> AsyncIterator[dict[Any, Any]]:
        said = dict(zip(FORM, values, strict=True))
        settings = {name: said[name] or None for name in ("negative", "solver", "schedule")}
        settings |= {name: said[name] for name in ("prompt", "steps", "guidance")}
        with sentences():
            settings |= {"seed": whole(said["seed"], "seed"), "size": sides(said["size"])}
            async for look in studio.painting(request, "generate", settings, {}, said["n"], said["model"]):
                change: dict[Any, Any] = {
                    progress: look.line,
                    running: look.job.id,
                    cancel: gr.update(interactive=True),
                }
                if look.preview is not None:
                    change[stage] = look.preview
                yield change
            if look.job.state != "done":
                yield {stage: None if before is None else before.file}
                return
            painted = [
                Painted(kept(each, stage, f"{said['prompt'][:32]} {each.seed}"), _again(each), each.parameters)
                for each in look.job.pictures
            ]
            past = [*painted, *past]
            tiles = [(each.file, f"seed {each.settings['seed']}") for each in past]
            yield {progress: look.line, history: past, film: gr.update(value=tiles, visible=True), **show(painted[0])}

    def rest() -> dict[Any, Any]:
        """When a painting has ended, however it has."""
        return {cancel: gr.update(interactive=False), running: None}

    def pick(past: list[Painted], event: gr.SelectData) -> dict[Any, Any]:
        return show(past[event.index])

    def fill(settings: dict[str, Any]) -> list[Any]:
        """The form, for settings as `settings_from` gives them; what it has no field for is told."""
        served = {name: card.id for card in studio.cards("painter") for name in (card.name, card.id)}
        name = settings.pop("model", None)
        model_now = served.get(name, studio.cards("painter")[0].id)
        usual = _usual(studio, model_now)
        given = {
            key: settings.pop(key, None) for key in ("prompt", "negative", "seed", "size", *usual, "solver", "schedule")
        }
        if name is not None and name not in served:
            note(f"It was painted by {printable(str(name))}, which is not served here.")
        if left := {key: value for key, value in settings.items() if value not in (None, False, 0, "")}:
            note("It also says " + printable(", ".join(f"{key} {value}" for key, value in left.items()))[:300])
        size = "" if given["size"] is None else "{}x{}".format(*given["size"])
        seed = "" if given["seed"] is None else str(given["seed"])
        return [
            *(given["prompt"] or "", given["negative"] or "", model_now, seed, size, 1),
            *(value if given[key] is None else given[key] for key, value in usual.items()),
            *(given["solver"] or "", given["schedule"] or ""),
        ]

    async def read(file: str | None) -> list[Any]:
        if file is None:
            return [gr.skip()] * len(form)
        with sentences(), warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            settings = settings_from(file)
            for each in notes:
                note(str(each.message).replace(file, "The picture"))
            return fill(settings)

    def own(id: str) -> list[Any]:
        """What the chosen model is best painted with."""
        return list(_usual(studio, id).values())

    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    outputs = [stage, progress, running, cancel, history, film, shown, text, *actions]
    started = gr.on(
        [paint.click, prompt.submit], run, [history, shown, *form], outputs, concurrency_limit=None, **hidden
    )
    started.then(rest, None, [cancel, running], **hidden)
    cancel.click(stop(studio.engine), running, progress, queue=False, **hidden)
    film.select(pick, history, outputs, **hidden)
    dice.click(lambda: "", None, seed, **hidden)
    reuse.click(lambda now: gr.skip() if now is None else str(now.settings["seed"]), shown, seed, **hidden)
    again.click(lambda now: fill(dict(now.settings)), shown, form, **hidden)
    source.upload(read, source, form, **hidden)
    model.input(own, model, [steps, guidance], **hidden)
    for shows in (paint.click, prompt.submit):
        shows(None, js=in_sight("#stage"))
    return Generate(to_edit, to_style, to_see, shown)


def _again(picture: Picture) -> dict[str, Any]:
    """The keywords that paint it again, as `settings_from` would read them from its file."""
    settings = {**picture.settings, "seed": picture.seed}
    return {**settings, "size": (settings.pop("width"), settings.pop("height"))}


def _usual(studio: Studio, id: str) -> dict[str, float]:
    usual = recommended(studio.engine.models.card(id, "painter").path)
    steps = min(usual.num_inference_steps, studio.options.limits.steps)
    return {"steps": steps, "guidance": usual.guidance_scale}
