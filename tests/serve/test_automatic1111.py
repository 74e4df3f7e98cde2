"""AUTOMATIC1111's web API: what each field of a painting does."""

import json

import httpx
import numpy as np
import pytest
from PIL import Image

from eyesel.infotext import parse
from sdapi import SAME, opened, painted, same, text
from serving import FOX

OWL = "a large owl on a blue background"


def test_pictures_are_those_of_the_library_and_say_how_they_were_painted(sdapi, easel):
    answer = painted(
        sdapi, prompt=FOX, seed=7, sampler_name="DPM++ 2M", scheduler="Karras", cfg_scale=2.5, width=40, height=32,
        n_iter=2, batch_size=2, tiling=True, override_settings={"CLIP_stop_at_last_layers": 2, "randn_source": "CPU"},
    )  # fmt: skip
    expected = easel.generate(
        FOX, n=4, seed=7, solver="dpmpp_2m", schedule="karras", guidance=2.5, size=(40, 32), steps=4, seamless=True,
        clip_skip=2,
    )  # fmt: skip
    info = json.loads(answer["info"])
    assert info["all_seeds"] == [7, 8, 9, 10] and info["seed"] == 7 and info["clip_skip"] == 2
    assert (info["width"], info["height"], info["cfg_scale"], info["steps"]) == (40, 32, 2.5, 4)
    for data, picture, infotext in zip(answer["images"], expected, info["infotexts"], strict=True):
        same(data, picture)
        assert opened(data).info["parameters"] == infotext == picture.parameters
    assert answer["parameters"]["prompt"] == FOX and answer["parameters"]["styles"] is None


@pytest.mark.parametrize(
    ("said", "solver", "schedule"),
    [
        ({}, "euler", "normal"),
        ({"sampler_index": "DPM++ SDE"}, "dpmpp_sde", "karras"),
        ({"sampler_name": "DPM++ 2M Karras"}, "dpmpp_2m", "karras"),
        ({"sampler_name": "k_euler_a"}, "euler_ancestral", "normal"),
        ({"sampler_name": "DPM++ 2M SDE", "scheduler": "Automatic"}, "dpmpp_2m_sde", "exponential"),
        ({"sampler_name": "Euler", "scheduler": "sgm_uniform"}, "euler", "sgm_uniform"),
        ({"sampler_name": "DDIM"}, "ddim", None),
    ],
)
def test_samplers_and_schedulers(sdapi, said, solver, schedule):
    settings = parse(json.loads(painted(sdapi, prompt=FOX, **said)["info"])["infotexts"][0])
    assert (settings["solver"], settings.get("schedule"), settings["rng"]) == (solver, schedule, "philox")


def test_subseeds_vary_a_picture(sdapi, easel):
    answer = painted(sdapi, prompt=FOX, seed=7, subseed=3, subseed_strength=0.3, batch_size=2)
    expected = easel.generate(FOX, n=2, seed=7, variation_seed=3, variation_strength=0.3, steps=4, guidance=7.0, **SAME)
    for data, picture in zip(answer["images"], expected, strict=True):
        same(data, picture)
    info = json.loads(answer["info"])
    assert (info["all_seeds"], info["all_subseeds"], info["subseed_strength"]) == ([7, 7], [3, 4], 0.3)


@pytest.mark.parametrize("said", [{"hr_scale": 2}, {"hr_resize_x": 64, "width": 32, "height": 32}])
def test_a_second_pass(sdapi, easel, said):
    answer = painted(
        sdapi, prompt=FOX, seed=7, enable_hr=True, hr_upscaler="Latent (bicubic)", denoising_strength=0.5,
        hr_second_pass_steps=3, hr_prompt=FOX, hr_sampler_name="Use same sampler", **said,
    )  # fmt: skip
    same(answer["images"][0], easel.generate(
        FOX, seed=7, steps=4, guidance=7.0, hires=2, hires_upscaler="latent_bicubic", hires_strength=0.5,
        hires_steps=3, **SAME,
    ))  # fmt: skip


