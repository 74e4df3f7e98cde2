"""LoRAs of every family against diffusers and PEFT where they load them, else against the formula written here."""

import diffusers
import numpy as np
import peft
import pytest
import torch
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from safetensors.torch import save_file
from torch import nn

from eyesel import StableDiffusion
from eyesel.weights.lora import LoraFile
from lora_files import (
    RANK,
    difference,
    factors,
    kohya_prefix,
    layers,
    parts,
    reference,
    reference_state,
    sgm_name,
    state_of,
)
from tiny_models import write_painter

FAMILIES = ["sd1", "sd2", "sdxl"]
CLOSE = 2e-6  # of weights of order 1
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
EVERYTHING = [*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "time_emb_proj", "conv_shortcut"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


@pytest.fixture(scope="module", params=FAMILIES)
def painter(request, tmp_path_factory):
    folder = write_painter(tmp_path_factory.mktemp(request.param), request.param)
    return request.param, folder, StableDiffusion.load(folder, precision="float32")


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    folder = write_painter(tmp_path_factory.mktemp("xl"), "sdxl")
    return folder, StableDiffusion.load(folder, precision="float32")


def fused_reference(folder, file, **weights):
    """The weights of diffusers' pipeline with a LoRA that it has loaded and merged."""
    pipeline = reference(folder)
    pipeline.load_lora_weights(file.parent if file.is_file() else file, weight_name=file.name, adapter_name="it")
    if weights:
        pipeline.set_adapters("it", weights)
    pipeline.fuse_lora()
    return reference_state(pipeline)


def trained(folder, unet, text=None):
    """A pipeline with PEFT's adapters of random weights."""
    pipeline = reference(folder)
    for part, model in parts(pipeline).items():
        config = unet if part == "unet" else text
        if config is not None:
            model.add_adapter(config)
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    generator = torch.Generator().manual_seed(len(name))
                    parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return pipeline


def save_diffusers(pipeline, folder, metadata=True, converted=False):
    """pytorch_lora_weights.safetensors as diffusers' training scripts write it: text encoders `converted` to the names
    before PEFT, the UNet too where only its attention is trained (diffusers drops half of a mixture when it loads it).
    """
    adapted = {name: model for name, model in parts(pipeline).items() if getattr(model, "peft_config", None)}
    arguments = {}
    for part, model in adapted.items():
        state = peft.get_peft_model_state_dict(model)
        arguments[f"{part}_lora_layers"] = (
            convert_state_dict_to_diffusers(state) if converted or part != "unet" else state
        )
    described = _collate_lora_metadata(adapted) if metadata else {}
    type(pipeline).save_lora_weights(folder, **arguments, **described)
    return folder / "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("metadata", [True, False])
def test_diffusers_now(painter, tmp_path, metadata):
    """What diffusers' trainers write, with an alpha in the metadata or without, loaded by both."""
    _, folder, ours = painter
    unet = peft.LoraConfig(r=4, lora_alpha=10, target_modules=EVERYTHING, rank_pattern={"conv1": 2})
    text = peft.LoraConfig(r=3, lora_alpha=2, target_modules=TEXT)
    file = save_diffusers(trained(folder, unet, text), tmp_path, metadata)
    expected = fused_reference(folder, file)
    before = state_of(ours)
    assert difference(state_of(ours.with_loras([file])), expected) <= CLOSE
    assert difference(state_of(ours.with_loras([tmp_path])), expected) <= CLOSE  # the folder
    assert difference(before, expected) > 0.1
    assert difference(state_of(ours), before) == 0


def test_weights_of_text_encoders_and_unet(painter, tmp_path):
    _, folder, ours = painter
    config = {"r": 4, "lora_alpha": 4}
    unet, text = (peft.LoraConfig(target_modules=names, **config) for names in (ATTENTION, TEXT))
    file = save_diffusers(trained(folder, unet, text), tmp_path, converted=True)
    encoders = {part: -0.5 for part in parts(reference(folder)) if part != "unet"}
    expected = fused_reference(folder, file, unet=0.7, **encoders)
    assert difference(state_of(ours.with_loras([LoraFile(file, -0.5, 0.7)])), expected) <= CLOSE
    # twice half is once; a weight of 0 leaves the very models
    half = ours.with_loras([(file, -0.25, 0.35), (file, -0.25, 0.35)])
    assert difference(state_of(half), expected) <= CLOSE
    assert (
        difference(state_of(ours.with_loras([(file, -0.25, 0.35)]).with_loras([(file, -0.25, 0.35)])), expected)
        <= CLOSE
    )
    both = [state_of(ours.with_loras([lora])) for lora in ((file, 0.4), LoraFile(file, 0.4), (file, 0.4, 0.4))]
    assert difference(both[0], both[2]) == difference(both[1], both[2]) == 0
    none = ours.with_loras([(file, 0)])
    assert none.unet is ours.unet and none.text_encoders == ours.text_encoders


def test_diffusers_before_peft(painter, tmp_path):
    """Attention processors, `lora.down`, and text encoders of both old spellings: what diffusers wrote until 0.26."""
    _, folder, ours = painter
    pipeline, generator, state = reference(folder), torch.Generator().manual_seed(3), {}
    for part, model in parts(pipeline).items():
        for name, layer in layers(model, nn.Linear):
            leaf = name.rpartition(".")[2]
            if part == "unet" and "attn" in name:
                name = name.replace(".to_", ".processor.to_").removesuffix(".0") + "_lora"
            elif part == "unet" and ".ff." in name:
                name += ".lora"
            elif part != "unet" and leaf.endswith("_proj"):
                name = name.replace(leaf, f"to_{leaf.removesuffix('_proj')}_lora")
            elif part != "unet" and leaf.startswith("fc"):
                name += ".lora_linear_layer"
            else:
                continue
            state[f"{part}.{name}.down.weight"], state[f"{part}.{name}.up.weight"] = factors(layer, generator)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(state, file)
    torch.save(state, tmp_path / "old.bin")
    expected = formula(pipeline, state_by_layer(pipeline, state))
    assert difference(state_of(ours.with_loras([file])), expected) <= CLOSE
    assert difference(state_of(ours.with_loras([tmp_path / "old.bin"])), expected) <= CLOSE
    attention = {name: tensor for name, tensor in state.items() if "processor" in name}
    alone = {name.removeprefix("unet."): tensor for name, tensor in attention.items()}
    save_file(attention, file)
    save_file(alone, tmp_path / "unet.safetensors")
    assert difference(state_of(ours.with_loras([file])), fused_reference(folder, file)) <= CLOSE
    assert (
        difference(state_of(ours.with_loras([tmp_path / "unet.safetensors"])), fused_reference(folder, file)) <= CLOSE
    )


def state_by_layer(pipeline, state):
    """(down, up, scale) of each layer, found by the order in which `layers` goes: names play no part."""
    tensors = iter(state.values())
    pairs = list(zip(tensors, tensors, strict=True))
    found, names = {}, list(state)[::2]
    for part, model in parts(pipeline).items():
        for name, layer in layers(model, nn.Linear):
            spelled = [i for i, each in enumerate(names) if each.startswith(f"{part}.") and same(each, name)]
            for i in spelled:
                found[part, name] = (*pairs[i], 1.0)
                assert pairs[i][0].shape[1] == layer.weight.shape[1]
    assert len(found) == len(pairs)
    return found


def same(old, name):
    old = old.split(".", 1)[1].replace(".processor", "").removesuffix(".down.weight")
    old = old.removesuffix(".lora").removesuffix("_lora").removesuffix(".lora_linear_layer")
    if ".self_attn." in name:
        name = name.replace(name.rpartition(".")[2], f"to_{name.rpartition('.')[2].removesuffix('_proj')}")
    return old == name.replace(".to_out.0", ".to_out")


def formula(pipeline, changes, strength=1.0):
    """W + strength · scale · up · down, for (part, layer): (down, up, scale)."""
    expected = reference_state(pipeline)
    for (part, name), (down, up, scale) in changes.items():
        weight = f"{part}.{name.removeprefix('text_model.')}.weight"
        delta = (up.float().flatten(1) @ down.float().flatten(1)).reshape(expected[weight].shape)
        expected[weight] = expected[weight] + strength * scale * delta
    return expected


def kohya(pipeline, alpha, sgm=False, kinds=(nn.Linear, nn.Conv2d), dtype=torch.float32):
    """A file as sd-scripts write it, of every layer, and what is in it."""
    generator, state, changes = torch.Generator().manual_seed(5), {}, {}
    for part, model in parts(pipeline).items():
        for name, layer in layers(model, kinds):
            spelled = sgm_name(pipeline, name) if sgm and part == "unet" else name
            key = kohya_prefix(part, len(parts(pipeline))) + spelled.replace(".", "_")
            down, up = (factor.to(dtype) for factor in factors(layer, generator))
            state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
            if alpha is not None:
                state[f"{key}.alpha"] = torch.tensor(alpha, dtype=dtype)
            changes[part, name] = down, up, (alpha or RANK) / RANK
    return state, changes


@pytest.mark.parametrize("alpha", [1.0, 4.0, 0.0, None])
def test_kohya_and_locon(painter, tmp_path, alpha):
    """Every layer of all models, convolutions too, under flattened names; alpha 0 and no alpha scale by 1."""
    _, folder, ours = painter
    pipeline = reference(folder)
    for sgm in (False, True):
        state, changes = kohya(pipeline, alpha, sgm)
        save_file(state, tmp_path / "x.safetensors")
        expected = formula(pipeline, changes)
        assert difference(state_of(ours.with_loras([tmp_path / "x.safetensors"])), expected) <= CLOSE * 3


def test_kohya_as_diffusers_loads_it(painter, tmp_path):
    """diffusers takes the names of sgm, which sd-scripts use for SDXL, for SDXL alone."""
    family, folder, ours = painter
    for sgm in (False, True) if family == "sdxl" else (False,):
        state, _ = kohya(reference(folder), 2.0, sgm, nn.Linear)
        wanted = ("attn", "ff_net", "mlp", "self_attn")
        state = {name: tensor for name, tensor in state.items() if any(each in name for each in wanted)}
        save_file(state, tmp_path / "x.safetensors")
        expected = fused_reference(folder, tmp_path / "x.safetensors")
        assert difference(state_of(ours.with_loras([tmp_path / "x.safetensors"])), expected) <= CLOSE


def test_a_restricted_pickle(xl, tmp_path):
    folder, ours = xl
    state, changes = kohya(reference(folder), 1.0)
    torch.save({"state_dict": state}, tmp_path / "x.pt")
    expected = formula(reference(folder), changes)
    assert difference(state_of(ours.with_loras([tmp_path / "x.pt"])), expected) <= CLOSE * 3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_half_precision_is_computed_in_float32(xl, tmp_path, precision):
    folder, _ = xl
    pipeline = reference(folder)
    state, changes = kohya(pipeline, 1.0, dtype=torch.float16)
    save_file(state, tmp_path / "x.safetensors")
    ours = StableDiffusion.load(folder, precision=precision)
    dtype = getattr(torch, precision)
    base = {name: tensor.to(dtype).float() for name, tensor in reference_state(pipeline).items()}
    delta = {
        name: new - old
        for (name, new), old in zip(formula(pipeline, changes).items(), reference_state(pipeline).values(), strict=True)
    }
    expected = {name: (base[name] + delta[name]).to(dtype).float() for name in base}
    tolerance = CLOSE * 3 if precision == "float32" else 2**-7  # of which the last bit may be rounded the other way
    assert difference(state_of(ours.with_loras([tmp_path / "x.safetensors"])), expected) <= tolerance


@pytest.mark.parametrize("fuse", [True, False])
def test_the_same_picture_as_diffusers(painter, tmp_path, fuse):
    _, folder, ours = painter
    unet = peft.LoraConfig(r=4, lora_alpha=1, target_modules=EVERYTHING)
    text = peft.LoraConfig(r=3, lora_alpha=1, target_modules=TEXT)
    file = save_diffusers(trained(folder, unet, text), tmp_path)
    theirs = reference(folder)
    theirs.load_lora_weights(tmp_path)
    theirs.scheduler = diffusers.EulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    settings = {"num_inference_steps": 4, "guidance_scale": 5.0, "width": 64, "height": 64}
    generator = torch.Generator().manual_seed(7)
    expected = theirs(
        "a large fox", negative_prompt="red", generator=generator, output_type="latent", **settings
    ).images

    def paint(painter):
        said = {"negative": "red", "seed": 7, "steps": 4, "guidance": 5.0, "size": (64, 64), "solver": "euler"}
        *_, last = painter.steps("a large fox", **said)
        return last

    plain = paint(ours).latents
    last = paint(ours.with_loras([file], fuse=fuse))
    scale = max(1.0, expected.abs().max().item())
    assert (last.latents - expected).abs().max().item() <= 1e-4 * scale
    assert (plain - expected).abs().max().item() > 0.1
    assert torch.equal(paint(ours).latents, plain)
    with torch.no_grad():
        pixels = theirs.vae.decode(expected / theirs.vae.config.scaling_factor).sample
    picture = theirs.image_processor.postprocess(pixels, output_type="np")[0]
    assert np.abs(np.asarray(last.pictures()[0].image) / 255 - picture).max() <= 1.01 / 255


def test_unfused_is_fused(painter, tmp_path):
    """Layers of every kind, some changed by several files, some by one whose kind cannot stay apart."""
    family, folder, ours = painter
    state, _ = kohya(reference(folder), 1.0, sgm=family == "sdxl")
    save_file(state, tmp_path / "all.safetensors")
    rows = {name: tensor for name, tensor in state.items() if "attn1_to_k" in name}
    for name in [name for name in rows if name.endswith("up.weight")]:
        rows[name.replace("lora_up.weight", "dora_scale")] = torch.ones(len(rows[name]), 1)
    save_file(rows, tmp_path / "dora.safetensors")
    loras = [(tmp_path / "all.safetensors", 0.3, 0.3), (tmp_path / "dora.safetensors", 1.0, 0.5)]
    fused, apart = ours.with_loras([*loras, loras[0]]), ours.with_loras([*loras, loras[0]], fuse=False)
    again = ours.with_loras(loras, fuse=False).with_loras(loras[:1], fuse=False)
    shared = sum(a is b for a, b in zip(ours.unet.parameters(), fused.unet.parameters(), strict=True))
    theirs = dict(apart.unet.named_parameters())
    kept = sum(theirs[name] is parameter for name, parameter in ours.unet.named_parameters())
    assert kept > shared and len(theirs) > len(list(ours.unet.parameters()))
    outputs = []
    for painter_ in (fused, apart, again):
        encoded = painter_.prompt_encoder.encode(["a large fox", "red"])
        *_, last = painter_.steps("a large fox", seed=7, steps=2, solver="euler", size=(64, 64))
        outputs.append((encoded["a large fox"].context.float(), last.latents))
    for own, other in zip(outputs[0] * 2, outputs[1] + outputs[2], strict=True):
        assert (own - other).abs().max().item() <= 5e-5 * max(1.0, own.abs().max().item())
