"""From a single file to a diffusers folder and back, tensor for tensor."""

from pathlib import Path

from eyesel.errors import OutputError, SettingError
from eyesel.weights.checkpoint import open_painter
from eyesel.weights.diffusers_folder import write_folder
from eyesel.weights.hub import SUFFIXES
from eyesel.weights.painter import AS_IT_IS, Options, StoredPainter
from eyesel.weights.save import replacing, stored_dtype
from eyesel.weights.single_file import write_file

FORMATS = ("diffusers", "single-file")


def convert(
    source: Path,
    target: Path,
    format: str,
    *,
    dtype: str | None = None,
    options: Options = AS_IT_IS,
    force: bool = False,
) -> StoredPainter:
    """Write the checkpoint `source` as `target`: a diffusers folder or a single .safetensors file.

    `dtype` converts the weights; otherwise every tensor keeps its bits. Nothing is there until it is whole, and what
    was there before is replaced only with `force`. Raises `OutputError`, `SettingError` or `CheckpointError`.
    """
    if format not in FORMATS:
        raise SettingError(f"Format {format!r} is unknown; choose one of {', '.join(FORMATS)}.")
    stored_as = stored_dtype(dtype)
    single = format == "single-file"
    if single and target.suffix != ".safetensors":
        raise OutputError(f"{target} is to be a single file: give it a name that ends in .safetensors.")
    if not single and target.suffix in SUFFIXES:
        raise OutputError(f"{target} is to be a folder: give it a name that does not end in {target.suffix}.")
    with replacing(target, force) as fresh:
        painter = open_painter(source, options)
        for model in painter.models:
            model.check()
        if single:
            write_file(painter, fresh, stored_as, title=target.stem)
        else:
            write_folder(painter, fresh, stored_as)
    return painter