def test_a_second_pass_of_repeated_pixels(sdapi, easel):
    """Whatever `upscalers` lists can enlarge between two passes."""
    answer = painted(sdapi, prompt=FOX, seed=7, enable_hr=True, hr_upscaler="Nearest", denoising_strength=0.5)
    expected = easel.generate(
        FOX, seed=7, steps=4, guidance=7.0, hires=2, hires_upscaler="nearest", hires_strength=0.5, **SAME
    )
    same(answer["images"][0], expected)
    assert "Hires upscaler: Nearest" in json.loads(answer["info"])["infotexts"][0]


def test_img2img(sdapi, easel, fox, fox_png):
    said = {"prompt": OWL, "seed": 7, "denoising_strength": 0.5}
    for data in (text(fox_png), f"data:image/png;base64,{text(fox_png)}"):
        answer = painted(sdapi, "/img2img", init_images=[data], **said)
        same(answer["images"][0], easel.generate(OWL, image=fox, seed=7, strength=0.5, steps=4, guidance=7.0, **SAME))
        assert answer["parameters"]["init_images"] is None
    answer = painted(
        sdapi, "/img2img", init_images=[data], width=48, height=32, resize_mode=1, include_init_images=True, **said
    )
    same(answer["images"][0], easel.generate(
        OWL, image=fox, seed=7, strength=0.5, steps=4, guidance=7.0, size=(48, 32), resize="crop", **SAME
    ))  # fmt: skip
    assert answer["parameters"]["init_images"] == [data]


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("inverted", [0, 1])
def test_white_or_opaque_is_repainted_and_the_rest_stays(sdapi, fox, transparent, inverted):
    shape = np.zeros((32, 32), np.uint8)
    shape[:8, :24] = 255
    mask = np.dstack([np.full((32, 32, 3), 90, np.uint8), shape]) if transparent else shape
    answer = painted(
        sdapi, "/img2img", prompt=OWL, init_images=[text(fox)], mask=text(Image.fromarray(mask)), mask_blur=0,
        inpainting_mask_invert=inverted, inpainting_fill=1, inpaint_full_res=False, denoising_strength=1,
    )  # fmt: skip
    changed = (np.asarray(opened(answer["images"][0])) != np.asarray(fox)).any(-1)
    asked = (shape == 255) != bool(inverted)
    assert changed[asked].mean() > 0.5 and not changed[~asked].any()


def test_the_area_of_the_mask_alone_is_painted_at_full_size(sdapi, easel, fox):
    large, mask = fox.resize((96, 64)), Image.new("L", (96, 64))
    mask.paste(255, (8, 8, 24, 24))
    answer = painted(
        sdapi, "/img2img", prompt=OWL, seed=7, init_images=[text(large)], mask=text(mask), width=32, height=32,
        mask_blur_x=2, mask_blur_y=2, inpaint_full_res_padding=4, inpainting_fill=2, denoising_strength=0.9,
    )  # fmt: skip
    same(answer["images"][0], easel.inpaint(
        large, mask, OWL, seed=7, steps=4, guidance=7.0, size=(32, 32), mask_blur=2, fill="noise", strength=0.9,
        only_masked=True, padding=4, **SAME,
    ))  # fmt: skip


def test_options_are_each_clients_own(sdapi):
    with httpx.Client(base_url=sdapi.base_url, headers={"X-API-Key": "mine"}, timeout=60) as mine:
        assert mine.post("/options", json={"samples_format": "jpg", "jpeg_quality": 60}).json() == {}
        assert mine.get("/options").json()["samples_format"] == "jpg"
        assert opened(painted(mine, prompt=FOX)["images"][0]).format == "JPEG"
        painted(
            mine, prompt=FOX, override_settings={"samples_format": "webp"}, override_settings_restore_afterwards=False
        )
        assert mine.get("/options").json()["samples_format"] == "webp"
    assert sdapi.get("/options").json()["samples_format"] == "png"


