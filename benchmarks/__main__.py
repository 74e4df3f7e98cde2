from pathlib import Path

from benchmarks import cold_start, loading, search, unet_step, vit
from benchmarks.measure import main

main(
    {
        "vit": vit.run,
        "unet_step": unet_step.run,
        "loading": loading.run,
        "cold_start": cold_start.run,
        "search": search.run,
    },
    "eyesel beside transformers and diffusers",
    Path(__file__).parent / "results.md",
)
