"""Single files of every kind: how they are told apart, what they are said to predict, and what is refused."""

import json
import sys
import types
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ldm_spelling
from eyesel import StableDiffusion
from eyesel.errors import CheckpointError, OutputError, SettingError
from eyesel.models.unet import UNet
from eyesel.weights import diffusers_format
from eyesel.weights.checkpoint import open_painter, open_stable_diffusion
from eyesel.weights.convert import convert
from eyesel.weights.describe import describe
from eyesel.weights.families import SD1, SD2, Prediction, scheduler_config
from eyesel.weights.files import open_tensors, read_tensor_metadata
from eyesel.weights.painter import Options, open_autoencoder
from eyesel.weights.prediction import ask_network, predict
from eyesel.weights.save import replacing, save_tensors
from eyesel.weights.single_file import write_file
from eyesel.weights.views import HeldTensor
from tiny_models import write_painter, write_standard_painter

CPU = torch.device("cpu")
UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_standard_painter(tmp_path_factory.mktemp("sd1") / "folder", "sd1")


@pytest.fixture(scope="module")
def state(folder):
    return ldm_spelling.whole(folder, "sd1", json.loads((folder / "unet" / "config.json").read_text()))


@pytest.fixture
def file(tmp_path, state):
    """Writes a file with changed tensors; a value of None drops one."""

    def write(name="model.safetensors", metadata=None, **changes):
        changed = {key: value for key, value in {**state, **changes}.items() if value is not None}
        path = tmp_path / name
        save_file(changed, path, metadata) if path.suffix == ".safetensors" else torch.save(changed, path)
        return path

    return write


def parameters(stored):
    return {name: tensor.mapped() for name, tensor in stored.tensors.items()}


def same(expected, found):
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(expected[name], found[name]), name


# --- file forms


def test_nested_pickles_with_training_state(tmp_path, state, monkeypatch):
    """The form of the first published checkpoints: Lightning's, with a callback's class among its keys."""
    parents = [types.ModuleType(name) for name in ("pytorch_lightning", "pytorch_lightning.callbacks")]
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    for each in (*parents, module):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    path = tmp_path / "sd.ckpt"
    nested = {"state_dict": {"state_dict": state}, "global_step": 5, "callbacks": {module.ModelCheckpoint: {"best": 1}}}
    torch.save(nested, path)
    monkeypatch.undo()
    assert open_tensors([path]).keys() == state.keys()
    open_painter(path).unet.load(CPU)


@pytest.mark.parametrize("cut", [0, 100, -1000])
@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_half_downloaded(file, name, cut):
    path = file(name)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"not a complete .* file"):
        open_painter(path)


def test_code_in_a_ckpt_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.__class__.touch, (tmp_path / "ran",))

    torch.save({"state_dict": {UNET + "x": Evil()}}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="more than tensors"):
        open_painter(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_storage_types(file, state, dtype):
    small = {name: tensor.to(dtype) for name, tensor in state.items() if name.startswith(UNET)}
    path = file(**small)
    name = UNET + "time_embed.0.weight"
    unet = open_painter(path).unet.load(CPU, "float32")
    assert torch.equal(unet.time_embedding.linear_1.weight, small[name].float())
    kept = open_painter(path).unet.load(CPU, "file")
    computed = torch.bfloat16 if dtype.itemsize == 1 else dtype
    assert {p.dtype for p in kept.parameters()} == {computed}
    assert torch.equal(kept.time_embedding.linear_1.weight.float(), small[name].float())


def test_old_quirks(file, state):
    """Text encoders without `text_model.`, `position_ids` as floats, the autoencoder's attention as matrices."""
    text = "cond_stage_model.transformer."
    changes = {name: None for name in state if name.startswith(text)}
    changes |= {n.replace("text_model.", ""): t for n, t in state.items() if n.startswith(text)}
    changes[text + "embeddings.position_ids"] = torch.arange(77.0)[None]
    for name in ("encoder.mid.attn_1.q.weight", "decoder.mid.attn_1.proj_out.weight"):
        changes["first_stage_model." + name] = state["first_stage_model." + name][:, :, 0, 0].contiguous()
    changes |= {
        "model_ema.decay": torch.tensor(0.9),
        "betas": torch.zeros(1000),
        "first_stage_model.loss.x": torch.ones(1),
    }
    expected, found = open_painter(file("a.safetensors")), open_painter(file("b.safetensors", **changes))
    same(parameters(expected.text_encoders[0]), parameters(found.text_encoders[0]))
    same(parameters(expected.autoencoder), parameters(found.autoencoder))


def test_other_prefix_of_the_autoencoder(file, state):
    ours = {name: tensor for name, tensor in state.items() if name.startswith("first_stage_model.")}
    renamed = {name.replace("first_stage_model.", "vae."): tensor for name, tensor in ours.items()}
    path = file(**dict.fromkeys(ours), **renamed)
    same(parameters(open_painter(file("a.safetensors")).autoencoder), parameters(open_painter(path).autoencoder))


def test_averaged_weights_on_request(file, state):
    ema = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor + 1
        for name, tensor in state.items()
        if name.startswith(UNET)
    }
    path = file(**ema)
    plain, averaged = (parameters(open_painter(path, Options(ema=wish)).unet) for wish in (False, True))
    same({name: tensor + 1 for name, tensor in plain.items()}, averaged)
    assert describe(path)["averaged weights"] == "also"
    for incomplete in (file("no.safetensors"), file("half.safetensors", **dict(list(ema.items())[:100]))):
        with pytest.raises(CheckpointError, match="no averaged"):
            open_painter(incomplete, Options(ema=True))


