"""From a model's name to files on this machine: bundled, a local path, or a hub repository, cache first."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from eyesel.errors import CheckpointError
from eyesel.weights.files import STEMS, find_weights, read_json
from eyesel.weights.recognise import family_of_config

Kind = Literal["classifier", "painter"]

ASSETS = Path(__file__).parents[1] / "assets"
BUNDLED = ("tiny",)
SUFFIXES = (".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".npz")

_MODELS = ("unet", "vae", "text_encoder", "text_encoder_2")  # folders of a diffusers checkpoint that hold weights
_OTHERS = ("scheduler", "tokenizer", "tokenizer_2", "feature_extractor")
_HUB_NAME = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w][\w./-]*))?")


def resolve(
    name: str | Path,
    *,
    kind: Kind | None = None,
    variant: str | None = None,
    offline: bool = False,
    cache_dir: str | Path | None = None,
) -> Path:
    """The local folder or file that a model's name stands for.

    `name` is a bundled model ("tiny", of which `kind` chooses the half), an existing folder or weights file, or a hub
    repository, "owner/name" or "owner/name@revision". A repository is looked for in the cache of huggingface_hub
    (`cache_dir`, default: its own), which needs no network; what is not there is downloaded, only the files that
    eyesel reads (of the weights those of `variant`, such as "fp16", where one is named), unless `offline` or the
    environment variable HF_HUB_OFFLINE forbids it.

    Raises `CheckpointError`, with the nearest known names where the name is unknown.
    """
    name = str(name)
    if name in BUNDLED:
        return _bundled(name, kind)
    try:
        path = Path(name).expanduser()
        if name and path.exists():
            return _local(path)
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null character, no such user, no permission
        raise CheckpointError(
            f"{name[:200]!r} cannot be opened ({error}): check the path and its permissions."
        ) from None
    hub_name = _HUB_NAME.fullmatch(name)
    if not hub_name or path.suffix in SUFFIXES or ".." in name:
        raise CheckpointError(f"there is no model {name!r}: {_advice(name, cache_dir)}")
    repo, revision = hub_name["repo"], hub_name["revision"] or "main"
    snapshot = _snapshot(_repo_folder(repo, cache_dir), revision)
    if snapshot is not None and _is_complete(snapshot, variant):
        return snapshot
    if offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise CheckpointError(
            f"{name} is not in the cache {_cache(cache_dir)} and the network is switched off: fetch it once without "
            "--offline and HF_HUB_OFFLINE."
        )
    return _download(repo, revision, variant, cache_dir)


@dataclass(frozen=True)
class KnownModel:
    """A model that is on this machine; `size` is that of its files in bytes."""

    name: str
    kind: Kind
    path: Path
    size: int


def list_models(cache_dir: str | Path | None = None) -> list[KnownModel]:
    """The models that can be opened by name and without network: the bundled ones, then those in the hub's cache."""
    bundled = ((name, folder) for name in BUNDLED for folder in sorted((ASSETS / name).glob("*/")))
    models = []
    for name, folder in (*bundled, *_cached(cache_dir)):
        kind = _kind(folder)
        if kind is not None and _is_complete(folder):
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            models.append(KnownModel(name, kind, folder, size))
    return models


def wanted(files: Iterable[str], variant: str | None = None) -> list[str]:
    """Of a repository's files, those that eyesel reads: settings, the model card, and of each model a set of weights.

    The choice is that of `find_weights`: safetensors before `.bin`, whole before sharded, plain before variants. Other
    formats, training states and single-file checkpoints beside a diffusers folder are left where they are.
    """
    files = list(files)
    painter = "model_index.json" in files
    chosen = []
    for folder in (".", *_MODELS, *_OTHERS) if painter else (".",):
        inside = [file for file in files if str(PurePosixPath(file).parent) == folder]
        chosen += [file for file in inside if file.endswith((".json", ".txt")) and not _WEIGHTS.match(_base(file))]
        chosen += [file for file in inside if file == "README.md"]
        if folder != "." or not painter:
            chosen += _one_set(inside, variant)
    return chosen


_WEIGHTS = re.compile(
    rf"(?P<stem>{'|'.join(STEMS)})(\.(?P<variant>\w+))?(?P<shard>-\d+-of-\d+)?\.(?P<suffix>safetensors|bin)"
    r"(?P<index>\.index(\.(?P<index_variant>\w+))?\.json)?$"
)


def _base(file: str) -> str:
    return PurePosixPath(file).name


def _one_set(files: Iterable[str], wanted_variant: str | None) -> list[str]:
    """The weights of one folder that `find_weights` would choose, index included."""
    sets: dict[tuple[bool, int, bool, bool, str], list[str]] = {}
    for file in files:
        if match := _WEIGHTS.match(_base(file)):
            variant = match["variant"] or match["index_variant"] or ""
            if wanted_variant not in (None, variant):
                continue
            sharded = bool(match["shard"] or match["index"])
            rank = (match["suffix"] == "bin", STEMS.index(match["stem"]), bool(variant), sharded, variant)
            sets.setdefault(rank, []).append(file)
    return sets[min(sets)] if sets else []


