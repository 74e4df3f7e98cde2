"""Every field of transformers' TrainingArguments under its own name, from the command line or from Python."""

import importlib.util
import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.trainer_utils import FSDPOption

from eyesel.errors import SettingError

# What eyesel's own options say, or what its trainers do always.
_SAID_OTHERWISE = {
    "output_dir": "the output folder is said by --output",
    "resume_from_checkpoint": "a stopped run goes on with --resume",
    "do_train": "training is what this command does",
    "do_eval": "what is evaluated is said by eval_strategy",
    "do_predict": "the test split is always evaluated where there is one",
    "push_to_hub": "the finished folder is uploaded by `hf upload`",
    "remove_unused_columns": "nothing is removed here",
    "train_sampling_strategy": "the order follows from the seed",
    "label_names": "the labels are those of the data",
    "logging_nan_inf_filter": "a loss that is no number stops the run",
    "disable_tqdm": "the monitor follows the terminal",
    "ignore_data_skip": "a run that goes on begins where it was stopped",
    "save_only_model": "a checkpoint without its optimizer cannot be gone on with",
    "bf16_full_eval": "the weights are kept in float32; bf16 computes in less",
    "fp16_full_eval": "the weights are kept in float32; fp16 computes in less",
    **dict.fromkeys(
        ("neftune_noise_alpha", "use_liger_kernel", "liger_kernel_config", "include_num_input_tokens_seen"),
        "it is for models of language",
    ),
    **dict.fromkeys(
        ("prediction_loss_only", "batch_eval_metrics", "include_for_metrics", "eval_do_concat_batches"),
        "a split is judged as a whole",
    ),
}
_ALWAYS: dict[str, Any] = {"remove_unused_columns": False, "logging_nan_inf_filter": False, "disable_tqdm": True}
_AT_LEAST_ONE = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
_POSITIVE = ("num_train_epochs", "learning_rate", "logging_steps", "eval_steps", "save_steps")
_NOT_NEGATIVE = ("weight_decay", "warmup_steps", "max_grad_norm", "label_smoothing_factor", "dataloader_num_workers")
# What runs are reported to by a package of the same name.
_REPORTERS = ("clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "mlflow", "neptune", "swanlab", "tensorboard",
              "trackio", "wandb")  # fmt: skip
_SEEDS = 2**32  # what numpy takes
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def training_arguments(
    output: str | Path, defaults: Mapping[str, Any], overrides: Mapping[str, Any], own: Sequence[str] = ()
) -> TrainingArguments:
    """`defaults` of a method, and what the user said instead of them; texts are read as the field's type.

    Raises `SettingError` for a name that TrainingArguments has not, and for a value that it cannot be; `own` are names
    that the user may have meant.
    """
    said = {check_name(name, own): read_value(name, value) for name, value in overrides.items()}
    if said.get("max_steps", -1) > 0 and "num_train_epochs" in said:
        raise SettingError("max_steps and num_train_epochs both say how long to train: leave one of them out.")
    usual = {"use_cpu": not torch.accelerator.is_available(), "ddp_find_unused_parameters": False}
    values = {**usual, **defaults, **said, **_ALWAYS}
    for name, least, excluded in (
        *((name, 1, False) for name in _AT_LEAST_ONE),
        *((name, 0, True) for name in _POSITIVE),
        *((name, 0, False) for name in _NOT_NEGATIVE),
    ):
        value = values.get(name)
        if value is not None and not (value > least if excluded else value >= least):
            raise SettingError(f"{name} is {value!r}; it must be {'more than' if excluded else 'at least'} {least}.")
    steps = values.get("max_steps", -1)
    if steps == 0 or steps < -1:
        raise SettingError(f"max_steps is {steps}; it must be at least 1, or -1 to go by num_train_epochs.")
    for name in ("seed", "data_seed"):
        if values.get(name) is not None and not 0 <= values[name] < _SEEDS:
            raise SettingError(f"{name} is {values[name]}; it must be a whole number from 0 to {_SEEDS - 1}.")
    if values.get("fp16") and values["use_cpu"]:
        raise SettingError("fp16 needs a GPU: leave it out, or take bf16.")
    if values.get("fsdp") and values["use_cpu"]:
        raise SettingError("fsdp needs GPUs, accelerate leaves it out on CPUs: leave it out here, too.")
    try:
        args = TrainingArguments(output_dir=str(output), **values)
        get_reporting_integration_callbacks(args.report_to)
    except (ValueError, TypeError, KeyError, ImportError, RuntimeError, OSError) as error:  # of its own checks
        raise SettingError(f"these settings do not go together ({' '.join(str(error).split())[:300]}).") from error
    for name in args.report_to or ():
        if name in _REPORTERS and importlib.util.find_spec(name) is None:
            raise SettingError(f"report_to has {name}, which is not installed: pip install {name.replace('_', '-')}.")
    return args


