"""What ComfyUI writes into its pictures: the graph that painted them, as JSON under "prompt" (and again, with the
places of its boxes on the screen, under "workflow").

    {"3": {"class_type": "KSampler", "inputs": {"seed": 7, "steps": 20, "positive": ["6", 0], ...}}, "6": ...}

An input is a value, or a link [node, output]. Of the first sampler in the graph the settings are read, and whatever its
links lead to; graphs can do more than that, so that a picture need not come out the same.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from eyesel.infotext.rows import resolve_names

Node = Mapping[str, Any]
SAMPLERS = ("KSampler", "KSamplerAdvanced")
SETTINGS = {
    "seed": ("seed", "noise_seed"),
    "steps": ("steps",),
    "guidance": ("cfg",),
    "solver": ("sampler_name",),
    "schedule": ("scheduler",),
}
MOST_NODES = 10_000


def read(metadata: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]] | None:
    """(settings, what else is said), or None where there is no graph."""
    graph = _nodes(metadata.get("prompt"))
    if not graph:
        workflow = _json(metadata.get("workflow"))
        nodes = workflow.get("nodes") if isinstance(workflow, dict) else None
        return ({}, {"workflow": f"{len(nodes)} nodes"}) if isinstance(nodes, list) else None
    kinds = ", ".join(sorted({str(node["class_type"]) for node in graph.values()}))
    sampler = next((node for node in graph.values() if node["class_type"] in SAMPLERS), None)
    if sampler is None:
        return {}, {"nodes": kinds}
    inputs = sampler["inputs"]
    settings = {
        name: next((inputs[key] for key in keys if isinstance(inputs.get(key), int | float | str)), None)
        for name, keys in SETTINGS.items()
    }
    settings["rng"] = "cpu"
    for name, link in (("prompt", "positive"), ("negative", "negative")):
        settings[name] = _first(graph, sampler, link, ("text", "text_g"), str)
    settings["model"] = _first(graph, sampler, "model", ("ckpt_name",), str)
    settings["width"] = _first(graph, sampler, "latent_image", ("width",), int)
    settings["height"] = _first(graph, sampler, "latent_image", ("height",), int)
    if skip := _first(graph, sampler, "positive", ("stop_at_clip_layer",), int):
        settings["clip_skip"] = abs(skip)
    if isinstance(denoise := inputs.get("denoise"), int | float) and denoise < 1:
        settings["strength"] = denoise
    settings["loras"] = tuple(_loras(graph, sampler)) or None
    resolve_names(settings)
    return {name: value for name, value in settings.items() if value is not None}, {"nodes": kinds}


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def _nodes(text: str | None) -> dict[str, Node]:
    graph = _json(text)
    nodes = graph.items() if isinstance(graph, dict) else ()
    return {
        key: node
        for key, node in list(nodes)[:MOST_NODES]
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict) and "class_type" in node
    }


def _upstream(graph: Mapping[str, Node], node: Node, link: str) -> Iterator[Node]:
    """The nodes behind one input of a node, nearest first, each once."""
    waiting, seen = deque([node["inputs"].get(link)]), set()
    while waiting:
        source = waiting.popleft()
        key = str(source[0]) if isinstance(source, list) and source else ""
        if key in graph and key not in seen:
            seen.add(key)
            yield graph[key]
            waiting += graph[key]["inputs"].values()


def _first(graph: Mapping[str, Node], node: Node, link: str, names: tuple[str, ...], kind: type) -> Any:
    return next(
        (
            behind["inputs"][name]
            for behind in _upstream(graph, node, link)
            for name in names
            if isinstance(behind["inputs"].get(name), kind)
        ),
        None,
    )


def _loras(graph: Mapping[str, Node], sampler: Node) -> Iterator[tuple[str, float, float]]:
    for node in _upstream(graph, sampler, "model"):
        inputs = node["inputs"]
        name, unet = inputs.get("lora_name"), inputs.get("strength_model")
        if isinstance(name, str) and isinstance(unet, int | float):
            text = inputs.get("strength_clip")
            yield name, text if isinstance(text, int | float) else 0.0, unet
