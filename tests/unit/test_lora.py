"""LoRA files that do not fit, and those that say what they are."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from eyesel import CheckpointError, SettingError, StableDiffusion
from eyesel.cli import app
from eyesel.weights.describe import describe
from eyesel.weights.lora_file import open_lora
from tiny_models import write_painter, write_standard_painter

TO_K = "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return StableDiffusion.load(write_painter(tmp_path_factory.mktemp("sd1"), "sd1"), precision="float32")


@pytest.fixture(scope="module")
def tiny():
    return StableDiffusion.load("tiny", precision="float32")


def pair(key, out, into, rank=4, up="lora_up", down="lora_down"):
    return {f"{key}.{up}.weight": torch.ones(out, rank), f"{key}.{down}.weight": torch.ones(rank, into)}


def saved(path, tensors, metadata=None):
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize(
    ("key", "out", "into"),
    [
        (f"lora_unet_{TO_K}", 16, 24),
        (f"lycoris_{TO_K}", 16, 24),
        ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k", 16, 24),
        ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k", 16, 24),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", 16, 24),
        ("base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", 16, 24),
        ("lora_te_text_model_encoder_layers_1_self_attn_k_proj", 24, 24),
        ("lora_te1_text_model_encoder_layers_1_self_attn_k_proj", 24, 24),
        ("text_encoders.clip_l.transformer.text_model.encoder.layers.1.self_attn.k_proj", 24, 24),
        ("text_encoder.text_model.encoder.layers.1.self_attn.k_proj", 24, 24),
        ("text_encoder.encoder.layers.1.self_attn.k_proj", 24, 24),
        ("base_model.model.text_model.encoder.layers.1.self_attn.k_proj", 24, 24),
    ],
)
def test_names(sd1, tmp_path, key, out, into):
    """Each changes one matrix, by the sum over four ones, and no other."""
    changed = sd1.with_loras([saved(tmp_path / "x.safetensors", pair(key, out, into))])
    deltas = {}
    for ours, theirs in zip([sd1.unet, *sd1.text_encoders], [changed.unet, *changed.text_encoders], strict=True):
        for (name, before), after in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            if before is not after:
                deltas[name] = after - before
    [(name, delta)] = deltas.items()
    assert torch.allclose(delta, torch.full((out, into), 4.0))
    attention = "layers.1.attention.to_k.weight"
    assert name == (
        f"{TO_K.replace('_', '.')}.weight".replace("down.blocks", "down_blocks")
        .replace("transformer.blocks", "transformer_blocks")
        .replace("to.k", "to_k")
        if out == 16
        else attention
    )


@pytest.mark.parametrize(
    ("width", "family"), [(768, "Stable Diffusion 1"), (2048, "Stable Diffusion XL"), (40, "another model")]
)
def test_another_base_is_refused_with_its_numbers(sd1, tmp_path, width, family):
    file = saved(tmp_path / "x.safetensors", pair(f"lora_unet_{TO_K}", 16, width))
    with pytest.raises(
        CheckpointError, match=rf"for {family} \(a context of {width} numbers\), and the checkpoint .*24"
    ):
        sd1.with_loras([file])
    with pytest.raises(CheckpointError, match=str(width)):
        sd1.with_loras([(file, 0.0, 0.0)])


def test_another_family_is_refused_by_its_name(sd1, tmp_path):
    key = "lora_unet_double_blocks_0_img_attn_proj"
    with pytest.raises(CheckpointError, match="for Flux"):
        sd1.with_loras([saved(tmp_path / "x.safetensors", pair(key, 8, 8))])
    assert describe(tmp_path / "x.safetensors")["base"] == "Flux"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (pair("lora_unet_nothing_here", 4, 4), r"does not have: lora_unet_nothing_here; take"),
        ({**pair(f"lora_unet_{TO_K}", 16, 24), "surprise": torch.ones(2)}, "does not know in a LoRA: surprise"),
        (pair(f"lora_unet_{TO_K.replace('attn2', 'attn1')}", 16, 24), r"attn1_to_k do not make \(16, 16\)"),
        (pair(f"lora_unet_{TO_K.replace('attn2', 'attn1')}", 12, 16), r"attn1_to_k do not make \(16, 16\)"),
        (
            {
                f"lora_unet_{TO_K}.lora_up.weight": torch.ones(16, 4),
                f"lora_unet_{TO_K}.lora_down.weight": torch.ones(3, 24),
            },
            "do not make",
        ),
        ({f"lora_unet_{TO_K}.lora_up.weight": torch.ones(16, 4)}, "lacks its down"),
        ({f"lora_unet_{TO_K}.hada_w1_a": torch.ones(16, 4)}, "lacks its hada_w1_b"),
        (
            {**pair(f"lora_unet_{TO_K}", 16, 24), f"lora_unet_{TO_K}.lokr_w1": torch.ones(2, 2)},
            "lokr_w1 that belongs to nothing",
        ),
        ({**pair(f"lora_unet_{TO_K}", 16, 24), f"lora_unet_{TO_K}.alpha": torch.ones(3)}, "alpha that is no number"),
        ({**pair(f"lora_unet_{TO_K}", 16, 24), f"lora_unet_{TO_K}.diff_b": torch.ones(16)}, "has no bias"),
        (
            {f"lora_unet_{TO_K}.lora_up.weight": torch.ones(16), f"lora_unet_{TO_K}.lora_down.weight": torch.ones(24)},
            "no matrix",
        ),
        (
            {**pair(f"lora_unet_{TO_K}", 16, 24), **pair(f"lycoris_{TO_K}", 16, 24)},
            "there under two names",
        ),
        ({**pair(f"lora_unet_{TO_K}", 16, 24), f"lora_unet_{TO_K}.dora_scale": torch.ones(5, 1)}, "do not make"),
        ({f"lora_unet_{TO_K}.oft_blocks": torch.ones(2, 4, 4)}, "does not know in a LoRA: .*oft_blocks"),
        ({"emb_params": torch.ones(2, 24)}, "This is a textual-inversion embedding: .* cannot be opened as a LoRA"),
        ({"something": torch.ones(2)}, "not a checkpoint of a known family"),
    ],
)
def test_what_does_not_fit(sd1, tmp_path, tensors, message):
    with pytest.raises(CheckpointError, match=message):
        sd1.with_loras([saved(tmp_path / "x.safetensors", tensors)])


def test_what_is_no_lora_at_all(sd1, tmp_path):
    folder = write_standard_painter(tmp_path / "painter", "sd1")
    with pytest.raises(CheckpointError, match="This is a Stable Diffusion UNet alone"):
        sd1.with_loras([folder / "unet" / "diffusion_pytorch_model.safetensors"])
    with pytest.raises(CheckpointError, match=r"neither pytorch_lora_weights.safetensors nor adapter_config.json"):
        sd1.with_loras([folder])
    with pytest.raises(CheckpointError, match="there is no LoRA"):
        sd1.with_loras([tmp_path / "absent.safetensors"])
    whole = saved(tmp_path / "x.safetensors", pair(f"lora_unet_{TO_K}", 16, 24)).read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        sd1.with_loras([tmp_path / "half.safetensors"])


@pytest.mark.parametrize("weight", [float("nan"), 1e6, "1", True])
def test_weights_that_are_none(sd1, tmp_path, weight):
    file = saved(tmp_path / "x.safetensors", pair(f"lora_unet_{TO_K}", 16, 24))
    with pytest.raises(SettingError, match="the weight of a LoRA"):
        sd1.with_loras([(file, 1.0, weight)])
    with pytest.raises(SettingError, match="a LoRA is"):
        sd1.with_loras([(1.0, file)])


@pytest.mark.parametrize("fuse", [True, False])
def test_numbers_that_are_none(sd1, tmp_path, fuse):
    tensors = pair(f"lora_unet_{TO_K}", 16, 24)
    tensors[f"lora_unet_{TO_K}.lora_up.weight"][3] = float("inf")
    with pytest.raises(SettingError, match="no numbers"):
        sd1.with_loras([saved(tmp_path / "x.safetensors", tensors)], fuse=fuse)


def adapter(folder, tensors, **config):
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4, **config}))
    return folder


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "OFT"}, "PEFT's type 'OFT'"),
        ({"lora_alpha": "much"}, "alpha as 'much'"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "eyesel reads names of modules"),
        ({"alpha_pattern": {"conv1": [3]}}, "conv1 in its alpha_pattern as"),
        ({"rank_pattern": [1]}, "rank_pattern that is a list"),
    ],
)
def test_adapters_that_cannot_be_read(sd1, tmp_path, config, message):
    key = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    folder = adapter(tmp_path / "x", pair(key, 32, 24, up="lora_B", down="lora_A"), **config)
    with pytest.raises(CheckpointError, match=message):
        sd1.with_loras([folder])
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        sd1.with_loras([folder])


def test_metadata_that_cannot_be_read(sd1, tmp_path):
    for text in ("{", "[1, 2]", '{"unet.lora_alpha": "x"}'):
        key = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
        file = saved(
            tmp_path / "x.safetensors", pair(key, 32, 24, up="lora_B", down="lora_A"), {"lora_adapter_metadata": text}
        )
        with pytest.raises(CheckpointError, match=r"metadata of its adapter|alpha as"):
            sd1.with_loras([file])


def test_a_word_that_a_lora_brings_along(sd1, tmp_path):
    tensors = {**pair(f"lora_unet_{TO_K}", 16, 24), "bundle_emb.my-fox.emb_params": torch.ones(2, 24)}
    tensors["bundle_emb.my-owl.string_to_param.*"] = torch.ones(1, 24)
    changed = sd1.with_loras([saved(tmp_path / "x.safetensors", tensors)])
    assert {word: len(ids) for word, ids in changed.prompt_encoder.words.ids.items()} == {"my-fox": 2, "my-owl": 1}
    assert not sd1.prompt_encoder.words.ids


def test_the_bundled_painter_takes_one(tiny, tmp_path):
    """And what it was told before it still knows."""
    dim = tiny.text_encoders[0].config.dim
    save_file({"<fox>": torch.randn(1, dim)}, tmp_path / "learned_embeds.safetensors")
    key = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    shape = tiny.text_encoders[0].layers[0].mlp.fc1.weight.shape
    file = saved(tmp_path / "x.safetensors", pair(key, *shape))
    both = tiny.with_embeddings([tmp_path]).with_loras([(file, 0.01, 1.0)])
    assert "<fox>" in both.prompt_encoder.words.ids and both.unet is tiny.unet
    assert both.prompt_encoder.encoders == both.text_encoders and both.text_encoders != tiny.text_encoders
    assert both.generate("a <fox>", steps=1, seed=1).image.size == tiny.picture_size()


# --- models show


def test_show(sd1, tmp_path):
    tensors = {**pair(f"lora_unet_{TO_K}", 320, 768), f"lora_unet_{TO_K}.alpha": torch.tensor(2.0)}
    tensors |= pair("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_2", 320, 1280, rank=8)
    te = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    tensors |= {**pair(te, 3072, 768), f"{te}.dora_scale": torch.ones(3072, 1)}
    tags = {"10_fox": {"orange fox": 20, "sitting": 3}, "1_more": {"snow": 7, "orange fox": 1}}
    metadata = {
        "ss_tag_frequency": json.dumps(tags),
        "ss_output_name": "foxes",
        "modelspec.trigger_phrase": "fxs",
        "ss_sd_model_name": "v1-5.safetensors",
    }
    file = saved(tmp_path / "x.safetensors", tensors, metadata)
    facts = describe(file)
    assert facts["is"] == "a LoRA" and facts["method"] == "LoRA, decomposed (DoRA)"
    assert facts["base"] == "Stable Diffusion 1" and facts["rank"] == "4 to 8" and facts["alpha"] == "2"
    assert facts["trigger words"] == ["fxs", "orange fox", "snow", "sitting"] and facts["title"] == "foxes"
    assert facts["parts"] == {
        "unet": {"modules": 2, "cross-attention": 1, "feed-forward": 1},
        "text_encoder": {"modules": 1, "feed-forward": 1},
    }
    shown = CliRunner().invoke(app, ["models", "show", str(file)]).output
    assert "trigger words:   fxs, orange fox, snow, sitting" in shown and "cross-attention: 1" in shown
    assert json.loads(CliRunner().invoke(app, ["models", "show", str(file), "--json"]).output) == [facts]


def test_show_an_embedding(tmp_path):
    save_file({"clip_l": torch.ones(3, 768), "clip_g": torch.ones(3, 1280)}, tmp_path / "x.safetensors")
    torch.save({"string_to_param": {"*": torch.ones(2, 1024)}}, tmp_path / "y.pt")
    facts = describe(tmp_path / "x.safetensors")
    assert facts["base"] == "Stable Diffusion XL" and facts["vectors"] == 3 and facts["words"] == ["x"]
    facts = describe(tmp_path / "y.pt")
    assert facts["is"] == "a textual-inversion embedding" and facts["base"] == "Stable Diffusion 2"


def test_show_what_cannot_be_used(tmp_path):
    facts = describe(saved(tmp_path / "x.safetensors", {f"lora_unet_{TO_K}.oft_blocks": torch.ones(2, 4, 4)}))
    assert facts["is"] == "a LoRA" and "does not know in a LoRA" in facts["cannot be used"] and facts["bytes"] > 0


def test_show_a_folder(tmp_path):
    key = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    facts = describe(adapter(tmp_path / "x", pair(key, 32, 24, up="lora_B", down="lora_A")))
    assert facts["is"] == "a LoRA" and facts["base"] == "unknown" and facts["parts"]["unet"]["cross-attention"] == 1


def test_stated_bases(tmp_path):
    key = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    for metadata, base in (
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "Stable Diffusion XL"),
        ({"ss_base_model_version": "sd_v2"}, "Stable Diffusion 2"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "Stable Diffusion 1"),
        ({"ss_base_model_version": "???"}, None),
    ):
        assert open_lora(saved(tmp_path / "x.safetensors", pair(key, 8, 8), metadata)).base == base
    assert len(load_file(tmp_path / "x.safetensors")) == 2
