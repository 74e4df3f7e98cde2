"""What takes about ten minutes together, into results.md; its other sections have commands of their own."""

from benchmarks import cold_start, folders, loading, search, unet_step, vit
from benchmarks.measure import main

main(
    {
        "vit": vit.run,
        "unet_step": unet_step.run,
        "loading": loading.run,
        "cold_start": cold_start.run,
        "folders": folders.run,
        "search": search.run,
    },
    __doc__,
    write=True,
)
