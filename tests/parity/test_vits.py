"""DeiT, DINO, DINOv2 and Google's ViT: the same weights in every spelling, against transformers, and saved for it."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from eyesel import ImageClassifier
from eyesel.errors import CheckpointError, SettingError
from eyesel.models.vit import ViT, ViTConfig, at_size
from eyesel.weights.checkpoint import open_vit
from tiny_models import randomise

CPU = torch.device("cpu")
TOLERANCE = 1e-4
SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 7,
}
WIDE = {**SHAPE, "intermediate_size": 96}


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def deit(kind):
    return kind(transformers.DeiTConfig(**WIDE))


MODELS = {
    "ViT": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**WIDE)),
    "ViT without a head": lambda: transformers.ViTModel(transformers.ViTConfig(**WIDE)),
    "DeiT": lambda: deit(transformers.DeiTForImageClassification),
    "DeiT with two heads": lambda: deit(transformers.DeiTForImageClassificationWithTeacher),
    "DeiT without a head": lambda: deit(transformers.DeiTModel),
    "DINO": lambda: transformers.ViTModel(transformers.ViTConfig(**WIDE), add_pooling_layer=False),
    "DINOv2": lambda: transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**SHAPE)),
    "DINOv2 without a head": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SHAPE)),
    "DINOv2 with SwiGLU": lambda: transformers.Dinov2ForImageClassification(
        transformers.Dinov2Config(**SHAPE, use_swiglu_ffn=True, mlp_ratio=2)
    ),
    "DINOv2 with registers": lambda: transformers.Dinov2WithRegistersForImageClassification(
        transformers.Dinov2WithRegistersConfig(**SHAPE, num_register_tokens=3)
    ),
    "DINOv2 with registers without a head": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**SHAPE)
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def theirs(request):
    return randomise(MODELS[request.param]())


def run(model, pixels):
    resamples_anyway = model.config.model_type.startswith("dinov2")
    with torch.no_grad():
        output = model(pixels, **({} if resamples_anyway else {"interpolate_pos_encoding": True}))
    return output.logits if "logits" in output else output.last_hidden_state


def run_ours(model, pixels):
    with torch.no_grad():
        return model(pixels) if model.config.classes else model.features(pixels)


def same(ours, theirs, *sizes):
    for size in sizes or [(32, 32), (48, 48), (24, 56), (64, 32)]:
        pixels = noise(2, 3, *size)
        expected = run(theirs, pixels)
        result = run_ours(ours, pixels)
        assert result.shape == expected.shape
        assert (result - expected).abs().max() <= TOLERANCE * max(1.0, expected.abs().max().item()), size


def test_equals_transformers_at_every_size(tmp_path, theirs):
    theirs.save_pretrained(tmp_path)
    ours, _ = open_vit(tmp_path, CPU)
    same(ours, theirs)
    larger = at_size(ours, (24, 56))
    assert larger.position_embeddings.shape[1] == ours.config.prefix_positions + 3 * 7
    assert larger.layers[0].mlp is not ours.layers[0].mlp
    assert all(a is b for (n, a), (_, b) in zip(larger.named_parameters(), ours.named_parameters(), strict=True)
               if n != "position_embeddings")  # fmt: skip
    same(larger, theirs, (24, 56))


@pytest.mark.parametrize(
    ("wrapper", "layers"), [("", "layers."), ("module.", "layers."), ("model.", "layers."), ("", "encoder.layers.")]
)
def test_names_in_memory(tmp_path, theirs, wrapper, layers):
    """Raw state_dicts, as third parties save them: today's names of transformers, under a wrapper or not."""
    theirs.config.save_pretrained(tmp_path)
    state = {
        wrapper + (name if "encoder" in name else name.replace("layers.", layers)): tensor.contiguous()
        for name, tensor in theirs.state_dict().items()
    }
    save_file(state, tmp_path / "model.safetensors")
    same(open_vit(tmp_path, CPU)[0], theirs, (32, 32))


