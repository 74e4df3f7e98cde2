"""One training step of each method against a plain reference with the modules of diffusers and transformers."""

import copy
import json

import diffusers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image

from eyesel.stable_diffusion import StableDiffusion
from eyesel.train.diffusion.cache import Cache
from eyesel.train.diffusion.dataset import Drawing, Drawn, collate
from eyesel.train.diffusion.fit import (
    buckets_for,
    data_samples,
    encoded,
    encoded_texts,
    opened_samples,
    wording_of,
)
from eyesel.train.diffusion.methods import noise_schedule, prepare
from eyesel.train.diffusion.settings import Settings
from eyesel.train.diffusion.texts import Reader
from eyesel.train.draws import Draw
from eyesel.weights.clip_format import CLIP_TEXT
from eyesel.weights.diffusers_format import UNET

CAPTIONS = ["a small fox on blue", "a large owl", "a red fox"]
TOLERANCE = 1e-5  # of the largest number


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three pictures of one size, 64x64 once they are in their bucket, with captions."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i, caption in enumerate(CAPTIONS):
        Image.fromarray(rng.integers(0, 255, (80, 80, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        with (folder / "metadata.jsonl").open("a") as file:
            file.write(json.dumps({"file_name": f"{i}.png", "text": caption}) + "\n")
    return folder


def drawn(painter, pictures, settings, count=3):
    """A batch as it is trained on, and the task."""
    opened, samples, _ = opened_samples(data_samples(pictures, settings)[0], strict=True)
    cache = Cache()
    examples = encoded(painter, samples, opened, buckets_for(painter, settings), cache)
    prepared = prepare(painter, settings, seed=0)
    reader, wording = Reader(painter.tokenizers, settings.chunks, prepared.words), wording_of(settings)
    drawing = Drawing(
        config=painter.autoencoder.config,
        wording=wording,
        reader=reader,
        timesteps=noise_schedule(painter).num_train_timesteps,
        seed=3,
        noise_offset=settings.noise_offset,
        texts=encoded_texts(prepared, reader, wording, examples, cache),
        zero=painter.zero_negative,
        xl=painter.is_xl,
        repaints=painter.inpaints,
    )
    data = Drawn(examples, opened, cache, drawing)
    return prepared, collate([data[Draw(0, i)] for i in range(count)])


def opened(folder, settings, family):
    painter = StableDiffusion.load(folder, device="cpu", precision="float32")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if getattr(pipeline, part, None) is not None:
            getattr(pipeline, part).requires_grad_(False)
    return painter, pipeline


def conditioning(pipeline, captions):
    """As diffusers' training scripts have it: tokens, encoders, for SDXL the layer before the last of both."""
    hidden, pooled = [], None
    for number in ("", "_2"):
        encoder = getattr(pipeline, f"text_encoder{number}", None)
        if encoder is None:
            continue
        tokenizer = getattr(pipeline, f"tokenizer{number}")
        ids = tokenizer(captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        output = encoder(ids, output_hidden_states=True)
        if hasattr(pipeline, "text_encoder_2"):
            hidden.append(output.hidden_states[-2])
            pooled = output[0]
        else:
            hidden.append(output[0])
    return torch.cat(hidden, -1), pooled


def reference_loss(pipeline, batch, captions, snr_gamma=None, context=None):
    """The loop of examples/text_to_image/train_text_to_image*.py, on latents, noise and timesteps that are given."""
    scheduler = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
    latents, noise, t = batch["latents"], batch["noise"], batch["timesteps"]
    noisy = scheduler.add_noise(latents, noise, t)
    if "mask" in batch:
        masked = pipeline.vae.encode(batch["pixels"] * (batch["mask"] < 0.5)).latent_dist.mode()
        mask = F.max_pool2d(batch["mask"], 8)
        noisy = torch.cat([noisy, mask, masked * pipeline.vae.config.scaling_factor], dim=1)
    context, pooled = conditioning(pipeline, captions) if context is None else (context, None)
    added = None if pooled is None else {"text_embeds": pooled, "time_ids": batch["sizes"]}
    prediction = pipeline.unet(noisy, t, context, added_cond_kwargs=added).sample
    v = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, t) if v else noise
    if snr_gamma is None:
        return F.mse_loss(prediction, target)
    alphas = scheduler.alphas_cumprod[t]
    snr = (alphas**0.5 / (1 - alphas) ** 0.5) ** 2
    weights = torch.stack([snr, snr_gamma * torch.ones_like(t)], dim=1).min(dim=1)[0] / (snr + 1 if v else snr)
    loss = F.mse_loss(prediction, target, reduction="none")
    return (loss.mean(dim=list(range(1, loss.ndim))) * weights).mean()


def close(ours, theirs):
    scale = max(float(theirs.abs().max()), 1e-12)
    return float((ours - theirs).abs().max()) / scale <= TOLERANCE


def gradients(model, table):
    """Ours, under the names of the reference."""
    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name.removeprefix("text_model."): grad for name, grad in table.write(named).items()}


def compare(ours, model):
    check_same(ours, {n.removeprefix("text_model."): p.grad for n, p in model.named_parameters() if p.grad is not None})


def check_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert theirs
    largest = max(float(grad.abs().max()) for grad in theirs.values())
    for name, grad in theirs.items():
        assert float((ours[name] - grad).abs().max()) / largest <= TOLERANCE, name


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("snr_gamma", [None, 5.0])
def test_a_step_of_full_training(painters, pictures, family, snr_gamma):
    """Epsilon and v, with the text encoders, one encoder and two; the noise is offset."""
    settings = Settings(method="full", snr_gamma=snr_gamma, noise_offset=0.1, train_text_encoder=True)
    painter, pipeline = opened(painters[family], settings, family)
    prepared, batch = drawn(painter, pictures, settings)
    loss = prepared.task(**batch)["loss"]
    loss.backward()

    pipeline.unet.requires_grad_(True)
    encoders = [e for e in (pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)) if e is not None]
    for encoder in encoders:
        encoder.requires_grad_(True)
    expected = reference_loss(pipeline, batch, CAPTIONS, snr_gamma)
    expected.backward()
    assert close(loss.detach(), expected.detach())
    compare(gradients(painter.unet, UNET), pipeline.unet)
    for ours, theirs in zip(painter.text_encoders, encoders, strict=True):
        compare(gradients(ours, CLIP_TEXT), theirs)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_step_of_lora(painters, pictures, family):
    """Against PEFT's layers in diffusers, from the same factors, `up` being other than zero."""
    settings = Settings(method="lora", rank=3, alpha=6.0)
    painter, pipeline = opened(painters[family], settings, family)
    prepared, batch = drawn(painter, pictures, settings)
    generator = torch.Generator().manual_seed(1)
    for lora in prepared.loras["unet"].values():
        lora.up.data = torch.randn(lora.up.shape, generator=generator) * 0.1
    loss = prepared.task(**batch)["loss"]
    loss.backward()

    config = LoraConfig(
        r=3, lora_alpha=6.0, init_lora_weights="gaussian", target_modules=["to_k", "to_q", "to_v", "to_out.0"]
    )
    pipeline.unet.add_adapter(config)
    names = {path: UNET.spelling(f"{path}.weight").removesuffix(".weight") for path in prepared.loras["unet"]}
    assert len(get_peft_model_state_dict(pipeline.unet)) == 2 * len(names)
    for path, lora in prepared.loras["unet"].items():
        layer = pipeline.unet.get_submodule(names[path])
        layer.lora_A["default"].weight.data = lora.down.detach().clone()
        layer.lora_B["default"].weight.data = lora.up.detach().clone()
    expected = reference_loss(pipeline, batch, CAPTIONS)
    expected.backward()
    assert close(loss.detach(), expected.detach())
    theirs = {name: p.grad for name, p in pipeline.unet.named_parameters() if p.grad is not None}
    ours = {}
    for path, lora in prepared.loras["unet"].items():
        ours[f"{names[path]}.lora_A.default.weight"] = lora.down.grad
        ours[f"{names[path]}.lora_B.default.weight"] = lora.up.grad
    check_same(ours, theirs)


def test_a_step_of_dreambooth(painters, pictures):
    """Instance and class pictures in one batch: their losses weighted, then the mean, as kohya's scripts have it."""
    settings = Settings(method="dreambooth", instance_prompt="a red fox", class_prompt="a fox", prior_weight=0.5)
    painter, pipeline = opened(painters["sd1"], settings, "sd1")
    prepared, batch = drawn(painter, pictures, settings)
    batch["weight"] = torch.tensor([1.0, 0.5, 1.0])
    batch["context"][1] = conditioning(pipeline, ["a fox"])[0][0]
    loss = prepared.task(**batch)["loss"]
    loss.backward()

    pipeline.unet.requires_grad_(True)
    rows = []
    for i, prompt in enumerate(["a red fox", "a fox", "a red fox"]):
        row = {name: value[i : i + 1] for name, value in batch.items()}
        rows.append(reference_loss(pipeline, row, [prompt]))
    expected = (rows[0] + 0.5 * rows[1] + rows[2]) / 3
    expected.backward()
    assert close(loss.detach(), expected.detach())
    compare(gradients(painter.unet, UNET), pipeline.unet)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_step_of_textual_inversion(painters, pictures, family, tmp_path):
    """Two new tokens in the table of each text encoder, of which only their own rows are trained."""
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes((pictures / f"{i}.png").read_bytes())
        (tmp_path / f"{i}.txt").write_text(f"a small <new> on {['blue', 'red', 'red'][i]}")
    settings = Settings(method="textual-inversion", placeholder="<new>", initializer="fox owl")
    painter, pipeline = opened(painters[family], settings, family)
    prepared, batch = drawn(painter, tmp_path, settings)
    assert prepared.task.blocks()
    loss = prepared.task(**batch)["loss"]
    loss.backward()

    captions = [f"a small <new> <new>_1 on {colour}" for colour in ("blue", "red", "red")]
    tables = []
    for number in ("", "_2")[: len(painter.text_encoders)]:
        tokenizer, encoder = getattr(pipeline, f"tokenizer{number}"), getattr(pipeline, f"text_encoder{number}")
        begin = tokenizer("fox owl", add_special_tokens=False).input_ids
        # in transformers the pooled output is at eos_token_id, which in these tiny models is the last of the vocabulary
        tokenizer.add_tokens(["<new>", "<new>_1"])
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        table = encoder.get_input_embeddings().weight
        table.data[-2:] = table.data[begin]
        table.requires_grad_(True)
        tables.append(table)
    expected = reference_loss(pipeline, batch, captions)
    expected.backward()
    assert close(loss.detach(), expected.detach())
    for ours, table in zip(prepared.task.learned, tables, strict=True):
        assert close(ours.grad, table.grad[-2:])


def test_a_step_of_inpainting(painters, pictures):
    """A base of four channels, widened by five that begin without weight; masks and masked pictures as painted with."""
    settings = Settings(method="inpaint")
    painter, pipeline = opened(painters["sd1"], settings, "sd1")
    with pytest.warns(UserWarning, match="widened from 4 to 9"):
        prepared, batch = drawn(painter, pictures, settings)
    assert 0 < batch["mask"].mean() < 1
    loss = prepared.task(**batch)["loss"]
    loss.backward()

    old = pipeline.unet
    config = {**old.config, "in_channels": 9}
    pipeline.unet = diffusers.UNet2DConditionModel.from_config(config)
    state = copy.deepcopy(old.state_dict())
    state["conv_in.weight"] = torch.cat([state["conv_in.weight"], torch.zeros(16, 5, 3, 3)], dim=1)
    pipeline.unet.load_state_dict(state)
    expected = reference_loss(pipeline, batch, CAPTIONS)
    expected.backward()
    assert close(loss.detach(), expected.detach())
    compare(gradients(painter.unet, UNET), pipeline.unet)
    assert painter.unet.conv_in.weight.grad[:, 4:].abs().max() > 0
