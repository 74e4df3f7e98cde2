"""StyleAligned against its reference (google/style-aligned, `sa_handler.py`), which is written here for diffusers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eyesel import SettingError, StableDiffusion
from eyesel.taps.align import AlignStyle
from lora_files import reference
from tiny_models import write_painter

TOLERANCE = 1e-4
PROMPTS = ["a large fox on a blue background", "a small owl", "a red background"]


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def painter(request, tmp_path_factory):
    folder = write_painter(tmp_path_factory.mktemp(request.param), request.param)
    return StableDiffusion.load(folder, precision="float32"), folder


def expand_first(feat):
    half = len(feat) // 2
    return torch.cat([feat[:1].expand(half, *feat.shape[1:]), feat[half : half + 1].expand(half, *feat.shape[1:])])


def adain(feat):
    mean, std = feat.mean(-2, keepdim=True), (feat.var(-2, keepdim=True) + 1e-5).sqrt()
    return (feat - mean) / std * expand_first(std) + expand_first(mean)


class SharedAttention:
    """The attention processor of the reference, for batches of two halves: without prompt, and with."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        def heads(x):
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        own = encoder_hidden_states is None
        context = hidden_states if own else encoder_hidden_states
        q, k, v = heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context))
        if own:
            q, k = adain(q), adain(k)
            k, v = torch.cat([k, expand_first(k)], -2), torch.cat([v, expand_first(v)], -2)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return attn.to_out[0](out)


def share_norms(model):
    """Group norms and layer norms over each row and the first one."""
    for module in model.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):

            def forward(x, norm=module.forward):
                return norm(torch.cat([x, expand_first(x)], dim=-2))[..., : x.shape[-2], :]

            module.forward = forward


def their_latents(folder, norms):
    pipeline = reference(folder)
    pipeline.unet.set_attn_processor(SharedAttention())
    if norms:
        share_norms(pipeline.unet)
    generators = [torch.Generator().manual_seed(7 + i) for i in range(3)]
    return pipeline(
        PROMPTS, num_inference_steps=5, guidance_scale=5.0, generator=generators, output_type="latent"
    ).images


def our_last(painter, prompts=PROMPTS, **settings):
    for painting in painter.steps(prompts, **{"seed": 7, "steps": 5, "guidance": 5.0, **settings}):
        last = painting
    return last


def distance(ours, theirs):
    return (ours - theirs).abs().max().item() / max(1.0, theirs.abs().max().item())


def test_attention_and_norms_are_those_of_the_reference(painter):
    ours, folder = painter
    aligned = our_last(ours, align_style=True, align_norms=True).latents
    assert distance(aligned, their_latents(folder, norms=True)) <= TOLERANCE
    assert distance(aligned, our_last(ours, align_style=True).latents) > 10 * TOLERANCE


def test_attention_alone_is_that_of_the_reference(painter):
    ours, folder = painter
    aligned = our_last(ours, align_style=True).latents
    assert distance(aligned, their_latents(folder, norms=False)) <= TOLERANCE
    assert torch.equal(aligned, our_last(ours, tap=AlignStyle(3)).latents)


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("settings", [{}, {"guidance": 1.0}, {"guidance_interval": (0.5, 5.0)}])
def test_the_first_picture_is_as_it_would_be_alone(painter, settings, norms):
    ours, _ = painter
    plain = our_last(ours, **settings).latents
    aligned = our_last(ours, align_style=True, align_norms=norms, **settings).latents
    assert distance(aligned[0], plain[0]) <= TOLERANCE
    assert all(distance(aligned[i], plain[i]) > 10 * TOLERANCE for i in (1, 2))


def test_each_picture_follows_the_first_alone(painter):
    ours, _ = painter
    three = our_last(ours, align_style=True, align_norms=True).latents
    two = our_last(ours, PROMPTS[:2], align_style=True, align_norms=True).latents
    assert distance(two, three[:2]) <= TOLERANCE


def test_prompts_of_other_lengths_are_one_batch(painter):
    ours, _ = painter
    longer = [PROMPTS[0], "a small owl BREAK on a red background"]
    aligned = our_last(ours, longer, align_style=True).latents
    padded = our_last(ours, [f"{PROMPTS[0]} BREAK", longer[1]], align_style=True).latents
    assert torch.equal(aligned[0], padded[0])


def test_the_painter_stays_as_it_is(painter):
    ours, _ = painter
    before = our_last(ours).latents
    pictures = ours.generate(PROMPTS, seed=7, steps=2, align_style=True, align_norms=True)
    assert [p.settings["aligned_with"] for p in pictures] == [{"prompt": PROMPTS[0], "seed": 7}] * 3
    assert torch.equal(our_last(ours).latents, before)


@pytest.mark.parametrize(
    ("prompts", "settings", "words"),
    [
        (PROMPTS[:1], {}, "several"),
        (PROMPTS, {"tap": AlignStyle(3)}, "tap"),
        (["a fox AND an owl", "an owl"], {}, "AND"),
        (PROMPTS, {"align_style": False, "align_norms": True}, "both"),
    ],
)
def test_what_cannot_be_aligned(painter, prompts, settings, words):
    with pytest.raises(SettingError, match=words):
        painter[0].generate(prompts, steps=2, **{"align_style": True, **settings})


def test_a_batch_of_another_size(painter):
    with pytest.raises(SettingError, match="groups of 4"):
        our_last(painter[0], tap=AlignStyle(4))