def test_without_the_prefix(tmp_path, theirs):
    theirs.save_pretrained(tmp_path)
    prefix = f"{theirs.config.model_type}."
    state = {name.removeprefix(prefix): tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(state, tmp_path / "model.safetensors")
    same(open_vit(tmp_path, CPU)[0], theirs, (32, 32))


def test_without_a_config(tmp_path, theirs):
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.warns(
        UserWarning, match=r"without a config.json.* 3 layers of width 64, patches of 8x8.* heads of 64 channels"
    ):
        ours, _ = open_vit(tmp_path, CPU)
    same(ours, theirs)


def test_saved_for_transformers(tmp_path, theirs):
    """What we write is the file that transformers wrote, but for the mask token, and transformers opens it."""
    theirs.save_pretrained(tmp_path / "theirs")
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "theirs")
    ImageClassifier.load(tmp_path / "theirs", precision="file").save(tmp_path / "ours")
    ours, original = (load_file(tmp_path / who / "model.safetensors") for who in ("ours", "theirs"))
    ours, original = ({n: t for n, t in state.items() if "mask_token" not in n} for state in (ours, original))
    assert ours.keys() == original.keys()
    assert all(torch.equal(ours[name], original[name]) for name in ours)
    parts = {"add_pooling_layer": False} if getattr(theirs, "pooler", 0) is None else {}
    again, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True, **parts)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    pixels = noise(1, 3, 32, 32)
    assert torch.equal(run(again.eval(), pixels), run(theirs, pixels))
    assert again.config.id2label == theirs.config.id2label or not hasattr(theirs, "classifier")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "ours", backend="pil")
    assert processor.size["height"] == 32


def test_saved_for_timm_and_back(tmp_path, theirs):
    theirs.save_pretrained(tmp_path / "theirs")
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "theirs")
    eye = ImageClassifier.load(tmp_path / "theirs", precision="file")
    if eye.model.config.pooling == "cls+mean" or (theirs.config.model_type == "deit" and hasattr(theirs, "classifier")):
        with pytest.raises(SettingError, match="save it in transformers' format"):
            eye.save(tmp_path / "timm", "timm")
        assert not (tmp_path / "timm").exists()
        return
    if eye.model.config.norm_eps != 1e-6:
        with pytest.warns(UserWarning, match="norm_eps of 1e-06 where this model has 1e-12"):
            eye.save(tmp_path / "timm", "timm")
    else:
        eye.save(tmp_path / "timm", "timm")
    ours, _ = open_vit(tmp_path / "timm", CPU)
    same(ours, theirs, (32, 32))
    ImageClassifier.load(tmp_path / "timm", precision="file").save(tmp_path / "back")
    same(open_vit(tmp_path / "back", CPU)[0], theirs, (32, 32))


# --- the files of the authors


def meta_spelling(model: ViT, gated="w12", down="w3"):
    """Our weights under the names of DeiT's, DINO's and DINOv2's code, written down a second time."""
    ours, state = model.state_dict(), {}
    state["pos_embed"], state["cls_token"] = ours["position_embeddings"], ours["cls_token"]
    for part in ("weight", "bias"):
        state[f"patch_embed.proj.{part}"] = ours[f"patch_embeddings.{part}"]
        state[f"norm.{part}"] = ours[f"norm.{part}"]
        for i in range(model.config.depth):
            a, b = f"layers.{i}", f"blocks.{i}"
            state[f"{b}.attn.qkv.{part}"] = torch.cat([ours[f"{a}.attention.to_{x}.{part}"] for x in "qkv"])
            state[f"{b}.attn.proj.{part}"] = ours[f"{a}.attention.to_out.{part}"]
            for norm in ("norm1", "norm2"):
                state[f"{b}.{norm}.{part}"] = ours[f"{a}.{norm}.{part}"]
            if model.config.swiglu:
                state[f"{b}.mlp.{gated}.{part}"] = torch.cat([ours[f"{a}.mlp.{x}.{part}"] for x in ("gate", "up")])
                state[f"{b}.mlp.{down}.{part}"] = ours[f"{a}.mlp.down.{part}"]
            else:
                for layer in ("fc1", "fc2"):
                    state[f"{b}.mlp.{layer}.{part}"] = ours[f"{a}.mlp.{layer}.{part}"]
    if model.config.layer_scale:
        for i in range(model.config.depth):
            for j in (1, 2):
                state[f"blocks.{i}.ls{j}.gamma"] = ours[f"layers.{i}.scale{j}.gamma"]
    return state


TINY = {
    "image_size": (24, 24),
    "patch_size": (8, 8),
    "dim": 64,
    "depth": 2,
    "heads": 1,
    "mlp_dim": 96,
    "norm_eps": 1e-6,
}


def tiny(**change):
    return randomise(ViT(ViTConfig(**{**TINY, **change})))


