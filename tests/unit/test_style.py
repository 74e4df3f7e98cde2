"""Style transfer: the inversion, the injection, the dial, and what stays as it was."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

import eyesel
from eyesel.diffusion import Denoiser, NoiseSource, from_scheduler_config
from eyesel.diffusion.inversion import finite, invert
from eyesel.errors import EyeselError, ImageError, SettingError
from eyesel.models.unet import UNetConfig
from eyesel.nn.attention import Site
from eyesel.nn.stage import Stage
from eyesel.stylize import Inversions, StyleSettings, decoder_layers
from eyesel.stylize.layers import chosen_layers, sites
from eyesel.stylize.run import detailed, recolored
from eyesel.taps.style import KeepFeatures, StyleInjection, adain
from tiny_models import write_standard_painter

XL = {"channels": (320, 640, 1280), "transformer_depth": (0, 2, 10), "heads": (5, 10, 20)}


@pytest.fixture(scope="module")
def easel():
    return eyesel.StableDiffusion.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def pictures(easel):
    said = (
        "a large fox on a blue background",
        "a large pizza on a yellow background",
        "a small rose on a red background",
    )
    return [easel.generate(text, seed=3, steps=12).image for text in said]


def psnr(a, b):
    return 10 * torch.log10((a.max() - a.min()) ** 2 / (a - b).square().mean()).item()


def bare(easel, steps, **scheduler):
    """(denoise, schedule, plan) without a prompt."""
    config = {**easel.scheduler, "clip_sample": False, "set_alpha_to_one": True, **scheduler}
    plan = from_scheduler_config(config, "ddim", eta=0.0)
    schedule, network = finite(plan.schedule(steps)), easel.network(Stage(easel.unet, easel.device))
    context = easel.prompt_encoder.encode([""])[""].context.flatten(0, 1)[None]
    return Denoiser(lambda x, t: network(x, t, context.expand(len(x), -1, -1)), schedule), schedule, plan


# --- inversion


@pytest.mark.parametrize("looks", [1, 2])
def test_inversion_and_the_way_back_return_the_content(easel, pictures, looks):
    denoise, schedule, plan = bare(easel, 50)
    clean = easel.encode(pictures)
    *_, up = invert(denoise, clean, schedule, looks)
    assert up.sigma == schedule.sigmas[0]
    *_, down = plan.solve(denoise, up.x, schedule, NoiseSource([0, 1, 2], easel.device))
    for i in range(len(pictures)):
        assert psnr(clean[i], down.x[i]) > (40 if looks == 1 else 50)
    # what is inverted looks like the noise that the network was trained on
    assert ((up.x - clean) / up.sigma).std().item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_inversion_undoes_the_solver_for_every_prediction(prediction_type):
    """Of pictures drawn from a normal distribution of deviation 0.5, D is known, and the flow only stretches."""
    config = {"_class_name": "DDIMScheduler", "prediction_type": prediction_type, "clip_sample": False}
    plan = from_scheduler_config({**config, "rescale_betas_zero_snr": prediction_type == "v_prediction"})
    schedule = finite(plan.schedule(20))

    def denoise(x, sigma):
        return x * 0.25 / (0.25 + sigma**2)

    x = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    *_, up = invert(denoise, x, schedule, looks=40)
    *_, down = plan.solve(denoise, up.x, schedule, NoiseSource([0], "cpu"))
    assert up.x.isfinite().all()
    assert (down.x - x).abs().max() < 1e-4


def test_a_level_of_pure_noise_is_left_out():
    config = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "clip_sample": False}
    plan = from_scheduler_config({**config, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"})
    whole = plan.schedule(10)
    assert whole.sigmas[0] > 1e5
    cut = finite(whole)
    assert torch.equal(cut.sigmas, whole.sigmas[1:])
    assert torch.equal(cut.arrivals, cut.sigmas[1:])


# --- the injection, and an independent formula


def formula(q, k, v, gamma, temperature, weights, count):
    """What the result row gets, in numpy, head by head."""
    q, k, v = (t.double().numpy() for t in (q, k, v))
    mixed = gamma * q[0] + (1 - gamma) * q[count]
    total, norm = 0, 0
    for row, weight in enumerate(weights):
        scores = np.exp(temperature * mixed @ k[row].transpose(0, 2, 1) / np.sqrt(q.shape[-1])) * weight
        total, norm = total + scores @ v[row], norm + scores.sum(-1, keepdims=True)
    return total / norm


class Checked(StyleInjection):
    def __init__(self, *args):
        super().__init__(*args)
        self.seen, self.worst = [], 0.0

    def attend(self, site, q, k, v):
        out, count = super().attend(site, q, k, v), len(self.weights)
        expected = formula(q, k, v, self.gamma, self.temperature, self.weights, count)
        plain = torch.nn.functional.scaled_dot_product_attention(q[:count], k[:count], v[:count])
        assert torch.equal(out[:count], plain)
        self.worst = max(self.worst, float(np.abs(out[count].numpy() - expected).max()))
        self.seen.append(site.name)
        return out


@pytest.mark.parametrize("weights", [(0.0, 1.0), (0.3, 0.7), (0.0, 0.25, 0.75), (0.5, 0.5, 0.0)])
def test_injected_attention_is_the_formula_at_every_chosen_layer(easel, weights):
    config = easel.unet.config
    names = sites(config, chosen_layers(config, None))
    tap = Checked(names, 0.75, 1.5, weights)
    generator = torch.Generator().manual_seed(1)
    rows = len(weights) + 1
    x = torch.randn(rows, config.in_channels, 8, 6, generator=generator)
    context = torch.randn(1, 77, config.context_dim, generator=generator).expand(rows, -1, -1)
    easel.network(Stage(easel.unet, easel.device), tap)(x, torch.full((rows,), 500.0), context)
    assert tap.seen == names
    assert tap.worst < 1e-5


def test_two_copies_of_a_style_are_one_style():
    q, k, v = (torch.randn(4, 2, 12, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    k[2], v[2] = k[1], v[1]
    site = Site("here", 0, False, (3, 4))
    mixed = StyleInjection(["here"], 0.5, 1.5, (0, 0.4, 0.6)).attend(site, q, k, v)[3:]
    alone = StyleInjection(["here"], 0.5, 1.5, (0, 1)).attend(site, q[[0, 1, 3]], k[[0, 1, 3]], v[[0, 1, 3]])[2:]
    torch.testing.assert_close(mixed, alone, atol=1e-6, rtol=0)


def test_kept_features_give_what_the_batch_gives():
    parts = {
        name: torch.randn(4, 2, 12, 8, generator=torch.Generator().manual_seed(i)).half().float()
        for i, name in enumerate("qkv")
    }
    site, weights = Site("here", 0, False, (3, 4)), (0.2, 0.5, 0.3)
    keeper = KeepFeatures(["here"], ["qkv", "kv", "kv"])
    keeper.qkv(site, **{name: t[:3] for name, t in parts.items()})
    together = StyleInjection(["here"], 0.75, 1.5, weights).attend(site, **parts)[3:]
    kept = StyleInjection(["here"], 0.75, 1.5, weights, keeper.pictures)
    assert torch.equal(kept.attend(site, **{name: t[3:] for name, t in parts.items()}), together)


def test_adain_gives_the_statistics_of_the_styles():
    generator = torch.Generator().manual_seed(0)
    content, styles = torch.randn(1, 4, 5, 6, generator=generator), 3 + 2 * torch.randn(2, 4, 7, 3, generator=generator)
    result = adain(content, styles, [0.25, 0.75])
    for statistic in ("mean", "std"):
        of = [getattr(each, statistic)((1, 2)) for each in styles]
        torch.testing.assert_close(getattr(result[0], statistic)((1, 2)), 0.25 * of[0] + 0.75 * of[1])
    assert adain(torch.ones(1, 4, 5, 6), styles, [0.5, 0.5]).isfinite().all()


# --- layers


def test_layers_have_the_numbers_of_the_original_code():
    sd1 = UNetConfig()
    assert chosen_layers(sd1, None) == [6, 7, 8, 9, 10, 11]
    assert decoder_layers(sd1)[6] == "up_blocks.2.attentions.0"
    assert list(decoder_layers(sd1)) == [3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert chosen_layers(sd1, ["up_blocks.3", 4]) == [4, 9, 10, 11]
    assert len(sites(UNetConfig(**XL), chosen_layers(UNetConfig(**XL), None))) == 10 + 3 * 2


def test_sites_are_modules_of_the_network(easel):
    named = dict(easel.unet.named_modules())
    for name in sites(easel.unet.config, list(decoder_layers(easel.unet.config))):
        assert named[name].name == name


def test_a_layer_that_does_not_exist_names_those_that_do(easel, pictures):
    with pytest.raises(SettingError, match=r"no layer '12'.* 0 \(up_blocks.0.attentions.0\), .* 3 \(up_blocks"):
        easel.stylize(*pictures[:2], layers=(12,))


# --- the dial


def test_strength_zero_is_the_content(easel, pictures):
    assert np.array_equal(easel.stylize(*pictures[:2], strength=0).image, pictures[0])
    odd = Image.effect_noise((37, 51), 90).convert("RGB")
    assert np.array_equal(easel.stylize(odd, pictures[0], strength=0).image, odd)


def test_results_move_monotonically_with_the_dial(easel, pictures):
    """From the content, and towards the style's colours."""
    inversions = Inversions()
    strengths = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    away, near = np.zeros(len(strengths)), np.zeros(len(strengths))
    for content, style in ((0, 1), (1, 2)):
        given, wanted = (np.asarray(pictures[i], float) for i in (content, style))
        for i, strength in enumerate(strengths):
            made = easel.stylize(pictures[content], pictures[style], strength=strength, steps=12, inversions=inversions)
            made = np.asarray(made.image, float)
            away[i] += np.abs(made - given).mean()
            near[i] += (
                np.abs(made.mean((0, 1)) - wanted.mean((0, 1))).mean()
                + np.abs(made.std((0, 1)) - wanted.std((0, 1))).mean()
            )
    assert (np.diff(away) > 0).all(), away
    assert away[1] < 0.4 * away[3], away  # the dial begins gently
    assert (np.diff(near) < 0).all(), near


