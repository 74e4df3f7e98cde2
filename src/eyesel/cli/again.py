"""The option --from: what a painted picture says of its settings, under what the person types."""

from typing import Annotated, Any

import typer


def _fill_in(context: typer.Context, source: str | None) -> str | None:
    """Make the picture's settings the defaults of the command's other options."""
    if source is None:
        return None
    import os
    import warnings

    from eyesel.infotext.rows import is_default
    from eyesel.picture import options_from

    settings = options_from(source)
    words = ", ".join(map(repr, settings.pop("embeddings", ())))
    options = {parameter.name for parameter in context.command.params}
    repeated = {name: value for name, value in settings.items() if name in options}
    context.default_map = {name: _option(context, source, name, value) for name, value in repeated.items()}
    if words and not (context.params.get("models_dir") or os.environ.get("EYESEL_MODELS")):
        warnings.warn(f"{source} has the learned words {words}: name their folder with --models-dir", stacklevel=2)
    if left := [n for n, value in settings.items() if n not in options and not is_default(n, value)]:
        warnings.warn(f"{source} also says {', '.join(left)}, which this command cannot repeat", stacklevel=2)
    return source


def _option(context: typer.Context, source: str, name: str, value: Any) -> Any:
    """A setting in the form in which it is typed."""
    if name == "model":
        return lambda: _here(context, source, value)  # called unless a model was typed
    if name == "loras":
        return [f"{file}:{text}:{unet}" for file, text, unet in value]
    if name == "adapter_images":
        return list(value)
    if name == "size":
        return "{}x{}".format(*value)
    return ",".join(map(repr, value)) if isinstance(value, tuple) else value


def _here(context: typer.Context, source: str, model: str) -> str:
    """The picture's model, if it is on this machine: a picture must not be able to start a download."""
    from textwrap import shorten

    from eyesel.errors import CheckpointError
    from eyesel.infotext import printable
    from eyesel.weights.hub import resolve
    from eyesel.weights.library import Library

    library = Library.open(context.params.get("models_dir"))
    if library is not None and model in library.checkpoints():
        return model
    try:
        resolve(model, kind="painter", offline=True)
    except CheckpointError:
        name = printable(shorten(model, 100))
        raise CheckpointError(
            f"{source} was painted with the model {name!r}, which is not here: say with --model what to take."
        ) from None
    return model


From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="PICTURE",
        is_eager=True,
        callback=_fill_in,
        help="Paint this picture again: its settings, where you give none. Of eyesel, AUTOMATIC1111, ComfyUI, ...",
    ),
]