def resampled_by_meta(positions, prefix, rows, columns, antialias, offset):
    """DINO's and DINOv2's interpolate_pos_encoding (github.com/facebookresearch/dinov2)."""
    side = int((positions.shape[1] - prefix) ** 0.5)
    grid = positions[:, prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    size = (
        {"scale_factor": ((rows + offset) / side, (columns + offset) / side)} if offset else {"size": (rows, columns)}
    )
    grid = torch.nn.functional.interpolate(grid, mode="bicubic", antialias=antialias, **size)
    return torch.cat([positions[:, :prefix], grid.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)], dim=1)


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("kind", ["DINO", "DINOv2", "DINOv2 with SwiGLU", "DINOv2 with registers"])
def test_files_of_meta(tmp_path, kind, suffix):
    change = {"layer_scale": kind != "DINO", "swiglu": kind.endswith("SwiGLU")}
    model = tiny(**change, registers=4 if kind.endswith("registers") else 0)
    state = meta_spelling(model)
    if kind != "DINO":
        state["mask_token"] = noise(1, 64)
    if model.config.registers:
        state["register_tokens"] = model.register_tokens.data
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save({"teacher": {f"module.backbone.{name}": t for name, t in state.items()}}, path)
    with pytest.warns(UserWarning, match="without a config.json"):
        ours, config = open_vit(path, CPU)
    assert config == {}
    pixels = noise(1, 3, 24, 24)
    with torch.no_grad():
        assert torch.equal(ours.features(pixels), model.features(pixels))
        registers = model.config.registers > 0
        expected = resampled_by_meta(model.position_embeddings, 1, 5, 2, registers, 0.0 if registers else 0.1)
        assert (ours.learned_positions((5, 2)) - expected).abs().max() <= 1e-6


def test_training_files_of_dino_and_deit(tmp_path):
    """A teacher with its projection head, which is not part of the network; DeiT's weights under "model"."""
    import argparse

    model = tiny(classes=3)
    state = meta_spelling(model)
    head = {"head.mlp.0.weight": noise(4, 4), "head.last_layer.weight_g": noise(4, 1)}
    teacher = {**{f"backbone.{name}": tensor for name, tensor in state.items()}, **head}
    torch.save({"student": {}, "teacher": teacher, "args": argparse.Namespace(lr=1), "epoch": 3}, tmp_path / "a.pth")
    classifier = {"head.weight": model.classifier.weight.data, "head.bias": model.classifier.bias.data}
    torch.save({"model": {**state, **classifier}}, tmp_path / "b.pth")
    pixels = noise(1, 3, 24, 24)
    with pytest.warns(UserWarning, match="without a config.json"), torch.no_grad():
        assert torch.equal(open_vit(tmp_path / "a.pth", CPU)[0].features(pixels), model.features(pixels))
        assert torch.equal(open_vit(tmp_path / "b.pth", CPU)[0](pixels), model(pixels))