def test_what_no_part_has_is_reported(file):
    with pytest.warns(UserWarning, match=r"also holds tensors .*: strange.weight"):
        open_painter(file(**{"strange.weight": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"does not have: middle_block.9.weight"):
        open_painter(file(**{UNET + "middle_block.9.weight": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"lacks time_embedding.linear_1.weight"):
        open_painter(file(**{UNET + "time_embed.0.weight": None})).unet.load(CPU)


def test_a_text_encoder_of_another_vocabulary(file):
    name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    with pytest.raises(CheckpointError, match=r"300 tokens, and CLIP's vocabulary has 49,408"):
        open_painter(file(**{name: torch.zeros(300, 16)}))


# --- autoencoders


@pytest.mark.parametrize("form", ["ldm", "prefixed", "nested", "diffusers", "folder"])
def test_another_autoencoder(file, folder, state, tmp_path, form):
    vae = {n.removeprefix("first_stage_model."): t * 2 for n, t in state.items() if n.startswith("first_stage_model.")}
    path = tmp_path / "vae.safetensors"
    if form == "ldm":
        save_file({**vae, "loss.logvar": torch.ones(1)}, path)
    elif form == "prefixed":
        save_file({"first_stage_model." + name: tensor for name, tensor in vae.items()}, path)
    elif form == "nested":
        path = tmp_path / "vae.pt"
        torch.save({"state_dict": vae, "epoch": 1}, path)
    else:
        plain = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
        (tmp_path / "vae").mkdir()
        target = path if form == "diffusers" else tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
        save_file({name: tensor * 2 for name, tensor in plain.items()}, target)
        if form == "folder":
            config = json.loads((folder / "vae" / "config.json").read_text())
            (tmp_path / "vae" / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.5}))
            path = tmp_path / "vae"
    own = open_painter(file()).autoencoder
    found = open_painter(file(), Options(vae=path)).autoencoder
    same({name: tensor * 2 for name, tensor in parameters(own).items()}, parameters(found))
    assert found.config == replace(own.config, scaling_factor=0.5 if form == "folder" else 0.18215)
    same(parameters(found), parameters(open_painter(folder, Options(vae=path)).autoencoder))


def test_a_file_without_autoencoder_takes_one(file, folder, state):
    path = file(**dict.fromkeys(name for name in state if name.startswith("first_stage_model.")))
    with pytest.raises(CheckpointError, match="--vae"):
        open_painter(path)
    open_painter(path, Options(vae=folder / "vae")).autoencoder.load(CPU)
    with pytest.raises(CheckpointError, match="This is a LoRA"):
        lora = path.with_name("lora.safetensors")
        save_file({"lora_unet_x.lora_down.weight": torch.ones(1)}, lora)
        open_autoencoder(lora, 1.0)


# --- what the network predicts


def rules(tmp_path, **known):
    asked = {"explicit": None, "zero_terminal_snr": None, "metadata": {}, "names": set(), "ask": None}
    return predict(**{**asked, "sidecar": tmp_path / "model.yaml", **known})


def test_the_rules_in_order(tmp_path):
    v = "v_prediction"
    assert rules(tmp_path) == Prediction("epsilon", False, "the default")
    known = {"ask": lambda: v}
    assert rules(tmp_path, **known) == Prediction(v, False, "the network's own answer")
    (tmp_path / "model.yaml").write_text("model:\n  params:\n    linear_start: 0.00085\n")
    assert rules(tmp_path, **known) == Prediction("epsilon", False, "sidecar model.yaml")
    (tmp_path / "model.yaml").write_text('model:\n  params:\n    parameterization: "v" # not eps\n')
    assert rules(tmp_path) == Prediction(v, False, "sidecar model.yaml")
    (tmp_path / "model.yaml").write_text("parameterization: eps\n")
    known["names"] = {"v_pred", "ztsnr"}
    assert rules(tmp_path, **known) == Prediction(v, True, "marker tensor v_pred, marker tensor ztsnr")
    known["metadata"] = {"modelspec.prediction_type": "epsilon"}
    assert rules(tmp_path, **known).type == "epsilon" and rules(tmp_path, **known).rule.startswith("metadata")
    known["metadata"] = {"modelspec.architecture": "stable-diffusion-v2-768-v"}
    assert rules(tmp_path, **known).type == v
    known |= {"explicit": "epsilon", "zero_terminal_snr": False}
    assert rules(tmp_path, **known) == Prediction("epsilon", False, "as asked for")
    with pytest.raises(SettingError, match="'w'; choose epsilon"):
        rules(tmp_path, explicit="w")


@pytest.mark.parametrize(("bias", "answer"), [(-3.0, "v_prediction"), (0.5, "epsilon")])
def test_the_network_is_asked(state, bias, answer):
    """AUTOMATIC1111's probe, on a network whose answer is known."""
    config = diffusers_format.unet_config({"block_out_channels": [32], "down_block_types": ["CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D"], "cross_attention_dim": 8, "layers_per_block": 1})  # fmt: skip
    unet = UNet(config).eval()
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.constant_(unet.conv_out.bias, bias)
    assert ask_network(unet) == answer
    assert ask_network(unet.bfloat16()) == answer


def test_show_says_which_rule_fired(file):
    facts = describe(file(v_pred=torch.zeros(0), ztsnr=torch.zeros(0)))
    assert facts["is"] == "a single-file Stable Diffusion checkpoint"
    assert (facts["prediction"], facts["known from"]) == ("v_prediction", "marker tensor v_pred, marker tensor ztsnr")
    assert facts["zero terminal SNR"] is True and set(facts["parts"]) == {"unet", "vae", "text_encoder"}


def test_scheduler_of_v_prediction_up_to_pure_noise():
    config = scheduler_config(SD1, Prediction("v_prediction", True))
    assert config["_class_name"] == "DDIMScheduler" and config["prediction_type"] == "v_prediction"
    assert config["rescale_betas_zero_snr"] and config["timestep_spacing"] == "trailing"
    assert scheduler_config(SD2, Prediction())["_class_name"] == "PNDMScheduler"


def test_overruling_a_folder(folder):
    stored = open_painter(folder, Options(prediction_type="v_prediction", zero_terminal_snr=True))
    assert stored.scheduler["prediction_type"] == "v_prediction" and stored.scheduler["rescale_betas_zero_snr"]
    with pytest.raises(SettingError, match="leave out ema"):
        open_painter(folder, Options(ema=True))


# --- what is refused


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight"], "a Stable Diffusion 3 checkpoint"),
        (["model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale"], "a Flux checkpoint"),
        (["control_model.time_embed.0.weight", UNET + "x"], "a ControlNet checkpoint"),
        (["edm_mean", UNET + "x", "conditioner.embedders.1.model.x"], "a Playground 2.5 checkpoint"),
        (["edm_vpred.sigma_max", UNET + "x"], "a CosXL checkpoint"),
        ([UNET + "input_blocks.10.0.skip_connection.bias"], "a Stable Diffusion upscaler"),
        (["first_stage_model.decoder.conv_in.weight"], "an autoencoder alone"),
        (["lora_unet_x.lora_down.weight"], "a LoRA"),
        (["emb_params"], "a textual-inversion embedding"),
        (["nothing.known"], "not a checkpoint of a known family"),
        ([UNET + "x"], "no text encoder"),
    ],
)
def test_other_families_are_refused_by_name(tmp_path, names, what):
    path = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(2) for name in names}, path)
    with pytest.raises(CheckpointError, match=what):
        open_painter(path)
    assert what == "no text encoder" or describe(path)["is"] in (what, "unknown")


