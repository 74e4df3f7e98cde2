"""The mathematics of denoising, from noise to a latent; it knows no model, and the caller owns the loop.

    plan = from_scheduler_config(config, solver="euler")         # config: scheduler_config.json
    schedule = plan.schedule(steps=25)
    noise = NoiseSource(seeds=[7, 8], device="cpu")              # one generator per image

    network = guided(unet, {"context": prompt}, {"context": empty}, guidance=7.5)    # unet(x, t, context=...)
    x = plan.start(noise.draw((2, 4, 64, 64)), schedule)
    for step in plan.solve(Denoiser(network, schedule), x, schedule, noise):
        ...                                                      # step.index, step.denoised: progress, preview, cancel
    latents = step.x

`unet` receives x of variance about 1 in float32 and t (B,) in float32, and casts as it likes; the state stays float32.
"""

from eyesel.diffusion.catalogue import SOLVERS
from eyesel.diffusion.denoiser import Denoiser, StepDenoiser
from eyesel.diffusion.guidance import Composition, Network, guided, within
from eyesel.diffusion.inpainting import kept, shown
from eyesel.diffusion.noise import NoiseSource, Variation
from eyesel.diffusion.plan import Plan, from_scheduler_config
from eyesel.diffusion.schedule import NoiseSchedule, Schedule
from eyesel.diffusion.solvers import Step
from eyesel.diffusion.spacing import SCHEDULES

__all__ = [
    "SCHEDULES",
    "SOLVERS",
    "Composition",
    "Denoiser",
    "Network",
    "NoiseSchedule",
    "NoiseSource",
    "Plan",
    "Schedule",
    "Step",
    "StepDenoiser",
    "Variation",
    "from_scheduler_config",
    "guided",
    "kept",
    "shown",
    "within",
]