def read_words(words: Sequence[str], own: Sequence[str] = ()) -> dict[str, Any]:
    """`["--learning-rate", "2e-5", "--bf16", "--no-use-cpu"]` as overrides: hyphens or underscores, `=` or a space."""
    overrides: dict[str, Any] = {}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--"):
            raise SettingError(f"{word!r} belongs to no option: options are written --name VALUE.")
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if not equals and _negated(name):
            overrides[check_name(name[3:])] = False
            continue
        check_name(name, own)
        if equals:
            overrides[name] = read_value(name, value)
        elif waiting and has_value(word, waiting[0]):
            overrides[name] = read_value(name, waiting.pop(0))
        elif bool in _members(name) or name in _ALONE:
            overrides[name] = True
        else:
            raise SettingError(f"--{name} needs a value after it.")
    return overrides


def has_value(word: str, following: str) -> bool:
    """Whether what follows `--name` is its value: always, but for names that may stand alone."""
    name = word.removeprefix("--").replace("-", "_")
    if "=" in word or following.startswith("--") or _negated(name):
        return False
    if name == "fsdp":
        return all(part in _SHARDINGS for part in following.split())
    alone = name in _ALONE or set(_members(name)) <= {bool, type(None)}
    return not alone or following.lower() in _WORDS


def _negated(name: str) -> bool:
    return name.startswith("no_") and name not in _KINDS and bool in _members(name[3:])


def check_name(name: str, own: Sequence[str] = ()) -> str:
    """`name`, if it is a field that a user can set; `own` are names of others that may be meant."""
    if name in _SAID_OTHERWISE:
        raise SettingError(f"{name} cannot be set: {_SAID_OTHERWISE[name]}.")
    if name not in _KINDS:
        names = [*own, *_KINDS]
        near = get_close_matches(name, names, n=3, cutoff=0.5) or [known for known in names if name in known][:3]
        hint = f"; is it {' or '.join(near)}?" if near else "; see TrainingArguments of transformers."
        raise SettingError(f"there is no option {name!r}{hint}")
    return name


def read_value(name: str, value: Any) -> Any:
    """`value` as the type of the field; texts are read, everything else must fit already."""
    members = (*_members(name), bool) if name in _ALONE else _members(name)
    if not isinstance(value, str):
        if not any(_is(value, kind) for kind in members):
            raise SettingError(f"{name} is {value!r}; it must be {_listed(members)}.")
        return value
    text = value.strip()
    if type(None) in members and text.lower() in ("none", "null"):
        return None
    if bool in members and text.lower() in _WORDS and (int not in members and float not in members):
        return _WORDS[text.lower()]
    for kind in (int, float):
        if kind in members:
            try:
                return kind(text)
            except ValueError:
                continue
    if any(_origin(kind) is dict for kind in members) and text.startswith("{"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise SettingError(f"{name} is {text!r}, which is no JSON ({error}).") from None
    if any(_origin(kind) is list for kind in members) and ("," in text or str not in members):
        return [part.strip() for part in text.split(",") if part.strip()]
    if any(kind is str or (isinstance(kind, type) and issubclass(kind, str)) for kind in members):
        return text
    raise SettingError(f"{name} is {text!r}; it must be {_listed(members)}.")


_KINDS: dict[str, Any] = {
    field.name: kind
    for kinds in [get_type_hints(TrainingArguments)]
    for field in fields(TrainingArguments)
    if field.init
    for kind in [kinds[field.name]]
}

# What stands on the command line by itself, though its type is another.
_ALONE = {field.name for field in fields(TrainingArguments) if field.metadata.get("const") is True}
_SHARDINGS = {option.value for option in FSDPOption} | set(_WORDS)


def _members(name: str) -> tuple[Any, ...]:
    kind = _KINDS.get(name)
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _origin(kind: Any) -> Any:
    return get_origin(kind) or kind


def _is(value: Any, kind: Any) -> bool:
    origin = _origin(kind)
    if not isinstance(origin, type):  # Literal and the like: TrainingArguments checks them
        return True
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, origin) and (origin is bool or not isinstance(value, bool))


def _listed(kinds: Sequence[Any]) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}
    return " or ".join(words.get(kind, getattr(_origin(kind), "__name__", str(kind))) for kind in kinds)
