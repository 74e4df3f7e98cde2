"""Which model lies in a folder, whoever wrote it: what is served where a folder is all that is named."""

from pathlib import Path

from eyesel.errors import CheckpointError
from eyesel.weights.files import find_weights
from eyesel.weights.hub import SUFFIXES, Kind
from eyesel.weights.kind import kind_of_file


def model_inside(folder: Path) -> tuple[Kind, Path]:
    """Its kind, and what `load` opens: the folder of transformers, timm or diffusers, or the one file of weights in it.

    Only headers are read, so what a folder's configuration promises is not checked. Raises `CheckpointError` where
    there is no model, or no telling which.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder: name the one in which the weights are.")
    if (folder / "model_index.json").is_file():
        return "painter", folder
    if (folder / "config.json").is_file():
        return "classifier", folder
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise CheckpointError(f"{folder} holds no weights: give a folder with a model in it.")
    if len(files) > 1:
        try:
            files = find_weights(folder)
        except CheckpointError:
            names = ", ".join(file.name for file in files[:4])
            raise CheckpointError(f"{folder} holds several models ({names}): give one a folder of its own.") from None
    painter = files[0].suffix != ".npz" and kind_of_file(files[0]) == "checkpoint"
    return ("painter" if painter else "classifier"), files[0] if len(files) == 1 else folder
