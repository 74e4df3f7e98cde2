from pathlib import Path

from benchmarks import cold_start, folders, loading, memory, search, training, unet_step, vit
from benchmarks.measure import main

main(
    {
        "vit": vit.run,
        "folders": folders.run,
        "unet_step": unet_step.run,
        "loading": loading.run,
        "memory": memory.run,
        "cold_start": cold_start.run,
        "search": search.run,
        "training": training.run,
    },
    "eyesel beside transformers and diffusers",
    Path(__file__).parent / "results.md",
)
