"""What AUTOMATIC1111's clients are answered: pictures with their `info`, progress, and lists of what there is."""

import json
import os
import time
from typing import Any

import torch

from eyesel.diffusion.aliases import ALIASES
from eyesel.diffusion.catalogue import SOLVERS as KNOWN_SOLVERS
from eyesel.diffusion.spacing import SCHEDULES as KNOWN_SCHEDULES
from eyesel.errors import EyeselError
from eyesel.infotext import parse
from eyesel.infotext.rows import ROWS, SCHEDULES, SOLVERS, UPSCALERS
from eyesel.infotext.text import AUTOMATICALLY
from eyesel.picture import Picture
from eyesel.serve.dialects.automatic1111.fields import ImageToImage, Processing
from eyesel.serve.jobs import Job
from eyesel.weights.library import Library
from eyesel.weights.textual_inversion import open_embedding


def info(asked: Processing, pictures: list[Picture]) -> str:
    """JSON in a string, with the keys that clients read."""
    first = pictures[0]
    said = first.settings
    subseeds = [picture.settings.get("variation_seed", picture.seed) for picture in pictures]
    sampler = SOLVERS.write(said["solver"])
    told = {
        "prompt": said["prompt"],
        "all_prompts": [picture.settings["prompt"] for picture in pictures],
        "negative_prompt": said.get("negative") or "",
        "all_negative_prompts": [said.get("negative") or ""] * len(pictures),
        "seed": first.seed,
        "all_seeds": [picture.seed for picture in pictures],
        "subseed": subseeds[0],
        "all_subseeds": subseeds,
        "subseed_strength": said.get("variation_strength", 0),
        "width": said["width"],
        "height": said["height"],
        "sampler_name": sampler,
        "cfg_scale": said["guidance"],
        "steps": said["steps"],
        "batch_size": asked.batch_size or 1,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": said["model"],
        "sd_model_hash": None,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": said.get("strength", said.get("hires_strength")),
        "extra_generation_params": {"Schedule type": SCHEDULES.write(said["schedule"])} if said["schedule"] else {},
        "index_of_first_image": 0,
        "infotexts": [picture.parameters for picture in pictures],
        "styles": [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "clip_skip": said.get("clip_skip") or 1,
        "is_using_inpainting_conditioning": False,
        "version": first.record["version"],
    }
    return json.dumps(told)


def echo(asked: Processing) -> dict[str, Any]:
    """The parameters as they were understood; pictures only if they are asked for."""
    told = asked.model_dump(exclude={"clip_skip"})
    if isinstance(asked, ImageToImage) and not asked.include_init_images:
        told |= {"init_images": None, "mask": None}
    return told


def progress(job: Job | None, current: str | None) -> dict[str, Any]:
    """Of a client's job; idle is a progress of 0 and a job_count of 0."""
    state: dict[str, Any] = {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": "",
        "job_count": 0,
        "job_timestamp": "0",
        "job_no": 0,
        "sampling_step": 0,
        "sampling_steps": 0,
    }
    if job is None:
        return {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": None, "textinfo": None}
    state |= {
        "interrupted": job.stop,
        "stopping_generation": job.stop,
        "job": job.id,
        "job_count": 1,
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(job.created)),
        "sampling_step": job.step,
        "sampling_steps": job.steps,
    }
    passed = time.time() - (job.started or time.time())
    left = passed / job.progress - passed if job.progress else 0.0
    waits = None if job.position is None else f"Waiting: place {job.position} in the queue"
    return {
        "progress": job.progress,
        "eta_relative": max(left, 0.0),
        "state": state,
        "current_image": current,
        "textinfo": waits,
    }


def samplers() -> list[dict[str, Any]]:
    """Under AUTOMATIC1111's names, and its own for those that it does not have."""
    return [
        {
            "name": SOLVERS.write(name),
            "aliases": [name, *(alias for alias, solver in ALIASES.items() if solver == name)],
            "options": {"scheduler": AUTOMATICALLY[name]} if name in AUTOMATICALLY else {},
        }
        for name in KNOWN_SOLVERS
    ]


def schedulers() -> list[dict[str, Any]]:
    """The checkpoint's own spacings of diffusers, too."""
    names = {"automatic": "Automatic", **{name: SCHEDULES.write(name) for name in KNOWN_SCHEDULES}}
    return [
        {"name": name, "label": label, "aliases": None, "default_rho": -1, "need_inner_model": False}
        for name, label in names.items()
    ]


def upscalers() -> list[dict[str, Any]]:
    empty = {"model_name": None, "model_path": None, "model_url": None, "scale": 4}
    return [{"name": name, **empty} for name in ("None", *UPSCALERS.of.values()) if not name.startswith("Latent")]


def latent_upscalers() -> list[dict[str, str]]:
    return [{"name": name} for name in UPSCALERS.of.values() if name.startswith("Latent")]


def loras(library: Library | None) -> list[dict[str, Any]]:
    """By the names that prompts use, `<lora:name:0.8>`; blocks."""
    found = {} if library is None else library.loras()
    return [{"name": name, "alias": name, "path": path.name, "metadata": {}} for name, path in found.items()]


def embeddings(library: Library | None) -> dict[str, dict[str, Any]]:
    """Which of the words of the library can be opened; blocks."""
    told: dict[str, dict[str, Any]] = {"loaded": {}, "skipped": {}}
    for name, path in ({} if library is None else library.embeddings()).items():
        entry = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": 0, "vectors": 0}
        try:
            embedding = open_embedding(path)
        except EyeselError:
            told["skipped"][name] = entry
        else:
            told["loaded"][name] = entry | {"shape": embedding.widths[0], "vectors": len(embedding.vectors[0])}
    return told


def picture_info(texts: dict[str, str]) -> dict[str, Any]:
    """What is written in a picture: the text, all entries, and the text's own by AUTOMATIC1111's names."""
    text = texts.get("parameters", "")
    said = parse(text) if text else {}
    if said.get("width") is not None:
        said["size"] = said["width"], said["height"]
    entries = {row.name: row.write(said[row.setting]) for row in ROWS if said.get(row.setting) is not None}
    words = {"Prompt": said.get("prompt", ""), "Negative prompt": said.get("negative", "")} if text else {}
    return {"info": text, "items": texts, "parameters": {**words, **entries, **said.get("unknown", {})}}


def memory() -> dict[str, Any]:
    """In bytes."""
    page = os.sysconf("SC_PAGE_SIZE")
    free, total = page * os.sysconf("SC_AVPHYS_PAGES"), page * os.sysconf("SC_PHYS_PAGES")
    told: dict[str, Any] = {"ram": {"free": free, "used": total - free, "total": total}}
    if not torch.cuda.is_available():
        return {**told, "cuda": {"error": "unavailable"}}
    free, total = torch.cuda.mem_get_info()
    return {**told, "cuda": {"system": {"free": free, "used": total - free, "total": total}}}