def test_what_the_dial_sets():
    assert [StyleSettings(strength=s).own_gamma for s in (0, 0.5, 0.8, 1)] == [1, 0.75, 0.3, 0]
    assert [StyleSettings(strength=s).share for s in (0, 0.25, 0.5, 1)] == [0, 0.5, 1, 1]
    assert StyleSettings(strength="balanced").own_temperature == 1.5
    assert StyleSettings(gamma=0.1, temperature=2, strength=0.9).own_gamma == 0.1


def test_what_style_id_says_is_all_there_is_where_it_is_asked_for(easel, pictures):
    """Its own statistics, of the first latents: with gamma, with temperature, and in the faithful run."""
    assert StyleSettings().own_match == StyleSettings(strength="style").own_match == 1
    for settings in ({"gamma": 0.75}, {"temperature": 1.5}, {"faithful": True}):
        assert StyleSettings(**settings).own_match == 0
    assert StyleSettings(gamma=0.75, match=0.5).own_match == 0.5
    inversions = Inversions()

    def made(**settings):
        *_, last = easel.styling(*pictures[:2], steps=4, inversions=inversions, **settings)
        return last.latents, last.pictures()[0].image

    (dial, picture), (asked, plain) = made(match=0), made(gamma=0.75, temperature=1.5)
    assert torch.equal(dial, asked) and np.array_equal(picture, plain)
    assert np.array_equal(plain, easel.decode(asked)[0])  # nothing is done to it afterwards
    assert not torch.equal(dial, made()[0])