@pytest.mark.parametrize(
    ("said", "status", "field"),
    [
        ({"prompt": ""}, 400, "prompt"),
        ({"promt": FOX}, 422, "promt"),
        ({"steps": "many"}, 422, "steps"),
        ({"steps": 0}, 400, "steps"),
        ({"cfg_scale": True}, 422, "cfg_scale"),
        ({"width": 33}, 400, "width"),
        ({"sampler_name": "Magic"}, 400, "sampler_name"),
        ({"scheduler": "Magic"}, 400, "scheduler"),
        ({"batch_size": 11}, 400, "batch_size"),
        ({"batch_size": 0}, 422, "batch_size"),
        ({"restore_faces": True}, 422, "restore_faces"),
        ({"styles": ["anime"]}, 422, "styles"),
        ({"script_name": "x/y/z plot"}, 422, "script_name"),
        ({"alwayson_scripts": {"ControlNet": {"args": []}}}, 422, "alwayson_scripts"),
        ({"refiner_checkpoint": "sd_xl_refiner"}, 422, "refiner_checkpoint"),
        ({"s_churn": 0.5}, 422, "s_churn"),
        ({"enable_hr": True, "hr_upscaler": "ESRGAN_4x"}, 422, "hr_upscaler"),
        ({"enable_hr": True, "hr_prompt": OWL}, 422, "hr_prompt"),
        ({"enable_hr": True, "hr_sampler_name": "DDIM"}, 422, "hr_sampler_name"),
        ({"enable_hr": True, "hr_scale": 1}, 400, "hr_scale"),
        ({"enable_hr": True, "denoising_strength": 0}, 400, "denoising_strength"),
        ({"enable_hr": True, "width": 32, "hr_resize_x": 64, "hr_resize_y": 64}, 422, "hr_resize_y"),
        ({"override_settings": {"sd_vae": "other.pt"}}, 422, "override_settings.sd_vae"),
        ({"override_settings": {"upcast_attn": True}}, 422, "override_settings.upcast_attn"),
        ({"override_settings": {"sd_model_checkpoint": "sd-9"}}, 404, "sd-9"),
    ],
)
def test_what_cannot_be_done_is_refused_and_named(sdapi, said, status, field):
    answer = sdapi.post("/txt2img", json={"prompt": FOX, "steps": 4, **said})
    assert answer.status_code == status and field in answer.json()["detail"], answer.text
    assert list(answer.json()) == ["error", "detail", "body", "errors"]


@pytest.mark.parametrize(
    ("said", "status", "field"),
    [
        ({"init_images": None}, 404, "init_images"),
        ({"init_images": ["?"]}, 400, "init_images"),
        ({"init_images": ["http://127.0.0.1/a.png"]}, 400, "init_images"),
        ({"resize_mode": 3}, 422, "resize_mode"),
        ({"denoising_strength": 2}, 400, "denoising_strength"),
        ({"mask": "MASK", "mask_blur_x": 1, "mask_blur_y": 2}, 422, "mask_blur"),
        ({"mask": "MASK", "inpainting_fill": 4}, 422, "inpainting_fill"),
        ({"mask": "SMALL"}, 400, "mask"),
        ({"latent_mask": "x"}, 422, "latent_mask"),
        ({"initial_noise_multiplier": 1.5}, 422, "initial_noise_multiplier"),
    ],
)
def test_what_cannot_be_done_with_a_picture_is_refused_and_named(sdapi, fox, said, status, field):
    masks = {"MASK": text(Image.new("L", (32, 32), 255)), "SMALL": text(Image.new("L", (8, 8), 255))}
    said = {name: masks.get(value, value) if isinstance(value, str) else value for name, value in said.items()}
    answer = sdapi.post("/img2img", json={"prompt": FOX, "steps": 4, "init_images": [text(fox)], **said})
    assert answer.status_code == status and field in answer.json()["detail"], answer.text


def test_pictures_as_files(sdapi, easel, fox, fox_png):
    """Any route takes forms and the bytes of a picture, too."""
    expected = easel.generate(OWL, image=fox, seed=7, strength=0.5, steps=4, guidance=7.0, **SAME)
    said = {"prompt": OWL, "seed": 7, "denoising_strength": 0.5, "steps": 4}
    for sent in ({"files": {"init_images": fox_png}, "data": said}, {"content": fox_png, "params": said}):
        answer = sdapi.post("/img2img", **sent)
        assert answer.status_code == 200, answer.text
        same(answer.json()["images"][0], expected)
    assert sdapi.post("/png-info", content=fox_png).json()["info"] == ""
