"""The tab that compares two of the models that are served: at the same work, by their facts, and as measured."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from eyesel.compare.comparison import Comparison, Model
from eyesel.compare.facts import facts
from eyesel.compare.measure import CAPABILITIES, Capability, Measured, machine, measure
from eyesel.compare.report import markdown
from eyesel.serve.pool import ModelCard
from eyesel.web.studio import Studio, line, sentences

SECONDS = 60.0  # that each model may take to be timed and tried


def compare(studio: Studio) -> None:
    cards = {f"{card.id} · {card.kind}": card for card in studio.engine.models.cards()}
    names = list(cards)
    with gr.Row():
        first = gr.Dropdown(names, value=names[0], label="One model", min_width=140, elem_id="compare-first")
        second = gr.Dropdown(names, value=names[-1], label="Another", min_width=140, elem_id="compare-second")
    with gr.Row():
        told = gr.Button("Compare", variant="primary", scale=2, elem_id="compare")
        measured = gr.Button("Measure, too", scale=1, min_width=140, elem_id="measure")
    progress = gr.HTML(line("What they are is told from their files; to measure them takes up to two minutes."), padding=False)
    report = gr.Markdown(elem_id="report", elem_classes="report")

    async def facts_only(one: str, other: str) -> list[Any]:
        with sentences():
            models = await asyncio.to_thread(_unmeasured, studio, cards[one], cards[other])
            return [line(""), markdown(Comparison(*models, machine=machine()))]

    async def both(one: str, other: str) -> AsyncIterator[list[Any]]:
        with sentences():
            models = await asyncio.to_thread(_unmeasured, studio, cards[one], cards[other])
            yield [line("Timing and trying them out, in processes of their own"), gr.skip()]
            found = await asyncio.to_thread(
                measure, [each.facts for each in models], studio.options.device, studio.options.precision, SECONDS
            )
            timed = [Model(each.facts, what) for each, what in zip(models, found, strict=True)]
            yield [line(""), markdown(Comparison(timed[0], timed[1], machine=machine()))]

    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
    told.click(facts_only, [first, second], [progress, report], **hidden)
    measured.click(both, [first, second], [progress, report], concurrency_limit=1, **hidden)


def _unmeasured(studio: Studio, *cards: ModelCard) -> list[Model]:
    """What is known from the files alone."""
    models = []
    for card in cards:
        nothing = Measured(capabilities={name: Capability(None) for name in CAPABILITIES[card.kind]})
        models.append(Model(facts(card.name, card.kind, studio.options.offline), nothing))
    return models
