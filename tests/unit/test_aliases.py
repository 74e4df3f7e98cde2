"""The names that other programs give to solvers and schedules."""

import pytest

from eyesel.diffusion import SCHEDULES, SOLVERS, from_scheduler_config
from eyesel.diffusion.aliases import ALIASES, SCHEDULE_ALIASES, named_schedule, named_solver
from eyesel.errors import SettingError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Euler", ("euler", None)),
        ("Euler a", ("euler_ancestral", None)),
        ("euler A", ("euler_ancestral", None)),
        ("k_euler_a", ("euler_ancestral", None)),
        ("LMS Karras", ("lms", "karras")),
        ("Heun", ("heun", None)),
        ("DPM2 a Karras", ("dpm2_ancestral", "karras")),
        ("DPM++ 2S a", ("dpmpp_2s_ancestral", None)),
        ("DPM++ 2M", ("dpmpp_2m", None)),
        ("DPM++ 2M Karras", ("dpmpp_2m", "karras")),
        ("dpm++ 2m karras", ("dpmpp_2m", "karras")),
        ("k_dpmpp_2m_ka", ("dpmpp_2m", "karras")),
        ("DPM++ 2M SDE Exponential", ("dpmpp_2m_sde", "exponential")),
        ("DPM++ 2M SDE Karras", ("dpmpp_2m_sde", "karras")),
        ("DPM++ SDE", ("dpmpp_sde", None)),
        ("DPM++ 2M SGM Uniform", ("dpmpp_2m", "sgm_uniform")),
        ("DPM++ 2M Automatic", ("dpmpp_2m", None)),
        ("DDIM", ("ddim", None)),
        ("PLMS", ("pndm", None)),
        ("UniPC", ("unipc", None)),
        ("uni_pc", ("unipc", None)),
        ("LCM", ("lcm", None)),
        ("turbo", ("euler_ancestral", "trailing")),
        ("turbo sgm_uniform", ("euler_ancestral", "sgm_uniform")),
        ("EulerDiscreteScheduler", ("euler", None)),
        ("DPMSolverMultistepScheduler", ("dpmpp_2m", None)),
        ("dpmsolversdescheduler", ("dpmpp_sde", None)),
        ("KDPM2AncestralDiscreteScheduler", ("dpm2_ancestral", None)),
    ],
)
def test_names_of_solvers(name: str, expected: tuple[str, str | None]) -> None:
    assert named_solver(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, None),
        ("Automatic", None),
        ("Karras", "karras"),
        ("SGM Uniform", "sgm_uniform"),
        ("SGMUniform", "sgm_uniform"),
        ("Uniform", "normal"),
        ("AYS", "align_your_steps"),
        ("Align Your Steps", "align_your_steps"),
        ("use_beta_sigmas", "beta"),
        ("trailing", "trailing"),
    ],
)
def test_names_of_schedules(name: str | None, expected: str | None) -> None:
    assert named_schedule(name) == expected


def test_every_name_leads_somewhere() -> None:
    assert all(named_solver(name)[0] in SOLVERS for name in [*SOLVERS, *ALIASES])
    assert all(named_schedule(name) in SCHEDULES for name in [*SCHEDULES, *SCHEDULE_ALIASES])


@pytest.mark.parametrize("name", ["DPM++ 3M SDE", "dpmpp2m", "Euler ancestrol", "", "DPM++ 2M Caras"])
def test_unknown_solvers_are_answered_with_the_nearest(name: str) -> None:
    with pytest.raises(SettingError, match=r"solver is .*; the nearest names are .*(dpmpp_2m|euler)"):
        named_solver(name)


def test_unknown_schedules_are_answered_with_the_nearest() -> None:
    with pytest.raises(SettingError, match="schedule is 'carras'; the nearest names are karras, "):
        named_schedule("carras")


def test_a_name_and_a_setting_must_not_contradict() -> None:
    assert from_scheduler_config({}, "DPM++ 2M Karras", schedule="karras").spread == "karras"
    with pytest.raises(SettingError, match="'DPM\\+\\+ 2M Karras' names another schedule than 'beta'"):
        from_scheduler_config({}, "DPM++ 2M Karras", schedule="beta")
