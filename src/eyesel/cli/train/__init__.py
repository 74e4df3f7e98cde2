"""`eyesel train`: fine-tuning, one command a half."""

import typer

from eyesel.cli.train import classifier, diffusion

app = typer.Typer(
    help="Fine-tune on your own pictures.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
# What is no option of the command is a field of transformers' TrainingArguments.
_REST = {"allow_extra_args": True, "ignore_unknown_options": True}
app.command(context_settings=_REST)(classifier.classifier)
app.command(context_settings=_REST)(diffusion.diffusion)


@app.callback()
def _() -> None:
    """Keeps the names of the commands where there is one alone."""
