"""`eyesel train`: fine-tuning, one command a half."""

from typing import Any

import typer
from typer.core import TyperCommand

from eyesel.cli.train import classifier, diffusion


class _Passing(TyperCommand):
    """What is no option of the command is a field of transformers' TrainingArguments, wherever it stands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        flags = {name: getattr(each, "is_flag", False) for each in self.params for name in _names(each)}
        own: list[str] = []
        fields: list[str] = []
        waiting = list(args)
        while waiting:
            word = waiting.pop(0)
            name = word.partition("=")[0]
            if not name.startswith("--") or name in flags or name in ("--", "--help"):
                own.append(word)
                if word in flags and not flags[word] and waiting:
                    own.append(waiting.pop(0))
                continue
            fields.append(word)
            if waiting and waiting[0] not in flags and _has_value(word, waiting[0]):
                fields.append(waiting.pop(0))
        rest = super().parse_args(ctx, own)
        ctx.args = [*fields, *ctx.args]
        return rest


def _names(parameter: Any) -> list[str]:
    return [*parameter.opts, *parameter.secondary_opts] if parameter.param_type_name == "option" else []


def _has_value(word: str, following: str) -> bool:
    from eyesel.train import check_installed

    check_installed()

    from eyesel.train.arguments import has_value

    return has_value(word, following)


app = typer.Typer(
    help="Fine-tune on your own pictures.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_REST = {"allow_extra_args": True}
app.command(cls=_Passing, context_settings=_REST)(classifier.classifier)
app.command(cls=_Passing, context_settings=_REST)(diffusion.diffusion)


@app.callback()
def _() -> None:
    """Keeps the names of the commands where there is one alone."""