def test_the_dial_begins_at_the_content(easel, pictures):
    """What the autoencoder loses is there, too, until the style rules alone."""
    content = Image.effect_noise((32, 32), 90).convert("RGB")  # which no autoencoder keeps
    back = easel.decode(easel.encode([content]))[0]
    lost = np.abs(np.asarray(back, float) - np.asarray(content)).mean()
    made = easel.stylize(content, pictures[1], strength=0.001, steps=20, looks=3).image
    assert np.abs(np.asarray(made, float) - np.asarray(content)).mean() < 0.1 * lost
    assert np.array_equal(detailed(back, content, back, 1.0), content)
    assert np.array_equal(detailed(back, content, back, 0.0), back)
    half = np.asarray(detailed(back, content, back, 0.5), float)
    assert np.abs(half - (np.asarray(back, float) + np.asarray(content)) / 2).max() <= 0.5


# --- what can be given


def test_any_size_with_its_proportions(easel, pictures):
    content = Image.effect_noise((45, 27), 60).convert("L")
    assert easel.stylize(content, pictures[1], steps=3).image.size == (45, 27)
    assert easel.stylize(content, pictures[1].resize((90, 30)), steps=3, longest=60).image.size == (60, 36)


def test_outside_the_mask_everything_stays(easel, pictures):
    mask = Image.new("L", (32, 32))
    mask.paste(255, (5, 0, 19, 21))
    result = np.asarray(easel.stylize(*pictures[:2], mask=mask, steps=10).image)
    white = np.asarray(mask) > 0
    given = np.asarray(pictures[0])
    assert np.array_equal(result[~white], given[~white])
    assert np.abs(result[white].astype(int) - given[white]).mean() > 10


