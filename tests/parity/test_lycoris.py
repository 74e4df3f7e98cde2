"""LoHa, LoKr, DoRA and the others of LyCORIS and PEFT: against PEFT where it makes them, else the papers' formulas."""

import math

import peft
import pytest
import torch
from safetensors.torch import save_file

from eyesel import StableDiffusion
from lora_files import difference, draw, parts, reference, reference_state, state_of
from tiny_models import write_painter

CLOSE = 5e-6
LAYERS = ["to_q", "to_k", "to_out.0", "ff.net.0.proj", "conv1", "conv2", "conv_shortcut", "proj_in", "time_emb_proj"]


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    folder = write_painter(tmp_path_factory.mktemp("sd1"), "sd1")
    return folder, StableDiffusion.load(folder, precision="float32")


@pytest.fixture(scope="module")
def pipeline(painter):
    return reference(painter[0])


def adapter(folder, part, config, into):
    """Random factors of PEFT, saved by PEFT, and the weights with them merged, by PEFT."""
    pipeline = reference(folder)
    adapted = peft.get_peft_model(parts(pipeline)[part], config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if any(each in name for each in ("lora_", "hada_", "lokr_")):
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(into)
    adapted.merge_and_unload()
    return reference_state(pipeline)


CONFIGS = {
    "LoRA": peft.LoraConfig(r=4, lora_alpha=6, target_modules=LAYERS),
    "rsLoRA": peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=LAYERS),
    "patterns": peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=LAYERS,
        rank_pattern={"conv1": 2, "attn1.to_q": 3},
        alpha_pattern={"conv1": 1, "mid_block.attentions.0.transformer_blocks.0.attn2.to_k": 9},
    ),
    "bias": peft.LoraConfig(r=4, lora_alpha=6, lora_bias=True, target_modules=["to_out.0", "conv1", "proj_in"]),
    "DoRA": peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=LAYERS),
    "LoHa": peft.LoHaConfig(r=3, alpha=5, target_modules=LAYERS),
    "LoHa of convolutions": peft.LoHaConfig(r=3, alpha=5, use_effective_conv2d=True, target_modules=LAYERS),
    "LoKr": peft.LoKrConfig(r=2, alpha=5, target_modules=LAYERS),
    "LoKr, both sides": peft.LoKrConfig(r=2, alpha=5, decompose_both=True, target_modules=LAYERS),
    "LoKr of convolutions": peft.LoKrConfig(r=2, alpha=5, use_effective_conv2d=True, target_modules=LAYERS),
    "LoKr, whole": peft.LoKrConfig(r=50, alpha=5, target_modules=LAYERS),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_adapters_of_peft(painter, tmp_path, kind):
    folder, ours = painter
    expected = adapter(folder, "unet", CONFIGS[kind], tmp_path / "x")
    before = state_of(ours)
    for path in (tmp_path / "x", tmp_path / "x" / "adapter_model.safetensors"):
        changed = ours.with_loras([path])
        assert difference(state_of(changed), expected) <= CLOSE
    assert difference(before, expected) > 0.05
    assert difference(state_of(ours), before) == 0


def test_adapters_of_several_models(painter, tmp_path):
    """peft's DreamBooth example keeps one folder for each model; the one of a text encoder may be alone."""
    folder, ours = painter
    unet = adapter(folder, "unet", CONFIGS["LoRA"], tmp_path / "unet")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "fc1"])
    text = adapter(folder, "text_encoder", config, tmp_path / "text_encoder")
    adapter(folder, "text_encoder", config, tmp_path / "any")
    expected = {name: (unet if name.startswith("unet.") else text)[name] for name in unet}
    assert difference(state_of(ours.with_loras([tmp_path])), expected) <= CLOSE
    assert difference(state_of(ours.with_loras([tmp_path / "unet", tmp_path / "any"])), expected) <= CLOSE


TO_K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"  # (16, 24)
CONV = "down_blocks.0.resnets.0.conv1"  # (16, 16, 3, 3)
NORM = "down_blocks.0.resnets.0.norm1"


def product(a, b):
    return (a.flatten(1) @ b.flatten(1)).contiguous()


def around(core, up, down):
    return torch.einsum("abkl,oa,bi->oikl", core, up.flatten(1), down.flatten(1))


def lengths(weight, axis):
    other = [i for i in range(weight.dim()) if i != axis]
    return (weight**2).sum(other, keepdim=True).sqrt()


