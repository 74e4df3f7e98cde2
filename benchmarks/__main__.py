"""What takes no more than about ten minutes together; the rest of results.md has commands of its own."""

from benchmarks import cold_start, folders, loading, search, training, unet_step, vit
from benchmarks.measure import main

main(
    {
        "vit": vit.run,
        "unet_step": unet_step.run,
        "loading": loading.run,
        "cold_start": cold_start.run,
        "folders": folders.run,
        "search": search.run,
        "training": training.run,
    },
    __doc__,
    write=True,
)