def test_a_weight_of_zero_is_no_style(easel, pictures):
    alone = easel.stylize(*pictures[:2], steps=5).image
    mixed = easel.stylize(pictures[0], pictures[1:], weights=[2, 0], steps=5).image
    other = easel.stylize(pictures[0], pictures[1:], weights=[1, 1], steps=5).image
    assert np.abs(np.asarray(alone).astype(int) - np.asarray(mixed)).max() <= 1  # another batch size
    assert np.abs(np.asarray(alone).astype(int) - np.asarray(other)).max() > 10


def test_a_match_has_the_statistics_of_the_style(easel, pictures):
    *_, last = easel.styling(*pictures[:2], steps=4)
    plain, matched = (easel.stylize(*pictures[:2], steps=4, match=match).image for match in (0, 1))
    style = easel.encode([pictures[1]])
    expected = easel.decode(adain(last.latents, style, [1.0]))[0]
    assert np.array_equal(matched, expected)
    assert not np.array_equal(matched, plain)


def test_colours_of_the_content(pictures):
    grey = Image.new("RGB", (32, 32), (128, 128, 128))
    content, result = (Image.blend(grey, picture, 0.4) for picture in pictures[:2])  # so that no mixture is clipped
    kept = np.asarray(recolored(result, content, 0.0).convert("YCbCr"), int)
    assert np.abs(kept[..., 1:] - np.asarray(content.convert("YCbCr"), int)[..., 1:]).max() <= 2  # rounding
    assert recolored(result, content, 1.0) is result


def test_a_prompt_matters_and_guidance_more(easel, pictures):
    inversions = Inversions()

    def made(**settings):
        return np.asarray(easel.stylize(*pictures[:2], steps=6, inversions=inversions, **settings).image, int)

    plain, said = made(), made(prompt="a large owl on a red background", guidance=1.0)
    guided = made(prompt="a large owl on a red background", guidance=5.0)
    assert 0 < np.abs(said - plain).mean() < np.abs(guided - plain).mean()
    long = " ".join(["a large owl on a red background"] * 30)  # of several chunks, which the references hear as silence
    assert np.abs(made(prompt=long, guidance=3.0) - plain).mean() > 0


def test_kept_features_give_the_same_picture(easel, pictures):
    inversions = Inversions()
    for strength in (0.2, 0.6):
        one, two = (
            easel.stylize(*pictures[:2], strength=strength, steps=6, keep_features=keep, inversions=inversions).image
            for keep in (False, True)
        )
        assert np.abs(np.asarray(one).astype(int) - np.asarray(two)).max() <= 2  # half precision


