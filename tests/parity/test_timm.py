"""timm's ViTs against what timm itself computed (fixtures/timm.json), on weights that are drawn anew here."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from eyesel import ImageClassifier
from eyesel.errors import CheckpointError, SettingError
from eyesel.models.vit import ViTConfig
from eyesel.weights import vit_timm_format
from eyesel.weights.checkpoint import open_vit
from fixtures.drawn import drawn, drawn_weights

CPU = torch.device("cpu")
MODELS = json.loads((Path(__file__).parents[1] / "fixtures" / "timm.json").read_text(encoding="utf-8"))


def write(folder, name, **change):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**MODELS[name]["config"], **change}))
    save_file(drawn_weights(MODELS[name]["shapes"]), folder / "model.safetensors")
    return folder


def outputs(model, size):
    height, width = map(int, size.split("x"))
    with torch.no_grad():
        pixels = drawn("pixels", (1, 3, height, width))
        return (model(pixels) if model.config.classes else model.pool(model.features(pixels)))[0]


@pytest.mark.parametrize("name", MODELS)
def test_equals_timm(tmp_path, name):
    model, _ = open_vit(write(tmp_path / "m", name), CPU)
    for size, expected in MODELS[name]["results"].items():
        assert (outputs(model, size) - torch.tensor(expected)).abs().max() <= 1e-4, size


@pytest.mark.parametrize("name", MODELS)
def test_what_we_save_for_timm_is_what_timm_saved(tmp_path, name):
    folder = write(tmp_path / "m", name)
    with pytest.warns(UserWarning, match="no labels") if "head.weight" in MODELS[name]["shapes"] else nullcontext():
        eye = ImageClassifier.load(folder, precision="file")
    eye.save(tmp_path / "again", "timm")
    ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path / "again", folder))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    again = ImageClassifier.load(tmp_path / "again", precision="file")
    assert again.model.config == eye.model.config
    assert again.transform == eye.transform


def test_names_decide_where_tensors_do_not(tmp_path):
    name = "class token"
    for change, field, value in [
        ({"architecture": "vit_base_patch32_clip_quickgelu_224"}, "activation", "quick_gelu"),
        ({"model_args": {"act_layer": "silu"}}, "activation", "silu"),
        ({"model_args": {"num_heads": 4}}, "heads", 4),
        ({"model_args": {"num_heads": 4, "global_pool": "avg"}}, "pooling", "mean"),
    ]:
        args = {"num_heads": 2, **change.get("model_args", {})}
        model, _ = open_vit(write(tmp_path / "m", name, **{**change, "model_args": args}), CPU)
        assert getattr(model.config, field) == value
    for change, complaint in [
        ({"architecture": "vit_base_patch16_rope_ape_224"}, "rotary positions"),
        ({"architecture": "vit_base_patch16_rpn_224"}, "norms behind"),
        ({"model_args": {"global_pool": "map"}}, "global_pool is 'map'"),
        ({"model_args": {"num_heads": 2, "act_layer": "mish"}}, "act_layer is 'mish'"),
        ({"model_args": {"pool_include_prefix": True}}, "pool_include_prefix"),
        ({"model_args": {}}, "width 16 does not say how many heads"),
    ]:
        with pytest.raises(CheckpointError, match=complaint):
            open_vit(write(tmp_path / "m", name, **change), CPU)


@pytest.mark.parametrize(("dim", "architecture", "heads"), [
    (192, "vit_tiny_patch16_224", 3),
    (768, "vit_base_patch16_224", 12),
    (768, "vit_base_patch16_gap_224", 16),
    (1152, "vit_so400m_patch14_siglip_gap_224", 16),
    (1280, "vit_huge_patch14_224", 16),
    (1536, "vit_giant_patch14_dinov2", 24),
    (1536, "vit_giantopt_patch16_siglip_gap_256", 16),
    (64, "test_vit", 2),
])  # fmt: skip
def test_heads_of_the_published_models(dim, architecture, heads):
    shapes = {
        "patch_embeddings.weight": (dim, 3, 16, 16),
        "position_embeddings": (1, 197, dim),
        "cls_token": (1, 1, dim),
        "layers.0.mlp.fc1.weight": (4 * dim, dim),
    }
    assert vit_timm_format.config_of({"architecture": architecture}, shapes).heads == heads


def test_what_timm_has_not_is_refused():
    dino = ViTConfig(dim=64, heads=1, classes=3, pooling="cls+mean")
    deit = ViTConfig(dim=64, heads=1, classes=3, distillation_token=True, prefix_positions=2)
    for config, complaint in [(dino, r"cls\+mean"), (deit, "one head")]:
        with pytest.raises(SettingError, match=complaint):
            vit_timm_format.written_config(config)
