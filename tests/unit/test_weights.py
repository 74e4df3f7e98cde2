"""Loading: every spelling and file form of the same weights gives the same tensors; anything else is named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from eyesel.errors import CheckpointError
from eyesel.models.vit import ViT, ViTConfig
from eyesel.weights import vit_formats
from eyesel.weights.checkpoint import open_stable_diffusion, open_vit
from eyesel.weights.files import find_weights, open_tensors
from eyesel.weights.rename import RenameTable

CPU = torch.device("cpu")
CONFIG = {
    "model_type": "vit",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 8,
    "id2label": {"0": "a", "1": "b", "2": "c"},
}
PIXELS = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=(16, 16), patch_size=(8, 8), dim=64, depth=2, heads=1, mlp_dim=32, classes=3, norm_eps=1e-6
    )
    model = ViT(config).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.1
    return model


def write(folder: Path, state, name="model.safetensors", config=CONFIG):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-6}))
    state = {key: value.contiguous() for key, value in state.items()}
    if name.endswith(".safetensors"):
        save_file(state, folder / name)
    else:
        torch.save(state, folder / name)
    return folder


def same_logits(folder, reference):
    model, _ = open_vit(folder, CPU)
    with torch.no_grad():
        return torch.equal(model(PIXELS), reference(PIXELS))


@pytest.mark.parametrize("spelling", vit_formats.SPELLINGS)
@pytest.mark.parametrize("bare", [False, True], ids=["prefixed", "bare"])
def test_every_vit_spelling(tmp_path, reference, spelling, bare):
    state = vit_formats.SPELLINGS[spelling].write(reference.state_dict())
    if bare:
        state = {name.removeprefix("vit."): value for name, value in state.items()}
    assert same_logits(write(tmp_path / "m", state), reference)


def test_timm_folder_without_transformers_config(tmp_path, reference):
    args = {"num_heads": reference.config.heads}
    config = {"architecture": "vit_own_patch8_16", "model_args": args, "pretrained_cfg": {"input_size": [3, 16, 16]}}
    folder = write(tmp_path / "m", vit_formats.TIMM.write(reference.state_dict()), config=config)
    assert same_logits(folder, reference)


def test_timm_heads_are_not_guessed(tmp_path, reference):
    folder = write(tmp_path / "m", vit_formats.TIMM.write(reference.state_dict()), config={"architecture": "own"})
    with pytest.raises(CheckpointError, match="width 64 does not say how many heads"):
        open_vit(folder, CPU)


def test_tables_write_what_they_read(reference):
    state = reference.state_dict()
    for table in vit_formats.SPELLINGS.values():
        written = table.write(state)
        back = {}
        for name, tensor in written.items():
            targets = table.read(name)
            back.update(zip(targets, tensor.chunk(len(targets)), strict=True))
        assert back.keys() == state.keys()
        assert all(torch.equal(back[name], state[name]) for name in state)


def test_rows_split_drop_and_refuse():
    table = RenameTable({"a.{}.x": "b.{}.y", "drop.**": None, "f.{}": ("q.{}", "k.{}")}, prefix="p.")
    assert table.read("p.a.3.x") == ("b.3.y",)
    assert table.read("a.3.x") == ("b.3.y",)
    assert table.read("drop.any.thing") is True
    assert table.read("f.weight") == ("q.weight", "k.weight")
    assert table.read("a.3.4.x") is False
    with pytest.raises(KeyError):
        table.write({"z": torch.zeros(1)})


@pytest.mark.parametrize(
    "name", ["model.fp16.safetensors", "pytorch_model.bin", "pytorch_model.fp16.bin", "model.safetensors"]
)
def test_file_forms(tmp_path, reference, name):
    assert same_logits(write(tmp_path / "m", vit_formats.CLASSIC.write(reference.state_dict()), name), reference)


def test_sharded_index(tmp_path, reference):
    state = vit_formats.CLASSIC.write(reference.state_dict())
    names = sorted(state)
    folder = write(tmp_path / "m", {n: state[n] for n in names[:5]}, "model-00001-of-00002.safetensors")
    write(folder, {n: state[n] for n in names[5:]}, "model-00002-of-00002.safetensors")
    shards = {n: f"model-0000{1 if n in names[:5] else 2}-of-00002.safetensors" for n in names}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    assert same_logits(folder, reference)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks model-00002-of-00002"):
        open_vit(folder, CPU)
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(CheckpointError, match="outside its own folder"):
        open_vit(folder, CPU)


def test_variant_is_insisted_on(tmp_path, reference):
    folder = write(tmp_path / "m", vit_formats.CLASSIC.write(reference.state_dict()))
    with pytest.raises(CheckpointError, match="variant 'fp16'"):
        find_weights(folder, "fp16")
    write(folder, vit_formats.CLASSIC.write(reference.state_dict()), "model.fp16.safetensors")
    assert find_weights(folder, "fp16")[0].name == "model.fp16.safetensors"
    assert find_weights(folder)[0].name == "model.safetensors"


def test_weights_are_views_of_the_file_until_converted(tmp_path, reference):
    folder = write(tmp_path / "m", vit_formats.CLASSIC.write(reference.state_dict()))
    stored = open_tensors(find_weights(folder))["classifier.weight"]
    assert stored.mapped().data_ptr() == stored.mapped().data_ptr()
    assert stored.read().data_ptr() != stored.mapped().data_ptr()
    assert torch.equal(stored.read(), stored.mapped())
    model, _ = open_vit(folder, CPU, "bfloat16")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad or p.is_meta for p in model.parameters())
    assert torch.equal(model.classifier.weight, reference.classifier.weight.bfloat16())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: s.pop("classifier.bias"), "lacks classifier.bias"),
        (lambda s: s.update({"vit.extra.weight": torch.zeros(1)}), "does not have: extra.weight"),
        (lambda s: s.update({"vit.layernorm.weight": torch.zeros(5)}), r"norm.weight as \(5,\) instead of \(64,\)"),
        (
            lambda s: [s.pop(n) for n in list(s) if "layer.1" in n],
            r"lacks layers.1.norm1.weight, .* and \d+ more",
        ),
    ],
)
def test_strict(tmp_path, reference, change, complaint):
    state = vit_formats.CLASSIC.write(reference.state_dict())
    change(state)
    with pytest.raises(CheckpointError, match=complaint):
        open_vit(write(tmp_path / "m", state), CPU)


def test_code_in_a_pickle_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    torch.save({"vit.x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="safetensors file"):
        open_vit(folder, CPU)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("cut", [0, 4, 100, -10])
def test_half_downloaded(tmp_path, reference, cut):
    folder = write(tmp_path / "m", vit_formats.CLASSIC.write(reference.state_dict()))
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        open_vit(folder, CPU)


@pytest.mark.parametrize(
    ("key", "family"),
    [
        ("double_blocks.0.img_attn.norm.key_norm.scale", "a Flux checkpoint"),
        ("model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight", "a Stable Diffusion 3 checkpoint"),
        ("model.diffusion_model.input_blocks.10.0.skip_connection.bias", "a Stable Diffusion upscaler"),
        ("control_model.time_embed.0.weight", "a ControlNet checkpoint"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "a LoRA"),
        ("model.layers.0.self_attn.q_proj.weight", "a language model"),
    ],
)
def test_other_architectures_are_named(tmp_path, key, family):
    path = tmp_path / "x.safetensors"
    save_file({key: torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match=f"This is {family}"):
        open_vit(path, CPU)
    with pytest.raises(CheckpointError, match=f"This is {family}"):
        open_stable_diffusion(path, CPU)


def test_other_folders_are_named(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(CheckpointError, match="This is a Flux checkpoint"):
        open_stable_diffusion(tmp_path, CPU)
    with pytest.raises(CheckpointError, match="This is a Flux checkpoint"):
        open_vit(tmp_path, CPU)
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="This is a model of type 'bert'"):
        open_vit(tmp_path, CPU)
    with pytest.raises(CheckpointError, match="This is a model of type 'bert'"):
        open_stable_diffusion(tmp_path, CPU)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"hidden_size": "wide", "model_type": "vit"}'])
def test_broken_config(tmp_path, reference, text):
    folder = write(tmp_path / "m", vit_formats.CLASSIC.write(reference.state_dict()))
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError):
        open_vit(folder, CPU)