def test_inversions_are_kept_in_a_folder_by_picture_and_checkpoint(easel, pictures, tmp_path):
    def steps(content, **settings):
        return next(easel.styling(content, pictures[1], inversions=tmp_path, **settings)).total

    first = easel.stylize(*pictures[:2], steps=4, inversions=tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert steps(pictures[0], steps=4) == 4
    assert steps(pictures[2], steps=4) == 8
    assert steps(pictures[0], steps=5) == 10
    assert np.array_equal(first.image, easel.stylize(*pictures[:2], steps=4, inversions=tmp_path).image)
    next(tmp_path.glob("*.safetensors")).write_bytes(b"no tensors")
    with pytest.raises(ImageError, match="damaged"):
        easel.stylize(*pictures[:2], steps=4, inversions=tmp_path)


def test_the_generator_counts_all_steps(easel, pictures):
    seen = list(easel.styling(*pictures[:2], steps=5))
    assert [(p.index, p.total) for p in seen] == [(i, 10) for i in range(10)]
    assert [p.finished for p in seen] == [False] * 9 + [True]
    assert seen[0].preview()[0].size == (32, 32)
    faithful = list(easel.styling(*pictures[:2], steps=5, faithful=True))
    assert [(p.index, p.total) for p in faithful] == [(i, 10) for i in range(10)]  # 5 levels and one above, then 4


# --- what stays as it was


def test_the_model_is_as_it_was_bit_for_bit(easel, pictures):
    before = {name: tensor.clone() for name, tensor in easel.unet.state_dict().items()}
    painted = easel.generate("a small fox", seed=1, steps=3).image
    easel.stylize(*pictures[:2], steps=3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in easel.unet.state_dict().items())
    assert np.array_equal(painted, easel.generate("a small fox", seed=1, steps=3).image)


def test_two_threads_with_different_styles_do_not_mix(easel, pictures):
    alone = [np.asarray(easel.stylize(pictures[0], style, steps=4).image) for style in pictures[1:]]
    made = [None, None]

    def work(i):
        made[i] = [np.asarray(easel.stylize(pictures[0], pictures[1 + i], steps=4).image) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert all(np.array_equal(picture, alone[i]) for picture in made[i])
    assert not np.array_equal(*alone)


# --- what is refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strength": 1.01}, "strength is 1.01"),
        ({"strength": "much"}, "content, balanced, style"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"gamma": -0.1}, "gamma is -0.1"),
        ({"temperature": 0}, "temperature is 0"),
        ({"color": 2}, "color is 2"),
        ({"match": 1.5}, "match is 1.5"),
        ({"steps": 0}, "steps is 0"),
        ({"looks": 3, "faithful": True}, "looks is 3"),
        ({"gama": 1}, "nearest is 'gamma'"),
        ({"weights": [1, 2]}, "2 weights and 1 styles"),
        ({"weights": [-1]}, "weight of a style is -1"),
        ({"weights": [0]}, "All styles weigh 0"),
        ({"mask": Image.new("L", (8, 8))}, "the mask is 8x8"),
        ({"mask": Image.new("L", (32, 32))}, "all black"),
        ({"prompt": "a fox AND an owl"}, "AND"),
        ({"prompt": " "}, "prompt is empty"),
    ],
)
def test_settings_that_cannot_be(easel, pictures, settings, words):
    with pytest.raises(EyeselError, match=words):
        easel.stylize(*pictures[:2], **settings)


def test_an_inpainting_checkpoint_is_refused(tmp_path, pictures):
    painter = eyesel.StableDiffusion.load(write_standard_painter(tmp_path, "sd1", in_channels=9), device="cpu")
    with pytest.raises(SettingError, match="inpainting checkpoint"):
        painter.stylize(*pictures[:2], mask=Image.new("L", (32, 32), 255))


def test_pictures_that_cannot_be(easel, pictures):
    with pytest.raises(ImageError, match="the content is 1x1 pixels"):
        easel.stylize(Image.new("RGB", (1, 1)), pictures[0])
    with pytest.raises(ImageError, match="the style is 100x3 pixels"):
        easel.stylize(pictures[0], Image.new("RGB", (100, 3)))
    with pytest.raises(SettingError, match="no style"):
        easel.stylize(pictures[0], [])
