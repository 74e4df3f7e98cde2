"""Style transfer by painters that are more than a checkpoint: adapters, LoRAs, learned words, SDXL and its refiner."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import eyesel
from eyesel.stylize import Inversions
from ip_adapter_files import save, tables, write_image_encoder
from lora_files import reference
from tiny_models import write_painter, write_standard_painter

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def noise(seed, size=(40, 32)):
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


CONTENT, STYLE = noise(0), noise(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_painter(tmp_path_factory.mktemp("painter"), "sd1")


@pytest.fixture(scope="module")
def easel(folder):
    return eyesel.StableDiffusion.load(folder, device="cpu", precision="float32")


def latents(easel, **settings):
    *_, last = easel.styling(CONTENT, STYLE, **{"steps": 3, **settings})
    return last.latents


@pytest.mark.parametrize("keep", [False, True])
def test_an_image_prompt_is_heard_by_the_result_alone(folder, easel, tmp_path, keep):
    write_image_encoder(tmp_path / "image_encoder")
    adapter = save(tables(reference(folder).unet, "plain"), tmp_path / "adapter.safetensors")
    one, other, off = (
        easel.with_image_prompt(adapter, noise(seed), scale) for seed, scale in ((2, 1.0), (3, 1.0), (2, 0.0))
    )
    kept = [Inversions() for _ in range(2)]
    plain = latents(easel, inversions=kept[0], keep_features=keep)
    shown = latents(one, inversions=kept[1], keep_features=keep)
    unguided = latents(one, guidance=1.0, keep_features=keep)
    assert torch.equal(latents(off, guidance=1.0, keep_features=keep), plain)
    for made in (shown, unguided, latents(other, keep_features=keep)):
        assert made.isfinite().all() and not torch.equal(made, plain)
    assert not torch.equal(shown, latents(other, keep_features=keep))
    # the pictures are inverted, and looked at, as if there were no adapter
    theirs, ours = (sorted((each.latents(key) for key in each._latents), key=lambda t: t.sum().item()) for each in kept)
    assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))
    with_words = latents(one, prompt="a fox", keep_features=keep)
    assert not torch.equal(with_words, shown) and not torch.equal(with_words, latents(easel, prompt="a fox"))


def test_loras_by_hand_and_by_prompt_are_the_same_and_recorded(folder, tmp_path):
    (tmp_path / "Lora").mkdir()
    generator = torch.Generator().manual_seed(0)
    factors = {
        f"{LAYER}.lora_{end}.weight": torch.randn(*shape, generator=generator)
        for end, shape in (("down", (2, 24)), ("up", (16, 2)))
    }
    save_file(factors, tmp_path / "Lora" / "ink.safetensors")
    easel = eyesel.StableDiffusion.load(folder, device="cpu", precision="float32", models_dir=tmp_path)
    drawn = easel.with_loras([(tmp_path / "Lora" / "ink.safetensors", 0.8)])
    tagged = latents(easel, prompt="a fox <lora:ink:0.8>")
    assert torch.equal(tagged, latents(drawn, prompt="a fox"))
    assert not torch.equal(tagged, latents(easel, prompt="a fox"))
    inversions = Inversions()
    plain = latents(easel, inversions=inversions)
    assert not torch.equal(latents(drawn, inversions=inversions), plain)  # another model inverts anew
    assert len(inversions._latents) == 4
    assert "ink" in str(drawn.stylize(CONTENT, STYLE, steps=2).settings["loras"])


def test_learned_words(easel, tmp_path):
    save_file(
        {"emb_params": torch.randn(2, 24, generator=torch.Generator().manual_seed(1))}, tmp_path / "sketchy.safetensors"
    )
    learned = easel.with_embeddings([tmp_path / "sketchy.safetensors"])
    said = {"prompt": "a sketchy fox", "guidance": 3.0}
    assert not torch.equal(latents(learned, **said), latents(easel, **said))
    assert torch.equal(latents(learned), latents(easel))


@pytest.mark.parametrize("family", ["sdxl", "refiner"])
def test_xl_and_its_refiner(tmp_path, family):
    easel = eyesel.StableDiffusion.load(write_standard_painter(tmp_path, family), device="cpu", precision="float32")
    made = easel.stylize(CONTENT, STYLE, steps=2, prompt="a fox", guidance=2.0)
    assert made.image.size == CONTENT.size
    first, second = latents(easel), latents(easel, prompt="a fox", guidance=2.0)
    assert first.isfinite().all() and not torch.equal(first, second)
    assert np.array_equal(easel.stylize(CONTENT, STYLE, strength=0).image, CONTENT)
