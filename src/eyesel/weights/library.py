"""A folder of models as AUTOMATIC1111 or ComfyUI keep theirs, or a flat one: files by the names that prompts use.

Names are looked up among the files that are there, never joined to a path, so none leads out of the folder. Nothing is
opened but what has to say what it is: the files of a flat folder, and pictures, in which an embedding may be hidden.
"""

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from eyesel.errors import EyeselError, SettingError
from eyesel.text.prompt import Lora, shortened
from eyesel.weights.embedding_picture import PICTURES
from eyesel.weights.files import open_tensors, read_tensor_metadata
from eyesel.weights.kind import kind_of_file
from eyesel.weights.lora import LoraFile

VARIABLE = "EYESEL_MODELS"

# Where the programs keep each kind, below their own folder or their folder `models`; in any case.
_FOLDERS = {
    "lora": ("lora", "loras", "lycoris"),
    "embedding": ("embeddings",),
    "checkpoint": ("stable-diffusion", "checkpoints"),
    "vae": ("vae",),
}
_TENSORS = (".safetensors", ".pt", ".ckpt", ".bin", ".pth")  # of several files of one name the first counts
_SUFFIXES = {kind: (*_TENSORS, *PICTURES) if kind == "embedding" else _TENSORS for kind in _FOLDERS}


@dataclass(frozen=True)
class Library:
    """`folder` is that of AUTOMATIC1111 or ComfyUI, their folder `models`, or one in which files of all kinds lie."""

    folder: Path

    @classmethod
    def open(cls, folder: str | Path | None = None) -> "Library | None":
        """The library in `folder`, or in that of the environment variable EYESEL_MODELS; None if neither is given."""
        folder = folder or os.environ.get(VARIABLE)
        if not folder:
            return None
        path = Path(folder).expanduser()
        if not path.is_dir():
            raise SettingError(f"{path} is no folder of models: give one with --models-dir or {VARIABLE}.")
        return cls(path)

    def loras(self) -> dict[str, Path]:
        """Files by name: the stem, or, where several have the same, the path below the folder of LoRAs."""
        return _by_name(self._files("lora"))

    def embeddings(self) -> dict[str, Path]:
        """The words that prompts can use, and their files."""
        return _by_name(self._files("embedding"))

    def checkpoints(self) -> dict[str, Path]:
        return _by_name(self._files("checkpoint"))

    def vaes(self) -> dict[str, Path]:
        return _by_name(self._files("vae"))

    def find_lora(self, name: str) -> Path:
        """The file of the LoRA that a prompt calls `name`: its stem or path, in any case, or else the name that its
        trainer gave it. Raises `SettingError` with the names that are nearest.
        """
        files = self._files("lora")
        wanted = name.lower()
        rules = (
            lambda path, file: name == path,
            lambda path, file: name == Path(path).name,
            lambda path, file: wanted in (path.lower(), Path(path).name.lower()),
            lambda path, file: name == _output_name(file),
        )
        for rule in rules:
            found = {path: file for path, file in files.items() if rule(path, file)}
            if len(found) > 1:
                raise SettingError(f"{self.folder} has several LoRAs {name!r}: write {' or '.join(found)}.")
            if found:
                return next(iter(found.values()))
        known = _by_name({path: file for path, file in files.items() if _kind(file, *_version(file)) == "lora"})
        near = difflib.get_close_matches(name, known) or list(known)[:5]
        advice = f"did you mean {' or '.join(near)}?" if near else "put its file there."
        raise SettingError(f"there is no LoRA {shortened(name)!r} in {self.folder}: {advice}")

    def loras_of(self, wanted: Iterable[Lora]) -> list[LoraFile]:
        """The files that the tags of a prompt (`eyesel.text.prompt.loras`) ask for, with their weights."""
        return [LoraFile(self.find_lora(each.name), each.text_weight, each.unet_weight) for each in wanted]

    def embeddings_in(self, *texts: str) -> list[Path]:
        """The files of the words that stand in texts, in any case."""
        return [
            path
            for word, path in self.embeddings().items()
            if any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for text in texts)
        ]

    def _files(self, kind: str) -> dict[str, Path]:
        """The files of a kind by their path below its folder, without suffix."""
        homes = {each: self._homes(each) for each in _FOLDERS}
        flat = not any(homes.values())
        order = _SUFFIXES[kind].index
        found: dict[str, Path] = {}
        for home in [self.folder] if flat else homes[kind]:
            for file in sorted(_inside(home, _SUFFIXES[kind]), key=lambda file: order(file.suffix.lower())):
                path = file.relative_to(home).with_suffix("").as_posix()
                sure = not flat and file.suffix.lower() not in PICTURES
                if path not in found and (sure or _kind(file, *_version(file)) == kind):
                    found[path] = file
        return dict(sorted(found.items()))

    def _homes(self, kind: str) -> list[Path]:
        parents = [parent for parent in (self.folder, self.folder / "models") if parent.is_dir()]
        children = (child for parent in parents for child in sorted(parent.iterdir()))
        return [child for child in children if child.name.lower() in _FOLDERS[kind] and child.is_dir()]


def _inside(home: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files below a folder; hidden ones, and the previews that AUTOMATIC1111 puts beside its files, do not count."""
    found: list[Path] = []
    seen = set()
    for folder, folders, names in os.walk(home, followlinks=True):  # people link to another disk
        real = os.path.realpath(folder)
        folders[:] = [name for name in folders if not name.startswith(".")] if real not in seen else []
        paths = [Path(folder, name) for name in names if not name.startswith(".")] if real not in seen else []
        seen.add(real)
        found += [path for path in paths if path.suffix.lower() in suffixes and not path.stem.endswith(".preview")]
    return sorted(path for path in found if path.is_file())


def _by_name(files: Mapping[str, Path]) -> dict[str, Path]:
    stems = Counter(Path(path).name for path in files)
    return {path if stems[Path(path).name] > 1 else Path(path).name: file for path, file in files.items()}


def _output_name(file: Path) -> str | None:
    if file.suffix != ".safetensors":
        return None
    try:
        open_tensors([file])
    except EyeselError:  # a file that is broken is not the one
        return None
    return read_tensor_metadata(file).get("ss_output_name")


def _version(file: Path) -> tuple[int, int]:
    return file.stat().st_mtime_ns, file.stat().st_size


@lru_cache(maxsize=10_000)
def _kind(file: Path, changed: int, size: int) -> str | None:
    """What a file says that it is, as long as it is not changed; one that cannot be read is nothing."""
    try:
        return kind_of_file(file)
    except EyeselError:
        return None