@pytest.mark.parametrize(
    ("channels", "what"), [(8, "an InstructPix2Pix"), (5, "a depth-to-image"), (7, "upscaler"), (6, "6 input")]
)
def test_other_tasks_are_refused_by_name(file, channels, what):
    with pytest.raises(CheckpointError, match=what):
        open_painter(file(**{UNET + "input_blocks.0.0.weight": torch.zeros(32, channels, 3, 3)}))


def test_inpainting_loads_converts_and_does_not_paint(file, tmp_path):
    path = file(**{UNET + "input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)})
    convert(path, tmp_path / "folder", "diffusers")
    index = json.loads((tmp_path / "folder" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionInpaintPipeline"
    for name in (path, tmp_path / "folder"):
        painter = StableDiffusion.load(name)
        assert painter.unet.conv_in.weight.shape[1] == 9
        with pytest.raises(SettingError, match="inpainting checkpoint, of 9 input channels"):
            painter.generate("a fox")


def test_variant_belongs_to_folders(file):
    with pytest.raises(SettingError, match="variant 'fp16'"):
        open_stable_diffusion(file(), CPU, options=Options(variant="fp16"))


# --- converting


def test_dtype_of_what_is_written(file, tmp_path, state):
    out = tmp_path / "half.safetensors"
    convert(file(), out, "single-file", dtype="float16")
    half = load_file(out)
    assert {tensor.dtype for tensor in half.values()} == {torch.float16}
    same({name: state[name].half() for name in half}, half)
    huge = file("huge.safetensors", **{UNET + "time_embed.0.bias": torch.full((128,), 1e6)})
    with pytest.raises(CheckpointError, match="too large for float16"):
        convert(huge, tmp_path / "x.safetensors", "single-file", dtype="float16")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["half.safetensors", "huge.safetensors", "model.safetensors"]


def test_nothing_is_overwritten_unless_asked(file, tmp_path):
    path, out = file(), tmp_path / "out"
    out.mkdir()
    for force in (False, True):
        with pytest.raises(OutputError, match=r"exists already|not one of a model"):
            convert(path, out, "diffusers", force=force)
    out.rmdir()
    convert(path, out, "diffusers")
    (out / "note.txt").touch()
    with pytest.raises(OutputError, match="--force"):
        convert(path, out, "diffusers")
    convert(path, out, "diffusers", force=True)
    assert not (out / "note.txt").exists() and (out / "model_index.json").is_file()
    with pytest.raises(OutputError, match="--force"):
        convert(out, path, "single-file")
    convert(path, path, "single-file", force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "out"]


@pytest.mark.parametrize(
    ("target", "format", "options", "complaint"),
    [
        ("x.ckpt", "single-file", {}, "safetensors"),
        ("x.safetensors", "diffusers", {}, "folder"),
        ("x", "onnx", {}, "onnx"),
        ("x", "diffusers", {"dtype": "int3"}, "int3"),
        ("no/x", "diffusers", {}, "does not exist"),
    ],
)
def test_convert_refuses(tmp_path, target, format, options, complaint):
    with pytest.raises((OutputError, SettingError), match=complaint):
        convert(tmp_path / "in", tmp_path / target, format, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_what_a_single_file_cannot_say(tmp_path, family):
    """A folder whose settings the reader of a single file would not guess is kept as it is."""
    folder = write_painter(tmp_path / "folder", family)
    with pytest.raises(CheckpointError, match=r"32 groups.* keep it as a folder"):
        convert(folder, tmp_path / "x.safetensors", "single-file")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_tokenizer_or_betas_of_its_own(folder, tmp_path):
    stored = open_painter(folder)
    odd = replace(stored, scheduler={**stored.scheduler, "beta_end": 0.02})
    with pytest.raises(CheckpointError, match="betas of its own"):
        write_file(odd, tmp_path / "x.safetensors", None, "x")
    tokenizer = open_painter(write_painter(tmp_path / "other", "sd1")).tokenizers
    with pytest.raises(CheckpointError, match="tokenizer of its own"):
        write_file(replace(stored, tokenizers=tokenizer), tmp_path / "x.safetensors", None, "x")


def test_safetensors_as_the_library_writes_them(tmp_path):
    tensors = {
        "a": torch.arange(6).view(2, 3),
        "b": torch.tensor(1.5, dtype=torch.bfloat16),
        "c": torch.zeros(0, 3),
        "d": torch.randn(3, 4).t(),
        "é": torch.tensor([True, False]),
        "f": torch.randn(5).to(torch.float8_e4m3fn),
    }
    save_tensors(tmp_path / "x.safetensors", {n: HeldTensor(t) for n, t in tensors.items()}, {"k": "ü"})
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"k": "ü"}
    for name, tensor in load_file(tmp_path / "x.safetensors").items():
        assert tensor.dtype == tensors[name].dtype and tensor.shape == tensors[name].shape
        assert torch.equal(tensor.float(), tensors[name].float())
    assert read_tensor_metadata(tmp_path / "x.safetensors") == {"k": "ü"}


def test_what_fails_leaves_nothing(tmp_path):
    (tmp_path / "old").write_text("old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "old", force=True) as fresh:
        fresh.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["old"] and (tmp_path / "old").read_text() == "old"
