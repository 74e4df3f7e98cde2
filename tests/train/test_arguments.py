"""Fields of TrainingArguments by name, from the command line and from Python."""

import pytest

from eyesel.errors import SettingError
from eyesel.train.arguments import read_words, training_arguments


def test_words_are_read_as_their_fields_types(tmp_path):
    words = ["--learning-rate", "2e-5", "--num_train_epochs=3", "--no-use-cpu", "--activation-checkpointing"]
    words += [
        "--max-steps",
        "-1",
        "--lr-scheduler-kwargs",
        '{"num_cycles": 2}',
        "--report-to",
        "tensorboard,wandb",
        "--eval-steps",
        "none",
    ]
    read = read_words(words)
    assert read == {
        "learning_rate": 2e-5,
        "num_train_epochs": 3.0,
        "use_cpu": False,
        "activation_checkpointing": True,
        "max_steps": -1,
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "report_to": ["tensorboard", "wandb"],
        "eval_steps": None,
    }
    assert type(read["max_steps"]) is int


def test_overrides_win_over_defaults(tmp_path):
    args = training_arguments(tmp_path / "out", {"seed": 7, "weight_decay": 0.1, "use_cpu": True}, {"seed": 8})
    assert (args.seed, args.weight_decay, args.output_dir) == (8, 0.1, str(tmp_path / "out"))
    assert args.logging_nan_inf_filter is False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--learning-rte", "1"], "learning_rate"),
        (["--epochs", "1"], "num_train_epochs"),
        (["--learning-rate", "fast"], "'fast'"),
        (["--learning-rate"], "needs a value"),
        (["--seed", "1.5"], "whole number"),
        (["--output-dir", "x"], "--output"),
        (["--resume-from-checkpoint", "x"], "--resume"),
        (["--no-seed"], "no_seed"),
        (["loose"], "belongs to no option"),
        (["--lr-scheduler-kwargs", "{broken"], "no JSON"),
    ],
)
def test_bad_words(words, said):
    with pytest.raises(SettingError, match=said):
        read_words(words)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"per_device_train_batch_size": 0}, "at least 1"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"seed": True}, "seed is True"),
        ({"lr_scheduler_type": "wavy"}, "wavy"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"fp16": True}, "fp16 needs a GPU"),
        ({"load_best_model_at_end": True, "eval_strategy": "no", "save_strategy": "epoch"}, "go together"),
    ],
)
def test_bad_values(tmp_path, overrides, said):
    with pytest.raises(SettingError, match=said):
        training_arguments(tmp_path, {"use_cpu": True}, overrides)
