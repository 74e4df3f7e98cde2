"""What other programs call the solvers and schedules; names are compared without case, `_`, `-` and `k_` in front.

A solver's name may carry a schedule's behind it, as in "DPM++ 2M Karras" and "k_dpmpp_2m_ka".
"""

from difflib import get_close_matches

from eyesel.diffusion.catalogue import OWN_SOLVER, SOLVERS
from eyesel.diffusion.spacing import SCHEDULES
from eyesel.errors import SettingError

ALIASES = {
    # AUTOMATIC1111
    "Euler a": "euler_ancestral",
    "DPM2 a": "dpm2_ancestral",
    "DPM++ 2S a": "dpmpp_2s_ancestral",
    "DPM++ 2S": "dpmpp_2s_ancestral",
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ 2M SDE": "dpmpp_2m_sde",
    "DPM++ SDE": "dpmpp_sde",
    "PLMS": "pndm",
    "dpm_2_a": "dpm2_ancestral",
    "dpmpp_2s_a": "dpmpp_2s_ancestral",
    # ComfyUI
    "dpm_2": "dpm2",
    "dpm_2_ancestral": "dpm2_ancestral",
    "uni_pc": "unipc",
    "uni_pc_bh2": "unipc",
    "dpmpp_sde_gpu": "dpmpp_sde",
    "dpmpp_2m_sde_gpu": "dpmpp_2m_sde",
    # stable-diffusion.cpp
    "dpm++2m": "dpmpp_2m",
    "dpm++2s_a": "dpmpp_2s_ancestral",
    # InvokeAI
    "kdpm_2": "dpm2",
    "kdpm_2_a": "dpm2_ancestral",
    # the model cards of SDXL-Turbo and SD-Turbo, for one to four steps
    "turbo": "euler_ancestral trailing",
    # diffusers
    **{name: solver for name, solver in OWN_SOLVER.items() if solver is not None},
}
SCHEDULE_ALIASES = {
    # AUTOMATIC1111
    "ka": "karras",
    "Uniform": "normal",
    "SGMUniform": "sgm_uniform",
    "Align Your Steps": "align_your_steps",
    "AYS": "align_your_steps",
    "AYS SDXL": "align_your_steps_xl",
    "Align Your Steps SDXL": "align_your_steps_xl",
    # stable-diffusion.cpp
    "discrete": "normal",
    # InvokeAI
    "k": "karras",
    # diffusers
    **{f"use_{name}_sigmas": name for name in ("karras", "exponential", "beta")},
}
AUTOMATIC = "automatic"  # AUTOMATIC1111 for the solver's own schedule; here the checkpoint's


def plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split()).removeprefix("k ")


_SOLVERS = {**{plain(name): name for name in SOLVERS}, **{plain(name): solver for name, solver in ALIASES.items()}}
_SCHEDULES = {
    **{plain(name): name for name in SCHEDULES},
    **{plain(name): schedule for name, schedule in SCHEDULE_ALIASES.items()},
}


def named_schedule(name: str | None) -> str | None:
    """The schedule of any of its names; None and "Automatic" are the checkpoint's own."""
    if name is None or plain(name) == AUTOMATIC:
        return None
    if plain(name) not in _SCHEDULES:
        raise SettingError(f"schedule is {name!r}; the nearest names are {_nearest(name, _SCHEDULES)}.")
    return _SCHEDULES[plain(name)]


def named_solver(name: str) -> tuple[str, str | None]:
    """The solver of any of its names, and the schedule that the name carries behind it."""
    words = plain(name).split()
    for end in range(len(words), 0, -1):
        head, tail = " ".join(words[:end]), " ".join(words[end:])
        if head in _SOLVERS and (not tail or tail == AUTOMATIC or tail in _SCHEDULES):
            solver, _, schedule = _SOLVERS[head].partition(" ")
            return solver, _SCHEDULES.get(tail, schedule or None)
    raise SettingError(f"solver is {name!r}; the nearest names are {_nearest(name, _SOLVERS)}.")


def _nearest(name: str, names: dict[str, str]) -> str:
    close = get_close_matches(plain(name), names, n=5, cutoff=0.0)
    return ", ".join(dict.fromkeys(names[match] for match in close))
