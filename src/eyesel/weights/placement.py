"""Where a model runs and in which precision."""

import torch

from eyesel.errors import SettingError

PRECISIONS = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}

# Below this, a CPU gains nothing from bfloat16: the time goes into other things than products. Small models keep
# float32's digits.
SMALL_MODEL = 50_000_000


def choose_device(device: str) -> torch.device:
    """`auto` is the first accelerator, else the CPU; anything else is torch's name for a device."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen).item()  # also fails on `meta`, which computes nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingError(f"Device {device!r} cannot be used here; try auto, cpu, cuda or mps.") from error
    return chosen


def choose_precision(precision: str, device: torch.device, parameters: int) -> torch.dtype | None:
    """The dtype that the weights of a model of so many parameters are held in; None keeps the file's own.

    `auto` is bfloat16 where the hardware multiplies it natively, else float16 on GPUs and float32 on CPUs.
    """
    if precision == "file":
        return None
    if precision != "auto":
        if precision not in PRECISIONS:
            choices = ", ".join(["auto", "file", *PRECISIONS])
            raise SettingError(f"Precision {precision!r} is unknown; choose one of {choices}.")
        return PRECISIONS[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if native and parameters >= SMALL_MODEL else torch.float32
    return torch.float16
