"""What the network of a single file predicts: the file hardly says, so there are rules, and the first that knows wins.

An explicit choice, the metadata (modelspec, github.com/Stability-AI/ModelSpec), marker tensors (as ComfyUI reads them),
a sidecar `<name>.yaml` (as AUTOMATIC1111 reads it), for Stable Diffusion 2 the network's own answer, and else epsilon.
"""

import re
from collections.abc import Callable, Container, Mapping
from pathlib import Path

import torch

from eyesel.errors import SettingError
from eyesel.models.unet import UNet
from eyesel.weights.families import EPSILON, V_PREDICTION, Prediction

_SPELLINGS = {"epsilon": EPSILON, "eps": EPSILON, "v": V_PREDICTION, "v_prediction": V_PREDICTION}
MAX_SIDECAR_BYTES = 1 << 20


def predict(
    *,
    explicit: str | None,
    zero_terminal_snr: bool | None,
    metadata: Mapping[str, str],
    names: Container[str],
    sidecar: Path,
    ask: Callable[[], str] | None,
) -> Prediction:
    """The rules in order; `ask` is the network's own answer, None where nobody asks it."""
    if explicit is not None:
        check_prediction(explicit)
    rules: list[tuple[str, Callable[[], str | None]]] = [
        ("as asked for", lambda: explicit),
        ("metadata", lambda: _metadata(metadata)),
        ("marker tensor v_pred", lambda: V_PREDICTION if "v_pred" in names else None),
        (f"sidecar {sidecar.name}", lambda: _sidecar(sidecar)),
        ("the network's own answer", ask or (lambda: None)),
        ("the default", lambda: EPSILON),
    ]
    said, rule = next((said, rule) for rule, say in rules if (said := say()))
    snr_rule = ""
    if zero_terminal_snr is None:
        zero_terminal_snr = "ztsnr" in names
        snr_rule = "marker tensor ztsnr" if zero_terminal_snr else ""
    elif zero_terminal_snr:
        snr_rule = "zero terminal SNR as asked for"
    return Prediction(said, zero_terminal_snr, f"{rule}, {snr_rule}" if snr_rule else rule)


def check_prediction(name: str) -> None:
    if name not in (EPSILON, V_PREDICTION):
        raise SettingError(f"prediction_type is {name!r}; choose {EPSILON} or {V_PREDICTION}.")


def _metadata(metadata: Mapping[str, str]) -> str | None:
    stated = _SPELLINGS.get(metadata.get("modelspec.prediction_type", ""))
    of_768 = metadata.get("modelspec.architecture", "").startswith("stable-diffusion-v2-768-v")
    return stated or (V_PREDICTION if of_768 else None)


def _sidecar(path: Path) -> str | None:
    """ldm's config: `parameterization` of the model, eps where it is not named; sgm's: the scaling of its denoiser."""
    try:
        if path.stat().st_size > MAX_SIDECAR_BYTES:
            return None
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    if match := re.search(r"^\s*parameterization\s*:\s*[\"']?(\w+)", text, re.MULTILINE):
        return _SPELLINGS.get(match[1])
    if re.search(r"^\s*target\s*:.*\bVScaling\b", text, re.MULTILINE):
        return V_PREDICTION
    return EPSILON if re.search(r"^model\s*:", text, re.MULTILINE) else None


def ask_network(unet: UNet) -> str:
    """AUTOMATIC1111's probe of Stable Diffusion 2: at the last timestep a network that predicts the noise gives back
    about its input, one that predicts v gives about the negative of the picture behind it.
    """
    config, weight = unet.config, unet.conv_in.weight
    x = weight.new_full((1, config.in_channels, 8, 8), 0.5)
    context = weight.new_full((1, 2, config.context_dim), 0.5)
    t = torch.full((1,), 999.0, device=weight.device)
    with torch.inference_mode():
        difference = unet(x, t, context) - x
    return V_PREDICTION if difference.float().mean().item() < -1 else EPSILON
