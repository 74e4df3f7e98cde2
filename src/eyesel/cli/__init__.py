"""The program `eyesel`: one command a task, each in its own file and importing what it needs when it runs."""

import atexit
import gc
import os
import sys
import warnings

import typer

from eyesel import __version__
from eyesel.cli import attend, classify, compare, embed, generate, index, inpaint, models, show, stylize, train
from eyesel.errors import EyeselError

app = typer.Typer(
    name="eyesel",
    help="An eye and an easel: understand images with a Vision Transformer, make images with Stable Diffusion.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(classify.classify)
app.command()(embed.embed)
app.command()(attend.attend)
app.command()(generate.generate)
app.command()(inpaint.inpaint)
app.command()(stylize.stylize)
app.command()(show.show)
app.command()(compare.compare)
app.add_typer(index.app, name="index")
app.add_typer(models.app, name="models")
app.add_typer(train.app, name="train")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"eyesel {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    typer.echo(f"eyesel: note: {message}", err=True)


def main() -> None:
    """Exit code 0; 1 when something failed; 2, and one sentence, when the input was bad."""
    warnings.showwarning = _show_warning
    # torch brings a million objects that stay: looking through them for garbage takes a third of a short run
    gc.set_threshold(*gc.get_threshold()[:2], 1000)
    atexit.register(gc.freeze)
    try:
        app()
    except EyeselError as error:
        typer.echo(f"eyesel: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has gone (`eyesel ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MemoryError:
        typer.echo("eyesel: there is not enough memory for this; try a smaller size or fewer pictures.", err=True)
        sys.exit(1)
    except Exception as error:
        if os.environ.get("EYESEL_TRACEBACK"):
            raise
        typer.echo(
            f"eyesel: unexpected {type(error).__name__}: {error} (EYESEL_TRACEBACK=1 shows where; please report it)",
            err=True,
        )
        sys.exit(1)
