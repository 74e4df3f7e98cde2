"""Fields of TrainingArguments by name, from the command line and from Python."""

import pytest

from eyesel.errors import SettingError
from eyesel.train.arguments import has_value, read_words, training_arguments
from eyesel.train.classifier_settings import ClassifierSettings, check_together, classifier_arguments


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
        (["--tunee", "head"], "is it tune"),
        (["--save-only-model"], "cannot be gone on with"),
        (["--prediction-loss-only"], "judged as a whole"),
        (["--bf16-full-eval"], "kept in float32"),
        (["--neftune-noise-alpha", "5"], "models of language"),
    ],
)
def test_bad_words(words, said):
    with pytest.raises(SettingError, match=said):
        read_words(words, ["tune"])


@pytest.mark.parametrize(
    ("word", "following", "belongs"),
    [
        ("--seed", "3", True),
        ("--max-steps", "-1", True),
        ("--seed=3", "photos", False),
        ("--bf16", "photos", False),
        ("--bf16", "no", True),
        ("--no-use-cpu", "photos", False),
        ("--fsdp", "photos", False),
        ("--fsdp", "full_shard auto_wrap", True),
        ("--report-to", "wandb", True),
    ],
)
def test_what_follows_a_name(word, following, belongs):
    assert has_value(word, following) is belongs


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
        ({"fsdp": True}, "fsdp needs GPUs"),
        ({"max_steps": -3}, "max_steps is -3"),
        ({"max_steps": 3, "num_train_epochs": 2}, "both say how long"),
        ({"seed": -1}, "seed is -1"),
        ({"data_seed": 2**32}, "data_seed is 4294967296"),
        ({"report_to": "nowhere"}, "nowhere is not supported"),
        (
            {"report_to": ["tensorboard", "swanlab"]},
            "report_to has swanlab, which is not installed: pip install swanlab",
        ),
        ({"load_best_model_at_end": True, "eval_strategy": "no", "save_strategy": "epoch"}, "go together"),
    ],
)
def test_bad_values(tmp_path, overrides, said):
    with pytest.raises(SettingError, match=said):
        training_arguments(tmp_path, {"use_cpu": True}, overrides)


def test_the_best_checkpoint_by_its_measure(tmp_path):
    assert classifier_arguments(tmp_path, {"use_cpu": True}).greater_is_better is True
    assert (
        classifier_arguments(tmp_path, {"use_cpu": True, "metric_for_best_model": "eval_loss"}).greater_is_better
        is False
    )
    with pytest.raises(SettingError, match="metric_for_best_model is 'recall'; it must be one of accuracy, f1, loss"):
        classifier_arguments(tmp_path, {"metric_for_best_model": "recall"})
    args = classifier_arguments(tmp_path, {"use_cpu": True, "eval_strategy": "no", "load_best_model_at_end": False})
    with pytest.raises(SettingError, match="early_stopping needs evaluations"):
        check_together(args, ClassifierSettings(early_stopping=2))


@pytest.mark.parametrize("setting", [{"lora_rank": 4}, {"tune": "head", "lora_dropout": 0.5}, {"rand_magnitude": 5}])
def test_settings_that_would_do_nothing(setting):
    with pytest.raises(SettingError, match="does nothing without"):
        ClassifierSettings(**setting)
