"""What InvokeAI writes into its pictures: JSON under "invokeai_metadata" since version 3, "sd-metadata" before."""

import json
from collections.abc import Mapping
from typing import Any

from eyesel.infotext.rows import resolve_names

KEYS = ("invokeai_metadata", "sd-metadata")
SAME = ("seed", "steps", "width", "height")


def read(metadata: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]] | None:
    """(settings, what else is said), or None where InvokeAI has written nothing."""
    key = next((key for key in KEYS if key in metadata), None)
    if key is None:
        return None
    try:
        said = json.loads(metadata[key])
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        return {}, {key: "no JSON object that could be read"}
    image = said.pop("image", None)
    said |= image if isinstance(image, dict) else {}  # where sd-metadata keeps the settings of the picture
    model = said.pop("model", None)
    if isinstance(model, dict):
        model = model.pop("name", None) or model.pop("model_name", None)
    prompt = said.pop("positive_prompt", None) or said.pop("prompt", None)
    if isinstance(prompt, list):  # [{"prompt": "a fox", "weight": 1.0}, ...]
        prompt = ", ".join(str(part.get("prompt")) for part in prompt if isinstance(part, dict))
    rng = said.pop("rand_device", None)
    skip = said.pop("clip_skip", None)
    settings = {
        "prompt": prompt,
        "negative": said.pop("negative_prompt", None),
        "guidance": said.pop("cfg_scale", None),
        "guidance_rescale": said.pop("cfg_rescale_multiplier", None),
        "solver": said.pop("scheduler", None) or said.pop("sampler", None),
        "rng": {"cpu": "cpu", "cuda": "philox"}.get(rng) if isinstance(rng, str) else None,
        "model": said.pop("model_weights", None) or model,
        "clip_skip": skip + 1 if isinstance(skip, int) and skip > 0 else None,  # it counts the layers left out
        "seamless": True if said.pop("seamless", None) is True else None,
        **{name: said.pop(name, None) for name in SAME},
    }
    resolve_names(settings)
    unknown = {name: value if isinstance(value, str) else json.dumps(value) for name, value in said.items()}
    return {name: value for name, value in settings.items() if value is not None}, unknown
