"""StyleID's reference algorithm, written out with diffusers' UNet, autoencoder and alphas, in its own notation."""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import eyesel
from eyesel.nn.replica import replica
from tiny_models import write_painter

STEPS, GAMMA, T = 10, 0.75, 1.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    return write_painter(tmp_path_factory.mktemp("painter"), "sd1")


class Attend:
    """diffusers' attention with a place to record q, k and v, and others to use instead."""

    def __init__(self):
        self.record, self.use = None, None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        scale = attn.scale
        if self.record is not None:
            self.record.append((q, k, v))
        if self.use is not None:
            q_content, k, v = self.use
            q, scale = GAMMA * q_content + (1 - GAMMA) * q, attn.scale * T
        q, k, v = map(attn.head_to_batch_dim, (q, k, v))
        out = (q @ k.transpose(1, 2) * scale).softmax(-1) @ v
        return attn.to_out[0](attn.batch_to_head_dim(out))


class Reference:
    def __init__(self, folder, layers):
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder)
        self.unet, self.vae = pipeline.unet, pipeline.vae
        ids = pipeline.tokenizer("", padding="max_length", max_length=77, return_tensors="pt").input_ids
        self.context = pipeline.text_encoder(ids)[0]
        self.alphas = pipeline.scheduler.alphas_cumprod
        self.taps = {name: Attend() for name in self.unet.attn_processors}
        self.unet.set_attn_processor(dict(self.taps))
        self.chosen = [tap for name, tap in self.taps.items() if any(name.startswith(f"{layer}.") for layer in layers)]
        self.chosen = [tap for name, tap in self.taps.items() if tap in self.chosen and "attn1" in name]
        self.times = list(range(1, 1000, 1000 // STEPS))

    def noise(self, x, t):
        return self.unet(x, torch.tensor([t]), self.context).sample

    def step(self, x, noise, a, a_next):
        clean = (x - (1 - a).sqrt() * noise) / a.sqrt()
        return a_next.sqrt() * clean + (1 - a_next).sqrt() * noise

    def encode(self, picture):
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
        return self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor

    def invert(self, x):
        """The latents, and the features of each timestep."""
        features = {}
        for t, target in zip(self.times, [*self.times[1:], 999], strict=True):
            for tap in self.chosen:
                tap.record = []
            noise = self.noise(x, t)
            features[t] = [tap.record[0] for tap in self.chosen]
            for tap in self.chosen:
                tap.record = None
            x = self.step(x, noise, self.alphas[t], self.alphas[target])
        return x, features

    def stylize(self, content, style):
        z_content, of_content = self.invert(self.encode(content))
        z_style, of_style = self.invert(self.encode(style))
        mean, std = (
            {"c": getattr(z_content, m)((2, 3), keepdim=True), "s": getattr(z_style, m)((2, 3), keepdim=True)}
            for m in ("mean", "std")
        )
        x = (z_content - mean["c"]) / std["c"] * std["s"] + mean["s"]
        downwards = self.times[::-1]
        for t, target in list(zip(downwards, [*downwards[1:], 0], strict=True))[1:]:  # its first step is left out
            for tap, (q, _, _), (_, k, v) in zip(self.chosen, of_content[t], of_style[t], strict=True):
                tap.use = (q, k, v)
            x = self.step(x, self.noise(x, t), self.alphas[t], self.alphas[target])
        return x


def test_the_faithful_run_is_the_reference(folder):
    generator = np.random.default_rng(0)
    content, style = (Image.fromarray(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)) for _ in range(2))
    easel = eyesel.StableDiffusion.load(folder, device="cpu")
    layers = [easel.style_layers[number] for number in (2, 3)]
    assert layers == ["up_blocks.1.attentions.0", "up_blocks.1.attentions.1"]
    with torch.no_grad():
        expected = Reference(folder, layers).stylize(content, style)
    *_, last = easel.styling(content, style, steps=STEPS, faithful=True, layers=(2, 3))
    assert (last.latents - expected).abs().max() < 1e-4 * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_every_family_comes_back_to_its_content(family, tmp_path):
    torch.manual_seed(0)
    easel = eyesel.StableDiffusion.load(write_painter(tmp_path, family), device="cpu")
    # a random network is no denoiser: it is made gentle enough for its flow to have a way back at all
    easel.unet = replica(easel.unet, lambda name, weight: 0.1 * weight if name.startswith("conv_out") else weight)
    generator = np.random.default_rng(0)
    content, style = (Image.fromarray(generator.integers(0, 256, (40, 56, 3), dtype=np.uint8)) for _ in range(2))
    *_, near = easel.styling(content, style, strength=1e-6, steps=20, looks=4)
    clean = easel.encode([content.crop((0, 0, 56, 40))])
    error = (near.latents - clean).square().mean()
    assert 10 * torch.log10((clean.max() - clean.min()) ** 2 / error) > 40
    *_, styled = easel.styling(content, style, steps=4)
    assert styled.latents.isfinite().all()
    assert (styled.latents - clean).abs().max() > 1e-2
