"""Settings that are wrong, or that would do nothing: one sentence that says which."""

import pytest

from eyesel.errors import SettingError
from eyesel.train.diffusion.fit import diffusion_arguments
from eyesel.train.diffusion.settings import Settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "hypernetwork"}, "method is 'hypernetwork'; choose one of full, lora"),
        ({"targets": "everything"}, "targets is 'everything'"),
        ({"rank": 0}, "rank is 0; it must be a whole number from 1 to 4096"),
        ({"caption_dropout": 2}, "caption_dropout is 2"),
        ({"snr_gamma": 0}, "snr_gamma is 0"),
        ({"ema": 1.5}, "ema is 1.5"),
        ({"method": "full", "rank": 8}, "rank does nothing with the method full: it is for lora"),
        ({"method": "dreambooth", "instance_prompt": "x", "rank": 8}, "rank does nothing .* dreambooth with lora"),
        ({"method": "textual-inversion", "train_text_encoder": True}, "train_text_encoder does nothing"),
        ({"placeholder": "<x>"}, "placeholder does nothing with the method lora: it is for textual-inversion"),
        ({"method": "full", "class_prompt": "a dog"}, "class_prompt does nothing .* it is for lora and dreambooth"),
        ({"class_data": "y", "class_pictures": 20}, "class_pictures needs class_prompt"),
        ({"class_prompt": " "}, "class_prompt is empty"),
        ({"instance_prompt": ""}, "instance_prompt is empty"),
        ({"prior_weight": 0.5}, "prior_weight needs class_prompt or class_data"),
        ({"method": "textual-inversion", "initializer": "toy"}, "needs placeholder"),
        ({"method": "textual-inversion", "placeholder": "<x>"}, "needs initializer"),
        ({"keep_tokens": 2}, "keep_tokens .* needs shuffle_tags"),
        ({"validation_steps": 5}, "validation_steps needs validation_prompt"),
    ],
)
def test_refused(settings, words):
    with pytest.raises(SettingError, match=words):
        Settings(**settings)


_NEEDED = {"textual-inversion": {"placeholder": "<x>", "initializer": "toy"}}


def test_each_method_has_its_own_rate_and_length(tmp_path):
    usual = {
        method: diffusion_arguments(tmp_path, Settings(method=method, **_NEEDED.get(method, {})), {})
        for method in ("full", "lora", "inpaint", "textual-inversion")
    }
    assert {method: args.learning_rate for method, args in usual.items()} == {
        "full": 1e-5,
        "lora": 1e-4,
        "inpaint": 5e-6,
        "textual-inversion": 4 * 5e-4,  # --train_batch_size=1 --gradient_accumulation_steps=4 --scale_lr
    }
    assert usual["lora"].max_steps == 1000
    said = diffusion_arguments(tmp_path, Settings(), {"num_train_epochs": 3, "learning_rate": "2e-3"})
    assert (said.max_steps, said.num_train_epochs, said.learning_rate) == (-1, 3, 2e-3)
