"""IP-Adapters against diffusers, which loads the same files: tokens, what the UNet makes of them, whole pictures."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from eyesel import EyeselError, StableDiffusion
from eyesel.models.image_blocks import cross_attention, layer_scales
from eyesel.models.unet import SizeConditioning, UNet, UNetConfig
from eyesel.nn.attention import Site
from eyesel.nn.image_attention import Prompted
from eyesel.weights.describe import describe
from eyesel.weights.image_encoder import open_image_encoder
from eyesel.weights.load import build
from ip_adapter_files import projection, save, tables, write_image_encoder
from lora_files import reference
from tiny_models import write_painter

TOLERANCE = 1e-4
PROMPT = "a large fox on a blue background"
CPU = torch.device("cpu")


def picture(seed, size=(48, 40)):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def painter(request, tmp_path_factory):
    folder = write_painter(tmp_path_factory.mktemp(request.param), request.param)
    write_image_encoder(folder / "adapters" / "image_encoder")
    return StableDiffusion.load(folder, precision="float32"), folder


def adapter(folder, kind, suffix=".safetensors", seed=0):
    name = f"{kind.replace(' ', '-')}-{seed}{suffix}"
    return save(tables(reference(folder).unet, kind, seed), folder / "adapters" / name)


def theirs_with(folder, *files):
    pipeline = reference(folder)
    pipeline.load_ip_adapter(str(folder / "adapters"), subfolder="", weight_name=[file.name for file in files])
    return pipeline


def their_latents(pipeline, images, **settings):
    return pipeline(
        PROMPT,
        ip_adapter_image=images,
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(7),
        output_type="latent",
        **settings,
    ).images


def our_last(painter, **settings):
    for painting in painter.steps(PROMPT, seed=7, steps=4, guidance=5.0, **settings):
        last = painting
    return last


def close(ours, theirs):
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item() <= TOLERANCE * max(1.0, theirs.abs().max().item())


# --- the image encoder


@pytest.mark.parametrize("change", [{}, {"act": "quick_gelu"}, {"image_size": 36}, {"layer_norm_eps": 1e-3}])
def test_the_image_encoder_is_that_of_transformers(tmp_path, change):
    theirs = write_image_encoder(tmp_path, **change)
    stored = open_image_encoder(tmp_path)
    side = stored.model.config.image_size
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True)
        ours = stored.model.load(CPU, "float32")(pixels)
    assert close(ours.pooled, expected.image_embeds)
    assert close(ours.hidden, expected.hidden_states[-2])


def test_pictures_are_made_ready_as_by_clip(tmp_path):
    write_image_encoder(tmp_path)
    processor = transformers.CLIPImageProcessor(size=32, crop_size=32)
    image = picture(3, (70, 45))
    expected = processor(image, return_tensors="pt").pixel_values
    assert torch.equal(open_image_encoder(tmp_path).transform([image]), expected)
    processor = transformers.CLIPImageProcessor(size=40, crop_size=32, image_mean=[0.5, 0.4, 0.3])
    processor.save_pretrained(tmp_path)
    expected = processor(image, return_tensors="pt").pixel_values
    assert torch.equal(open_image_encoder(tmp_path).transform([image]), expected)


# --- adapters


@pytest.mark.parametrize("kind", ["plain", "plus", "full face"])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_tokens_and_pictures(painter, kind, suffix):
    ours, folder = painter
    file = adapter(folder, kind, suffix)
    theirs = theirs_with(folder, file)
    theirs.set_ip_adapter_scale(0.6)
    prompted = ours.with_image_prompt(file, picture(1), scale=0.6)

    embeds = theirs.prepare_ip_adapter_image_embeds(picture(1), None, CPU, 1, True)
    with torch.no_grad():
        [expected] = theirs.unet.encoder_hid_proj(embeds)  # (2, pictures, T, context_dim)
    [prompt] = prompted.image_prompts
    assert close(prompt.nothing, expected[0]) and close(prompt.tokens, expected[1])

    expected = their_latents(theirs, picture(1))
    last = our_last(prompted)
    assert close(last.latents, expected)
    assert not close(last.latents, our_last(ours).latents)
    with torch.no_grad():
        pixels = theirs.vae.decode(expected / theirs.vae.config.scaling_factor).sample
    [expected] = theirs.image_processor.postprocess(pixels, output_type="np")
    assert np.abs(np.asarray(last.pictures()[0].image) / 255 - expected).max() <= 1.01 / 255


@pytest.mark.parametrize("kind", ["plain", "plus"])
def test_the_network_alone(painter, kind):
    ours, folder = painter
    file = adapter(folder, kind)
    theirs = theirs_with(folder, file).unet
    prompted = ours.with_image_prompt(file, picture(1))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    context = torch.randn(2, 5, theirs.config.cross_attention_dim, generator=generator)
    t = torch.tensor([3.0, 700.0])
    embeds = torch.randn(2, 1, *(() if kind == "plain" else (17,)), 20 if kind == "plain" else 24, generator=generator)
    added, conditions = None, {"image_embeds": [embeds]}
    if ours.is_xl:
        pooled, sizes = torch.randn(2, 20, generator=generator), torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)
        added = SizeConditioning(pooled, sizes)
        conditions |= {"text_embeds": pooled, "time_ids": sizes}
    with torch.no_grad():
        [tokens] = theirs.encoder_hid_proj([embeds])
        expected = theirs(x, t, context, added_cond_kwargs=conditions).sample
        assert close(prompted.unet(x, t, Prompted(context, (tokens[:, 0],)), added), expected)
        # without pictures it is the network that it was
        assert torch.equal(prompted.unet(x, t, context, added), ours.unet(x, t, context, added))


def test_several_pictures_are_shown_together(painter):
    ours, folder = painter
    file = adapter(folder, "plus")
    theirs = theirs_with(folder, file)
    pictures = [picture(1), picture(2, (30, 64))]
    assert close(our_last(ours.with_image_prompt(file, pictures)).latents, their_latents(theirs, [pictures]))


def test_several_adapters_and_a_lora(painter, tmp_path):
    ours, folder = painter
    plain, plus = adapter(folder, "plain"), adapter(folder, "plus", seed=1)
    theirs = theirs_with(folder, plain, plus)
    theirs.set_ip_adapter_scale([0.7, 0.3])
    lora = tmp_path / "lora.safetensors"
    generator = torch.Generator().manual_seed(2)
    state = {}
    for name, module in reference(folder).unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_q", "attn1.to_v", "attn2.to_out.0")):
            out, into = module.weight.shape
            state[f"unet.{name}.lora.down.weight"] = 0.3 * torch.randn(2, into, generator=generator)
            state[f"unet.{name}.lora.up.weight"] = 0.3 * torch.randn(out, 2, generator=generator)
    save_file(state, lora)
    theirs.load_lora_weights(str(tmp_path), weight_name=lora.name)
    expected = their_latents(theirs, [picture(1), picture(2)])

    def both(painter):
        painter = painter.with_image_prompt(plain, picture(1), scale=0.7)
        return painter.with_image_prompt(plus, picture(2), scale=0.3)

    for fuse in (True, False):
        assert close(our_last(both(ours.with_loras([lora], fuse=fuse))).latents, expected)
        assert close(our_last(both(ours).with_loras([lora], fuse=fuse)).latents, expected)


def test_scales_by_block(painter):
    ours, folder = painter
    file = adapter(folder, "plain")
    theirs = theirs_with(folder, file)
    level = "block_1" if ours.is_xl else "block_0"
    up = {"block_0": [0.0, 0.9]} if ours.is_xl else {"block_1": [0.2, 0.9]}
    for blocks in ({"down": {level: [0.8]}, "up": up}, {"mid": 0.5}, {"up": 0.7}, {"down": {level: 0.4}, "mid": [1.0]}):
        theirs.set_ip_adapter_scale(blocks)
        expected = their_latents(theirs, picture(1))
        assert close(our_last(ours.with_image_prompt(file, picture(1), blocks=blocks)).latents, expected)
    halves = ours.with_image_prompt(file, picture(1), scale=0.5, blocks={"up": 1.4})
    assert close(
        our_last(halves).latents, our_last(ours.with_image_prompt(file, picture(1), blocks={"up": 0.7})).latents
    )


XL = UNetConfig(
    channels=(32, 32, 32),
    transformer_depth=(0, 2, 10),
    mid_transformer_depth=10,
    heads=(1, 1, 1),
    size_dim=8,
    added_dim=68,
)
SD1 = UNetConfig(channels=(32, 32, 32, 32), heads=(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("config", "blocks", "expected"),
    [
        (XL, "style", {"up_blocks.0.attentions.1": 1}),
        (XL, "layout", {"down_blocks.2.attentions.1": 1}),
        (XL, "style+layout", {"up_blocks.0.attentions.1": 1, "down_blocks.2.attentions.1": 1}),
        (SD1, "layout", {"down_blocks.2.attentions.0": 0.25, "down_blocks.2.attentions.1": 1}),
        (
            SD1,
            "style",
            dict.fromkeys(
                [
                    *(f"down_blocks.{i}.attentions.{j}" for i in (0, 1) for j in (0, 1)),
                    *(f"up_blocks.{i}.attentions.{j}" for i in (2, 3) for j in (0, 1, 2)),
                    "mid_block.attentions.0",
                ],
                1,
            ),
        ),
    ],
)
def test_style_and_layout(config, blocks, expected):
    unet = build(lambda: UNet(config))
    scales = layer_scales(unet, 0.5, blocks)
    assert len(scales) == sum(map(len, cross_attention(unet).values())) == (70 if config is XL else 16)
    given = {path.partition(".transformer_blocks")[0]: 2 * scale for path, scale in scales.items() if scale}
    assert given == expected
    assert set(layer_scales(unet, 0.5, "all").values()) == {0.5}


# --- no trace


def test_the_painter_stays_as_it_is_and_shares_its_weights(painter):
    ours, folder = painter
    before = {name: p.clone() for name, p in ours.unet.named_parameters()}
    unchanged = our_last(ours).latents
    prompted = ours.with_image_prompt(adapter(folder, "plain"), picture(1))
    our_last(prompted)
    assert torch.equal(our_last(ours).latents, unchanged) and ours.image_prompts == ()
    parameters = dict(prompted.unet.named_parameters())
    for name, parameter in ours.unet.named_parameters():
        assert parameters[name] is parameter and torch.equal(parameter, before[name])
    none = ours.with_image_prompt(adapter(folder, "plain"), picture(1), scale=0)
    assert torch.equal(our_last(none).latents, unchanged)


def test_threads_with_other_pictures_do_not_mix(painter):
    ours, folder = painter
    painters = [ours, *(ours.with_image_prompt(adapter(folder, "plus"), picture(i)) for i in (1, 2))]
    alone = [our_last(each).latents for each in painters]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda i: our_last(painters[i % 3]).latents, range(9)))
    assert all(torch.equal(found, alone[i % 3]) for i, found in enumerate(together))


def test_image_to_image_batches_and_subprompts(painter):
    """What else goes through the rows of a batch: each image is what it is alone."""
    ours, folder = painter
    prompted = ours.with_image_prompt(adapter(folder, "plain"), picture(1))
    prompts = ["a fox AND an owl :0.5", "a small owl BREAK a red background"]
    settings = {"steps": 3, "guidance": 4.0, "image": picture(5, (64, 64)), "strength": 0.7}
    for painting in prompted.steps(prompts, seed=3, **settings):
        batch = painting
    for i, prompt in enumerate(prompts):
        for painting in prompted.steps(prompt, seed=3 + i, **settings):
            alone = painting
        assert close(alone.latents, batch.latents[i : i + 1])


class Sites:
    """Notes where it was asked, and looks at all probabilities."""

    def __init__(self):
        self.seen = {}

    def wants(self, site: Site) -> bool:
        return site.cross

    def probs(self, site: Site, p):
        self.seen[site.name] = p.shape[-1]
        return p


def test_a_tap_sees_words_and_pictures_apart(painter):
    ours, folder = painter
    prompted = ours.with_image_prompt(adapter(folder, "plus"), picture(1))
    tap = Sites()
    last = our_last(prompted, tap=tap)
    words = [path for paths in cross_attention(ours.unet).values() for path in paths]
    assert tap.seen == dict.fromkeys(words, 77) | {f"{path}.images.0": 5 for path in words}
    assert close(last.latents, our_last(prompted).latents)


# --- what is refused


def parts_of(folder, kind="plain"):
    return tables(reference(folder).unet, kind)


def refused(painter, file, *words, **settings):
    with pytest.raises(EyeselError) as caught:
        painter.with_image_prompt(file, **{"image": picture(1), **settings})
    message = str(caught.value)
    assert message.count("\n") == 0 and all(word in message for word in words), message


def test_an_adapter_for_another_base(painter, tmp_path):
    ours, folder = painter
    wide = parts_of(folder)
    wide["image_proj"] = projection("plain", 40, torch.ones)
    refused(ours, save(wide, tmp_path / "wide.safetensors"), "40", str(ours.unet.config.context_dim))
    few = parts_of(folder)
    few["ip_adapter"] = {name: tensor for name, tensor in few["ip_adapter"].items() if not name.startswith("1.")}
    count = len(cross_attention(ours.unet))
    refused(ours, save(few, tmp_path / "few.bin"), "cross-attention layers", str(count if not ours.is_xl else 8))
    narrow = parts_of(folder)
    narrow["ip_adapter"]["1.to_k_ip.weight"] = torch.ones(3, 3)
    refused(ours, save(narrow, tmp_path / "narrow.bin"), "(3, 3)", "attn2")


def test_another_image_encoder(painter, tmp_path):
    ours, folder = painter
    write_image_encoder(tmp_path / "other", dim=28, projection_dim=12)
    for kind, reads, gives in (("plain", "20", "12"), ("plus", "24", "28")):
        refused(ours, adapter(folder, kind), reads, gives, "--image-encoder", image_encoder=tmp_path / "other")
    refused(ours, adapter(folder, "plain"), "There is no image encoder", image_encoder=tmp_path / "none")
    refused(ours, adapter(folder, "plain"), "image encoder", image_encoder=folder / "unet")
    (tmp_path / "other" / "preprocessor_config.json").write_text('{"image_processor_type": "CLIPImageProcessor"}')
    refused(ours, adapter(folder, "plain"), "224", "32x32", image_encoder=tmp_path / "other")


def test_what_is_no_adapter(painter, tmp_path):
    ours, folder = painter
    faceid = parts_of(folder)
    faceid["image_proj"] = {
        "proj.0.weight": torch.ones(4, 4),
        "proj.2.weight": torch.ones(4, 4),
        "norm.weight": torch.ones(4),
    }
    refused(ours, save(faceid, tmp_path / "faceid.bin"), "FaceID", "face recogniser")
    faceid = parts_of(folder)
    faceid["ip_adapter"]["0.to_q_lora.down.weight"] = torch.ones(2, 2)
    refused(ours, save(faceid, tmp_path / "faceid.safetensors"), "FaceID")
    refused(ours, folder / "unet" / "diffusion_pytorch_model.safetensors", "UNet")
    refused(ours, tmp_path / "nothing.safetensors", "no file")
    torch.save({"image_proj": 3}, tmp_path / "odd.bin")
    refused(ours, tmp_path / "odd.bin", "IP-Adapter")
    torch.save({"image_proj": print, "ip_adapter": {}}, tmp_path / "code.bin")
    refused(ours, tmp_path / "code.bin", "more than tensors")
    lacking = parts_of(folder)
    del lacking["ip_adapter"]["1.to_v_ip.weight"], lacking["image_proj"]["norm.bias"]
    refused(ours, save(lacking, tmp_path / "lacking.bin"), "to_v_ip")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scale": "much"}, ["much"]),
        ({"scale": float("nan")}, ["nan"]),
        ({"scale": True}, ["True"]),
        ({"blocks": "stile"}, ["stile", "layout"]),
        ({"blocks": 3}, ["3"]),
        ({"blocks": "style"}, ["style", "mid"]),
        ({"blocks": {"up": {"block_7": 1}}}, ["up.block_7", "mid"]),
        ({"blocks": {"mid": [1, 2]}}, ["mid", "2 scales", "1 transformers"]),
        ({"blocks": {"up": "x"}}, ["up", "'x'"]),
        ({"image": []}, ["picture"]),
        ({"image": "no-such.png"}, ["no-such.png"]),
    ],
)
def test_settings_that_make_no_sense(painter, settings, words):
    ours, folder = painter
    refused(ours, adapter(folder, "plain"), *words, **settings)


# --- as files


def test_a_single_file_without_its_configuration(tmp_path):
    """What ComfyUI's users have; the published widths say heads and activation."""
    theirs = write_image_encoder(tmp_path / "folder", dim=768, num_attention_heads=12, act="quick_gelu")
    (tmp_path / "folder" / "model.safetensors").rename(tmp_path / "clip.safetensors")
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(pixels).image_embeds
        assert close(
            open_image_encoder(tmp_path / "clip.safetensors").model.load(CPU, "float32")(pixels).pooled, expected
        )
    write_image_encoder(tmp_path / "odd")
    (tmp_path / "odd" / "model.safetensors").rename(tmp_path / "odd.safetensors")
    with pytest.raises(EyeselError, match="how many heads"):
        open_image_encoder(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_what_a_file_is(painter, suffix):
    _, folder = painter
    facts = describe(adapter(folder, "plus", suffix))
    assert (facts["is"], facts["kind"], facts["tokens"]) == ("an IP-Adapter", "plus", 5)
    assert "24 numbers" in facts["image encoder"]