def made():
    """kind: (layer, tensors, the weight that a weight becomes)."""
    g = torch.Generator().manual_seed(2)
    two, alpha = torch.tensor(2.0), 2.0
    up, down, wide = draw(g, 16, 4), draw(g, 4, 24), draw(g, 4, 16, 3, 3)
    core, point = draw(g, 4, 4, 3, 3), draw(g, 4, 16, 1, 1)
    halves = [draw(g, *shape) for shape in ((16, 4), (4, 24), (16, 4), (4, 24))]
    tucker = [draw(g, *shape) for shape in ((4, 4, 3, 3), (4, 16), (4, 16), (4, 4, 3, 3), (4, 16), (4, 16))]
    small, large, long = draw(g, 2, 4), draw(g, 8, 6), draw(g, 8, 4, 3, 3)
    rows, columns = draw(g, 16, 1).abs() + 0.5, draw(g, 1, 24).abs() + 0.5
    whole, bias, factors = draw(g, 16, 24), draw(g, 16), draw(g, 24)
    lora = {"lora_up.weight": up, "lora_down.weight": down, "alpha": two}
    delta = product(up, down) * alpha / 4
    loha = dict(zip(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), halves, strict=True))
    names = ("hada_t1", "hada_w1_a", "hada_w1_b", "hada_t2", "hada_w2_a", "hada_w2_b")
    t1, a1, b1, t2, a2, b2 = tucker
    low = {"lokr_w1": small, "lokr_w2_a": draw(g, 8, 3), "lokr_w2_b": draw(g, 3, 6), "alpha": two}
    lokr_core = {
        "lokr_w1": small,
        "lokr_t2": draw(g, 3, 3, 3, 3),
        "lokr_w2_a": draw(g, 3, 8),
        "lokr_w2_b": draw(g, 3, 4),
    }
    kron = torch.kron(small, low["lokr_w2_a"] @ low["lokr_w2_b"])
    inner = around(lokr_core["lokr_t2"], lokr_core["lokr_w2_a"].T, lokr_core["lokr_w2_b"]).contiguous()
    return {
        "LoCon": (
            CONV,
            {"lora_up.weight": up[:, :, None, None], "lora_down.weight": wide, "alpha": two},
            lambda w: w + product(up, wide).reshape(w.shape) * alpha / 4,
        ),
        "LoCon with a core": (
            CONV,
            {"lora_up.weight": up[:, :, None, None], "lora_mid.weight": core, "lora_down.weight": point, "alpha": two},
            lambda w: w + around(core, up, point) * alpha / 4,
        ),
        "LoHa": (
            TO_K,
            {**loha, "alpha": two},
            lambda w: w + product(*halves[:2]) * product(*halves[2:]) * alpha / 4,
        ),
        "LoHa with cores": (
            CONV,
            {**dict(zip(names, tucker, strict=True)), "alpha": two},
            lambda w: w + around(t1, a1.T, b1.T.T) * around(t2, a2.T, b2) * alpha / 4,
        ),
        "LoKr": (TO_K, {"lokr_w1": small, "lokr_w2": large, "alpha": two}, lambda w: w + torch.kron(small, large)),
        "LoKr of low rank": (TO_K, low, lambda w: w + kron * alpha / 3),
        "LoKr of a convolution": (
            CONV,
            {"lokr_w1": small[:, :, None, None], "lokr_w2": long},
            lambda w: w + torch.kron(small[:, :, None, None], long),
        ),
        "LoKr with a core": (
            CONV,
            {**lokr_core, "alpha": two},
            lambda w: w + torch.kron(small[:, :, None, None], inner) * alpha / 3,
        ),
        "DoRA of rows": (
            TO_K,
            {**lora, "dora_scale": rows},
            lambda w: rows * (w + delta) / lengths(w + delta, 0),
        ),
        "DoRA of columns": (
            TO_K,
            {**lora, "dora_scale": columns},
            lambda w: columns * (w + delta) / lengths(w + delta, 1),
        ),
        "DoRA over LoKr": (
            TO_K,
            {**low, "dora_scale": rows},
            lambda w: rows * (w + kron * alpha / 3) / lengths(w + kron * alpha / 3, 0),
        ),
        "difference": (TO_K, {"diff": whole}, lambda w: w + whole),
        "(IA)³ of the input": (TO_K, {"weight": factors, "on_input": torch.tensor(1)}, lambda w: w * (1 + factors)),
        "(IA)³ of the output": (
            TO_K,
            {"weight": bias, "on_input": torch.tensor(0)},
            lambda w: w * (1 + bias[:, None]),
        ),
    }


@pytest.mark.parametrize("kind", made())
@pytest.mark.parametrize("strength", [1.0, -0.6])
def test_formulas_of_lycoris(painter, pipeline, tmp_path, kind, strength):
    _, ours = painter
    layer, tensors, change = made()[kind]
    key = f"lora_unet_{layer.replace('.', '_')}"
    save_file({f"{key}.{name}": tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "x.safetensors")
    expected = reference_state(pipeline)
    weight = expected[f"unet.{layer}.weight"]
    expected[f"unet.{layer}.weight"] = weight + strength * (change(weight) - weight)
    for fuse in (True, False):
        changed = ours.with_loras([(tmp_path / "x.safetensors", 0.0, strength)], fuse=fuse)
        if fuse or kind not in ("LoCon", "LoCon with a core"):
            products = [name for name, _ in changed.unet.named_parameters() if "products" in name]
            assert not products
            assert difference(state_of(changed), expected) <= CLOSE


def test_norms_and_biases(painter, pipeline, tmp_path):
    _, ours = painter
    g = torch.Generator().manual_seed(4)
    w, b, c = draw(g, 16), draw(g, 16), draw(g, 16)
    norm, conv = (f"lora_unet_{layer.replace('.', '_')}" for layer in (NORM, CONV))
    save_file({f"{norm}.w_norm": w, f"{norm}.b_norm": b, f"{conv}.diff_b": c}, tmp_path / "x.safetensors")
    expected = reference_state(pipeline)
    for name, delta in ((f"{NORM}.weight", w), (f"{NORM}.bias", b), (f"{CONV}.bias", c)):
        expected[f"unet.{name}"] = expected[f"unet.{name}"] + 0.5 * delta
    assert difference(state_of(ours.with_loras([(tmp_path / "x.safetensors", 1, 0.5)])), expected) <= CLOSE


def test_the_length_of_a_decomposed_row_is_its_magnitude(painter, tmp_path):
    _, ours = painter
    layer, tensors, _ = made()["DoRA of rows"]
    key = f"lora_unet_{layer.replace('.', '_')}"
    save_file({f"{key}.{name}": tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "x.safetensors")
    weight = ours.with_loras([tmp_path / "x.safetensors"]).unet.get_parameter(f"{layer}.weight")
    assert math.isclose(weight[3].norm().item(), tensors["dora_scale"][3].item(), rel_tol=1e-5)
