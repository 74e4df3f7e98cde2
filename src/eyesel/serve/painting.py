"""Jobs that are painted together, step by step: compatible ones share a batch."""

from collections.abc import Callable, Hashable, Iterator

from eyesel.picture import Painting, Picture
from eyesel.serve.jobs import Job
from eyesel.settings import Settings
from eyesel.stable_diffusion import StableDiffusion
from eyesel.text.prompt import loras

Row = tuple[Job, int]  # a picture of a job, by its number
Moved = Callable[[list[Job]], None]


def batch_key(job: Job) -> Hashable:
    """Jobs of one key can be painted together; one that starts from pictures, or varies one, is painted alone."""
    if job.task != "generate" or job.images or job.settings.get("variation_strength"):
        return job.id
    settings = {name: value for name, value in job.settings.items() if name != "prompt"}
    return job.model, Settings.of(settings), tuple(loras(job.settings["prompt"])[1])


def paint(jobs: list[Job], easel: StableDiffusion, most: int, moved: Moved) -> Iterator[None]:
    """Fill the `made` of jobs of one key, at most `most` pictures at once. Pauses after each step.

    Calls `moved` after each step. Ends early when all jobs have been stopped; those that were stay without pictures.
    """
    rows = [(job, i) for job in jobs for i in range(job.n)]
    parts = [rows[i : i + most] for i in range(0, len(rows), most)]  # more than one only if there is one job
    made: dict[Job, list[Picture]] = {job: [] for job in jobs}
    for number, part in enumerate(parts):
        for painting in _steps(easel, part):
            for job in jobs:
                _advance(job, number, painting, len(parts))
            _preview(part, painting)
            if painting.finished:
                for (job, _), picture in zip(part, painting.pictures(), strict=True):
                    made[job].append(picture)
            moved(jobs)
            yield
            if all(job.stop for job in jobs):
                return
    for job in jobs:
        if not job.stop:
            job.made = made[job]


def _steps(easel: StableDiffusion, part: list[Row]) -> Iterator[Painting]:
    job, first = part[0]
    said = dict(job.settings)
    prompt = said.pop("prompt", None)
    if job.task == "stylize":
        weights, mask = said.pop("weights", None), job.images.get("mask")
        return easel.styling(
            job.images["image"], job.images["style"], weights=weights, mask=mask, prompt=prompt, **said
        )
    image, mask = job.images.get("image"), job.images.get("mask")
    if said.get("variation_strength"):
        said["variation_seed"] += first
        return easel.steps(prompt, n=len(part), image=image, mask=mask, seed=job.seeds[0], **said)
    prompts, seeds = [job.settings["prompt"] for job, _ in part], [job.seeds[i] for job, i in part]
    return easel.steps(prompts, image=image, mask=mask, seed=seeds, **said)


def _advance(job: Job, part: int, painting: Painting, parts: int) -> None:
    job.steps = painting.total * parts
    job.step = painting.total * part + painting.index + 1


def _preview(part: list[Row], painting: Painting) -> None:
    """One of the first picture of each job that wants it."""
    first = {job: i for i, (job, _) in reversed(list(enumerate(part)))}
    wanting = [job for job in first if not job.stop and job.wants_preview()]
    if wanting and not painting.finished:
        images = painting.preview()
        for job in wanting:
            job.saw(images[first[job]])
