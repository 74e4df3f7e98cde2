"""What a LoRA, an embedding or an IP-Adapter is, from its file alone: for people who found one and wonder."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eyesel.errors import CheckpointError
from eyesel.weights.ip_adapter import open_ip_adapter
from eyesel.weights.kind import kind_of_file
from eyesel.weights.lora_file import StoredLora, is_lora_folder, open_lora
from eyesel.weights.lora_spelling import part_of
from eyesel.weights.textual_inversion import is_embedding_folder, open_embedding

MOST_WORDS = 8

# What a module does, by its name; the first that matches.
_DOES = {
    "cross-attention": r"attn2",
    "attention": r"attn1|self_attn",
    "feed-forward": r"[._]ff[._]|mlp",
    "projections": r"proj_in|proj_out|text_projection",
    "time": r"time_emb|emb_layers|time_embed|label_emb|add_embedding",
    "norms": r"norm",
    "convolutions": r"conv|in_layers|out_layers|skip_connection|_op$|\.op$|samplers|input_blocks|output_blocks",
}


def describe_adapter(path: Path) -> dict[str, Any] | None:
    """Facts about a LoRA, an embedding or an IP-Adapter, its file or its folder; None if it is none of them.

    A LoRA that cannot be applied, broken or of a kind that eyesel does not know, is described by the reason.
    """
    kind = kind_of_file(path) if path.is_file() else None
    if kind == "lora" or (path.is_dir() and is_lora_folder(path)):
        try:
            return _lora(open_lora(path))
        except CheckpointError as error:
            return {"is": "a LoRA", "cannot be used": str(error)}
    if kind == "embedding" or (path.is_dir() and is_embedding_folder(path)):
        embedding = open_embedding(path)
        return {
            "is": "a textual-inversion embedding",
            "base": embedding.base or "unknown",
            "words": list(embedding.words),
            "vectors": embedding.vectors[0].shape[0],
            "numbers each": " and ".join(map(str, embedding.widths)),
        }
    if kind == "ip-adapter":
        adapter = open_ip_adapter(path)
        tokens = getattr(adapter.projection.config, "tokens", "one for each of the image encoder's")
        return {
            "is": "an IP-Adapter",
            "kind": adapter.kind.name,
            "base": adapter.base or f"unknown, of a context of {adapter.context_dim} numbers",
            "image encoder": adapter.wants,
            "tokens": tokens,
            "layers": len(adapter.keys),
        }
    return None


def _lora(lora: StoredLora) -> dict[str, Any]:
    modules = lora.modules.values()
    kinds = sorted({module.kind for module in modules})
    if any(module.decomposed for module in modules):
        kinds.append("decomposed (DoRA)")
    said = {
        "title": lora.metadata.get("modelspec.title") or lora.metadata.get("ss_output_name"),
        "trained on": lora.metadata.get("ss_sd_model_name"),
        "trigger words": _trigger_words(lora.metadata),
        "brings along": list(lora.words),
    }
    by_part: dict[str, Counter[str]] = {}
    for name in lora.modules:
        by_part.setdefault(part_of(name), Counter())[_does(name)] += 1
    return {
        "is": "a LoRA",
        "method": ", ".join(kinds),
        "base": lora.base or "unknown",
        "rank": _range(module.rank for module in modules),
        "alpha": _range(module.alpha for module in modules),
        **{label: value for label, value in said.items() if value},
        "parts": {part: {"modules": does.total(), **does} for part, does in by_part.items()},
    }


def _range(values: Iterable[float | None]) -> str:
    known = sorted({value for value in values if value is not None})
    if not known:
        return "none"
    return f"{known[0]:g}" if len(known) == 1 else f"{known[0]:g} to {known[-1]:g}"


def _does(module: str) -> str:
    return next((what for what, pattern in _DOES.items() if re.search(pattern, module)), "others")


def _trigger_words(metadata: Mapping[str, str]) -> list[str]:
    """What the author names, then the commonest captions of the training, as kohya's sd-scripts count them."""
    counts: Counter[str] = Counter()
    try:
        folders = json.loads(metadata.get("ss_tag_frequency", "{}"))
    except (ValueError, RecursionError):  # cut short by a program that could not hold it all
        folders = {}
    for tags in folders.values() if isinstance(folders, dict) else ():
        numbers = tags.items() if isinstance(tags, dict) else ()
        counts.update({tag.strip(): n for tag, n in numbers if isinstance(n, int | float) and math.isfinite(n)})
    phrase = metadata.get("modelspec.trigger_phrase", "").strip()
    tags = [tag for tag, _ in counts.most_common(MOST_WORDS) if tag and tag != phrase]
    return [*([phrase] if phrase else []), *tags]