def _bundled(name: str, kind: Kind | None) -> Path:
    folder = ASSETS / name / (kind or "")
    if not folder.is_dir():
        raise CheckpointError(f"the bundled model {name!r} is missing from {folder}: install eyesel again.")
    return folder


def _local(path: Path) -> Path:
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise CheckpointError(f"{path} is no checkpoint: give a folder or a {', '.join(SUFFIXES)} file.")
        return path
    if not any(file.suffix in SUFFIXES for pattern in ("*", "*/*") for file in path.glob(pattern)):
        raise CheckpointError(f"the folder {path} holds no weights: give one with .safetensors or .bin files.")
    return path


def _download(repo: str, revision: str, variant: str | None, cache_dir: str | Path | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        files = wanted(HfApi().list_repo_files(repo, revision=revision), variant)
        if not any(_WEIGHTS.match(_base(file)) for file in files):
            of_variant = f" of the variant {variant!r}" if variant else ""
            raise CheckpointError(f"{repo} has no safetensors or .bin weights{of_variant} under a known name.")
        return Path(snapshot_download(repo, revision=revision, cache_dir=cache_dir, allow_patterns=files))
    except CheckpointError:
        raise
    except GatedRepoError:
        page = f"https://huggingface.co/{repo}"
        raise CheckpointError(f"{repo} is gated: accept its terms at {page} and run `hf auth login`.") from None
    except RepositoryNotFoundError:
        advice = _advice(repo, cache_dir)
        raise CheckpointError(f"{repo} is neither a folder nor a public hub repository: {advice}") from None
    except RevisionNotFoundError:
        raise CheckpointError(
            f"{repo} has no revision {revision!r}: name a branch, tag or commit that it has."
        ) from None
    except Exception as error:  # the network has many ways to fail, under other names in each version of the library
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise CheckpointError(
            f"{repo} could not be fetched ({reason}): check the network, or give a local folder."
        ) from error


# The cache is laid out as models--owner--name/{refs/<revision>, snapshots/<commit>/..., blobs/...}
# (huggingface.co/docs/huggingface_hub/guides/manage-cache); a file is in a snapshot only once it is complete.


def _cache(cache_dir: str | Path | None) -> Path:
    from huggingface_hub import constants

    return Path(cache_dir or constants.HF_HUB_CACHE).expanduser()


def _repo_folder(repo: str, cache_dir: str | Path | None) -> Path:
    return _cache(cache_dir) / f"models--{repo.replace('/', '--')}"


def _snapshot(repo_folder: Path, revision: str) -> Path | None:
    reference = repo_folder / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    folder = repo_folder / "snapshots" / commit
    return folder if folder.is_dir() else None


def _cached(cache_dir: str | Path | None) -> Iterator[tuple[str, Path]]:
    """Names and folders of the cached repositories; branches other than main are part of the name."""
    for repo_folder in sorted(_cache(cache_dir).glob("models--*--*")):
        repo = "/".join(repo_folder.name.split("--", 2)[1:])
        references = repo_folder / "refs"
        for reference in sorted(file for file in references.rglob("*") if file.is_file()):
            revision = reference.relative_to(references).as_posix()
            if snapshot := _snapshot(repo_folder, revision):
                yield repo if revision == "main" else f"{repo}@{revision}", snapshot


def _is_complete(folder: Path, variant: str | None = None) -> bool:
    """Every model of a snapshot has its weights, all shards of them."""
    try:
        if not (folder / "model_index.json").is_file():
            return bool(find_weights(folder, variant))
        index = read_json(folder / "model_index.json")
        present = [part for part in _MODELS if index.get(part) not in (None, [None, None])]
        return all(find_weights(folder / part, variant) for part in present)
    except CheckpointError:
        return False


def _kind(folder: Path) -> Kind | None:
    for name in ("model_index.json", "config.json"):
        try:
            family = family_of_config(read_json(folder / name)) or ""
        except CheckpointError:
            continue
        if family in ("a Stable Diffusion checkpoint", "a Stable Diffusion XL checkpoint"):
            return "painter"
        if family.startswith(("a Vision Transformer", "a timm 'vit_", "a timm 'deit")):
            return "classifier"
    return None


def _advice(name: str, cache_dir: str | Path | None) -> str:
    """What the caller may have meant: bundled and cached names, and what lies where the path points."""
    known = [*BUNDLED, *dict.fromkeys(cached for cached, _ in _cached(cache_dir))]
    parent = Path(name).expanduser().parent
    try:
        beside = [str(path) for path in parent.iterdir() if path.is_dir() or path.suffix in SUFFIXES]
    except OSError:
        beside = []
    near = difflib.get_close_matches(name, [*known, *beside])
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"give a folder, a weights file, a hub name (owner/name), or one of {', '.join(known[:5])}."
