"""The tab that compares two of the models that are served: by their facts, at the same work, and as measured."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import gradio as gr

from eyesel.compare.comparison import Comparison, Model
from eyesel.compare.facts import facts
from eyesel.compare.measure import CAPABILITIES, Capability, Measured, machine, measure
from eyesel.compare.report import UNKNOWN, rows
from eyesel.serve.pool import ModelCard
from eyesel.web.pictures import view
from eyesel.web.studio import Studio, bars, client, line, sentences

SECONDS = 60.0  # that each model may take to be timed and tried
SEED = 1  # both painters start from the same noise


def compare(studio: Studio) -> None:
    cards = {f"{card.id} · {card.kind}": card for card in studio.engine.models.cards()}
    names = list(cards)
    alike = [name for name in names if cards[name].kind == cards[names[0]].kind]
    with gr.Row():
        first = gr.Dropdown(names, value=names[0], label="One model", min_width=190, elem_id="compare-first")
        other = alike[1] if len(alike) > 1 else names[-1]
        second = gr.Dropdown(names, value=other, label="Another", min_width=190, elem_id="compare-second")
    prompt = gr.Textbox("", label="Have both paint", placeholder="A prompt", visible=False, elem_id="compare-prompt")
    picture = gr.Image(
        label="Have both look at", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=200,
        visible=False, buttons=[], elem_classes="stage place",
    )  # fmt: skip
    with gr.Row():
        told = gr.Button("Compare", variant="primary", scale=2, elem_id="compare")
        measured = gr.Button("Measure", min_width=140, elem_id="measure")
    progress = gr.HTML(line("What they are stands in their files; to measure them takes up to two minutes."))
    with gr.Row(visible=False) as works:
        painted = [
            gr.Image(interactive=False, height=320, format="png", buttons=[], elem_classes="stage") for _ in "ab"
        ]
    with gr.Row(visible=False) as sights:
        seen = [gr.HTML() for _ in "ab"]
    report = gr.Markdown(elem_id="report", elem_classes="report")

    def fields(one: str, two: str) -> list[Any]:
        """The work that both can do."""
        kinds = {cards[one].kind, cards[two].kind}
        return [gr.update(visible=kinds == {"painter"}), gr.update(visible=kinds == {"classifier"})]

    async def run(
        one: str, two: str, prompt: str, file: str | None, request: gr.Request
    ) -> AsyncIterator[dict[Any, Any]]:
        pair = cards[one], cards[two]
        kinds = {card.kind for card in pair}
        with sentences():
            models = await asyncio.to_thread(_unmeasured, studio, pair)
            yield {progress: line(""), report: _report(models), works: gr.update(visible=False)}
            if kinds == {"painter"} and prompt.strip():
                for place, card in zip(painted, pair, strict=True):
                    settings = {"prompt": prompt, "seed": SEED}
                    async for look in studio.painting(request, "generate", settings, {}, 1, card.id):
                        change = {progress: look.line, works: gr.update(visible=True)}
                        if look.job.state == "done":
                            change[place] = gr.update(value=view(look.job.pictures[0].image), label=card.id)
                        yield change
            if kinds == {"classifier"} and file is not None:
                image = await studio.opened(file)
                found = [(await studio.engine.classify([image], card.id, client=client(request)))[0] for card in pair]
                texts = [f"<p>{card.id}</p>{bars(each)}" for card, each in zip(pair, found, strict=True)]
                yield {sights: gr.update(visible=True), **dict(zip(seen, texts, strict=True))}

    async def timed(one: str, two: str) -> AsyncIterator[dict[Any, Any]]:
        with sentences():
            models = await asyncio.to_thread(_unmeasured, studio, (cards[one], cards[two]))
            yield {progress: line("Timing them and trying them out, in processes of their own")}
            known, options = [each.facts for each in models], studio.options
            found = await asyncio.to_thread(measure, known, options.device, options.precision, SECONDS)
            models = [Model(each, what) for each, what in zip(known, found, strict=True)]
            yield {progress: line(f"Measured on {machine()}"), report: _report(models)}

    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    for choice in (first, second):
        choice.change(fields, [first, second], [prompt, picture], **hidden)
    outputs = [progress, report, works, *painted, sights, *seen]
    gr.on([told.click, prompt.submit], run, [first, second, prompt, picture], outputs, concurrency_limit=None, **hidden)
    measured.click(timed, [first, second], [progress, report], concurrency_limit=1, **hidden)


def _unmeasured(studio: Studio, cards: Iterable[ModelCard]) -> list[Model]:
    """What is known from the files alone."""
    models = []
    for card in cards:
        nothing = Measured(capabilities={name: Capability(None) for name in CAPABILITIES[card.kind]})
        models.append(Model(facts(card.name, card.kind, studio.options.offline), nothing))
    return models


def _report(models: list[Model]) -> str:
    """The verdict, and what is known of at least one of the two."""
    comparison = Comparison(models[0], models[1])
    lines = [("", *comparison.names()), ("---",) * 3]
    lines += [row for row in rows(comparison) if not {*row[1:]} <= {UNKNOWN, "-"}]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    table = "\n".join(f"| {' | '.join(line)} |" for line in escaped)
    return "\n\n".join([comparison.verdict(), table, *(f"- {note}" for note in comparison.notes)])