def google_arrays(model: ViT):
    """Our weights as JAX keeps them in the original checkpoints."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    heads, dim = model.config.heads, model.config.dim
    arrays = {
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["position_embeddings"],
        "embedding/kernel": state["patch_embeddings.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embeddings.bias"],
    }
    for i in range(model.config.depth):
        block = f"Transformer/encoderblock_{i}"
        for theirs, ours in {"LayerNorm_0": "norm1", "LayerNorm_2": "norm2"}.items():
            arrays[f"{block}/{theirs}/scale"] = state[f"layers.{i}.{ours}.weight"]
            arrays[f"{block}/{theirs}/bias"] = state[f"layers.{i}.{ours}.bias"]
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for theirs, ours in {"query": "q", "key": "k", "value": "v"}.items():
            weight, bias = (state[f"layers.{i}.attention.to_{ours}.{part}"] for part in ("weight", "bias"))
            arrays[f"{attention}/{theirs}/kernel"] = weight.T.reshape(dim, heads, dim // heads)
            arrays[f"{attention}/{theirs}/bias"] = bias.reshape(heads, dim // heads)
        arrays[f"{attention}/out/kernel"] = state[f"layers.{i}.attention.to_out.weight"].T.reshape(
            heads, dim // heads, dim
        )
        arrays[f"{attention}/out/bias"] = state[f"layers.{i}.attention.to_out.bias"]
        for j in (0, 1):
            arrays[f"{block}/MlpBlock_3/Dense_{j}/kernel"] = state[f"layers.{i}.mlp.fc{j + 1}.weight"].T
            arrays[f"{block}/MlpBlock_3/Dense_{j}/bias"] = state[f"layers.{i}.mlp.fc{j + 1}.bias"]
    for theirs, ours, kernel in [("Transformer/encoder_norm", "norm", "scale"), ("head", "classifier", "kernel"),
                                 ("pre_logits", "pooler", "kernel")]:  # fmt: skip
        if f"{ours}.weight" in state:
            arrays[f"{theirs}/{kernel}"] = state[f"{ours}.weight"].T
            arrays[f"{theirs}/bias"] = state[f"{ours}.bias"]
    return arrays


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
@pytest.mark.parametrize("pooler", [False, True])
def test_files_of_google(tmp_path, prefix, pooler):
    model = tiny(heads=4, classes=5, pooler=pooler, pooling="pooler" if pooler else "cls")
    arrays = {prefix + name: array for name, array in google_arrays(model).items()}
    np.savez(tmp_path / "weights.npz", **arrays, **({"opt/state/step": np.array(3)} if prefix else {}))
    with pytest.warns(UserWarning, match="heads of 16 channels"):
        ours, _ = open_vit(tmp_path / "weights.npz", CPU)
    pixels = noise(2, 3, 24, 24)
    with torch.no_grad():
        assert torch.equal(ours(pixels), model(pixels))
        hidden = model.norm(list(model.hidden_states(pixels))[-1])[:, 0]
        hidden = torch.tanh(model.pooler(hidden)) if pooler else hidden
        assert torch.allclose(ours(pixels), model.classifier(hidden), atol=1e-6)


def test_broken_files_of_google(tmp_path):
    arrays = google_arrays(tiny(heads=4, classes=5))
    path = tmp_path / "weights.npz"
    np.savez(path, **arrays)
    whole = path.read_bytes()
    for cut in (0, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"not a complete \.npz file"):
            open_vit(path, CPU)
    np.savez(path, **{**arrays, "cls": np.array(["a", None], dtype=object)})
    with pytest.raises(CheckpointError, match="'cls' as object"):
        open_vit(path, CPU)
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(CheckpointError, match="not a checkpoint of a known family"):
        open_vit(path, CPU)


# --- what is refused or said


def test_a_config_beside_a_file_counts_if_it_is_a_vits(tmp_path):
    model = tiny()
    save_file({name: tensor.contiguous() for name, tensor in meta_spelling(model).items()}, tmp_path / "x.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.warns(UserWarning, match="without a config.json"):
        open_vit(tmp_path / "x.safetensors", CPU)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_x", "model_args": {"num_heads": 2}}))
    assert open_vit(tmp_path / "x.safetensors", CPU)[0].config.heads == 2


def test_what_transformers_has_not_is_refused(tmp_path):
    for change, complaint in [
        ({"pooled_norm": True}, "pooled_norm True"),
        ({"registers": 2}, "registers 2"),
        ({"class_token": False, "prefix_positions": 0, "pooling": "mean"}, "a class token"),
        ({"layer_scale": True, "mlp_dim": 100}, "mlp_dim 100"),
        ({"pooler": True, "pooling": "pooler", "classes": 3}, "pooling pooler"),
    ]:
        eye = ImageClassifier(tiny(**change), ImageClassifier.load("tiny").transform, [])
        with pytest.raises(SettingError, match=f"transformers has no ViT with(out)? {complaint}"):
            eye.save(tmp_path / "m")
        assert not (tmp_path / "m").exists()


def test_positions_before_the_patches_move_into_their_tokens(tmp_path):
    """timm's tokens without positions, saved for transformers, which has positions for the class token."""
    model = tiny(prefix_positions=0, classes=3)
    eye = ImageClassifier(model, ImageClassifier.load("tiny").transform, list("abc"))
    eye.save(tmp_path / "m")
    ours, _ = open_vit(tmp_path / "m", CPU)
    assert ours.config.prefix_positions == 1
    pixels = noise(1, 3, 24, 24)
    with torch.no_grad():
        assert torch.equal(ours(pixels), model(pixels))


@pytest.mark.parametrize("size", [(33, 32), 0, (32,), "32", (8 * 300, 8 * 300), -8])
def test_bad_sizes(size):
    with pytest.raises(SettingError, match="image_size is"):
        at_size(tiny(), size)
