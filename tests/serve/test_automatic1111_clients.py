"""What clients of AUTOMATIC1111's web API send, call by call."""

import base64
import json
import threading

import httpx
import numpy as np

from sdapi import SAME, opened, painted, same, text
from serving import FOX, serving, wait_for

OWL = "a large owl on a blue background"


def test_open_webui(server):
    """Its engine "automatic1111": Basic auth, a look at the options, all of them sent back, one picture or several."""
    with serving(api_keys=("user:secret",)) as server:
        auth = {"authorization": "Basic " + base64.b64encode(b"user:secret").decode()}
        with httpx.Client(base_url=f"{server.base_url}/sdapi/v1", headers=auth, timeout=60) as client:
            options = client.get("/options").json()
            models = client.get("/sd-models").json()
            assert [(model["title"], model["model_name"]) for model in models] == [("tiny", "tiny")]
            options["sd_model_checkpoint"] = models[0]["title"]
            assert client.post("/options", json=options).status_code == 200
            body = {"prompt": FOX, "batch_size": 2, "width": 32, "height": 32, "steps": 4, "negative_prompt": "red"}
            answer = client.post("/txt2img", json=body).json()
            assert len(answer["images"]) == 2 and opened(answer["images"][0]).size == (32, 32)
            assert json.loads(answer["info"])["all_prompts"] == [FOX, FOX]
        refused = httpx.get(f"{server.base_url}/sdapi/v1/options", auth=("user", "wrong"))
        assert refused.status_code == 401 and "Basic" in refused.headers["www-authenticate"]
        assert list(refused.json()) == ["error", "detail", "body", "errors"]


def test_silly_tavern(sdapi):
    """All calls of `src/endpoints/stable-diffusion.js`, and the request that its page makes, with all its fields."""
    assert sdapi.get("/options", headers={"Authorization": "Basic Og=="}).is_success
    upscalers = [each["name"] for each in sdapi.get("/upscalers").json()]
    latent = [each["name"] for each in sdapi.get("/latent-upscale-modes").json()]
    assert upscalers == ["None", "Lanczos", "Nearest"] and latent[0] == "Latent"
    assert [each["model_name"] for each in sdapi.get("/sd-vae").json()] == []
    assert sdapi.get("/sd-modules").status_code == 404  # which only Forge has
    samplers = [each["name"] for each in sdapi.get("/samplers").json()]
    schedulers = [each["name"] for each in sdapi.get("/schedulers").json()]
    assert {"Euler a", "DPM++ 2M", "DDIM"} <= set(samplers) and {"automatic", "karras"} <= set(schedulers)
    title = sdapi.get("/sd-models").json()[0]["title"]
    assert sdapi.post("/options", json={"sd_model_checkpoint": title}).is_success
    progress = sdapi.get("/progress").json()
    assert progress["progress"] == 0 and progress["state"]["job_count"] == 0
    options = sdapi.get("/options").json()
    assert options["sd_model_checkpoint"] == title and "forge_preset" not in options
    body = {
        "url": str(sdapi.base_url),
        "auth": "",
        "prompt": FOX,
        "negative_prompt": "red",
        "sampler_name": "Euler a",
        "scheduler": "karras",
        "steps": 4,
        "cfg_scale": 3,
        "width": 32,
        "height": 32,
        "restore_faces": False,
        "enable_hr": False,
        "hr_upscaler": "ESRGAN_4x",
        "hr_scale": 1,
        "hr_additional_modules": [],
        "denoising_strength": 0.7,
        "hr_second_pass_steps": 0,
        "override_settings": {"CLIP_stop_at_last_layers": 1},
        "override_settings_restore_afterwards": True,
        "clip_skip": 1,
        "save_images": True,
        "send_images": True,
        "do_not_save_grid": False,
        "do_not_save_samples": False,
    }
    answer = painted(sdapi, **body)
    assert len(answer["images"]) == 1 and json.loads(answer["info"])["sampler_name"] == "Euler a"
    for name in samplers:
        painted(sdapi, **body | {"sampler_name": name, "scheduler": "automatic"})


def test_silly_tavern_interrupts_when_its_browser_goes_away(sdapi):
    answers = []
    body = {"prompt": FOX, "steps": 150, "width": 64, "height": 64, "batch_size": 10}
    thread = threading.Thread(target=lambda: answers.append(sdapi.post("/txt2img", json=body)))
    thread.start()
    wait_for(lambda: sdapi.get("/progress").json()["state"]["sampling_step"] > 1)
    wait_for(lambda: sdapi.get("/progress").json()["current_image"])
    progress = sdapi.get("/progress").json()
    assert 0 < progress["progress"] < 1 and progress["eta_relative"] > 0 and progress["state"]["job_count"] == 1
    assert opened(progress["current_image"]).size == (64, 64)
    assert sdapi.get("/progress?skip_current_image=true").json()["current_image"] is None
    with httpx.Client(base_url=sdapi.base_url, headers={"X-API-Key": "another client"}) as other:
        assert other.get("/progress").json()["state"]["job_count"] == 0
        other.post("/interrupt")
    assert sdapi.get("/progress").json()["state"]["interrupted"] is False
    assert sdapi.post("/interrupt").json() == {}
    thread.join(30)
    assert answers[0].status_code == 400 and "cancelled" in answers[0].json()["detail"]
    assert sdapi.get("/progress").json()["state"]["job_count"] == 0


def test_sdwebuiapi_sends_every_field(sdapi, easel, fox):
    """`webuiapi` 0.9: all parameters of its `txt2img` and `img2img`, whatever the caller says."""
    body = {
        "prompt": FOX, "styles": [], "seed": 7, "subseed": -1, "subseed_strength": 0.0, "seed_resize_from_h": 0,
        "seed_resize_from_w": 0, "batch_size": 1, "n_iter": 1, "steps": 4, "cfg_scale": 7.0, "width": 32, "height": 32,
        "restore_faces": False, "tiling": False, "do_not_save_samples": False, "do_not_save_grid": False,
        "negative_prompt": "", "eta": 1.0, "s_churn": 0, "s_tmax": 0, "s_tmin": 0, "s_noise": 1,
        "override_settings": {}, "override_settings_restore_afterwards": True, "sampler_name": "Euler",
        "sampler_index": "Euler", "script_name": None, "script_args": [], "send_images": True, "save_images": False,
        "alwayson_scripts": {},
    }  # fmt: skip
    hires = {
        "enable_hr": False, "hr_scale": 2, "hr_upscaler": "Latent", "hr_second_pass_steps": 0, "hr_resize_x": 0,
        "hr_resize_y": 0, "denoising_strength": 0.7, "firstphase_width": 0, "firstphase_height": 0,
    }  # fmt: skip
    answer = painted(sdapi, **body, **hires)
    same(answer["images"][0], easel.generate(FOX, seed=7, steps=4, guidance=7.0, size=(32, 32), **SAME))
    over = {
        "init_images": [f"data:image/png;base64,{text(fox)}"], "resize_mode": 0, "denoising_strength": 0.5,
        "mask_blur": 4, "inpainting_fill": 0, "inpaint_full_res": True, "inpaint_full_res_padding": 0,
        "inpainting_mask_invert": 0, "initial_noise_multiplier": 1, "image_cfg_scale": 1.5,
        "include_init_images": False,
    }  # fmt: skip
    answer = painted(sdapi, "/img2img", **body, **over)
    expected = easel.generate(FOX, image=fox, seed=7, strength=0.5, steps=4, guidance=7.0, size=(32, 32), **SAME)
    same(answer["images"][0], expected)


def test_a_plugin_of_krita(server, sdapi, fox):
    """Cyanic SD: whether there is a server, its lists, and a request of each of its tabs."""
    assert server.get("/queue/status").json()["queue_size"] == 0
    lists = ("sd-vae", "samplers", "upscalers", "face-restorers", "prompt-styles", "loras", "hypernetworks")
    assert all(isinstance(sdapi.get(f"/{name}").json(), list) for name in lists)
    assert sdapi.get("/scripts").json() == {"txt2img": [], "img2img": []}
    assert sdapi.get("/embeddings").json()["loaded"] == {}
    options = sdapi.get("/options").json()
    chosen = {
        "sd_model_checkpoint": sdapi.get("/sd-models").json()[0]["title"],
        "sd_vae": options["sd_vae"],
        "img2img_color_correction": options["img2img_color_correction"],
    }
    kept = {"override_settings": chosen, "override_settings_restore_afterwards": False, "save_images": True}
    body = {"prompt": FOX, "negative_prompt": "", "width": 32, "height": 32, "seed": -1, "sampler_name": "Euler a"}
    assert len(painted(sdapi, batch_size=2, n_iter=1, cfg_scale=7.0, enable_hr=False, **body, **kept)["images"]) == 2
    mask = {"mask": text(fox.convert("L")), "mask_blur": 2, "inpaint_full_res": 1, "inpaint_full_res_padding": 8}
    painted(
        sdapi, "/img2img", init_images=[text(fox)], denoising_strength=0.6, inpainting_mask_invert=0,
        inpainting_fill=1, **mask, **body, **kept,
    )  # fmt: skip
    extra = {
        "resize_mode": 0, "upscaling_resize": 1.5, "upscaling_resize_w": 1024, "upscaling_resize_h": 1024,
        "upscaling_crop": True, "upscaler_1": "Nearest", "image": text(fox), "override_settings": {},
        "override_settings_restore_afterwards": False,
    }  # fmt: skip
    assert opened(sdapi.post("/extra-single-image", json=extra).json()["image"]).size == (48, 48)
    looked = {"model": "deepdanbooru", "width": 32, "height": 32, "image": text(fox)}
    assert "fox" in sdapi.post("/interrogate", json=looked).json()["caption"]


def test_a_plugin_of_photoshop(sdapi, easel, fox):
    """Auto-Photoshop-SD: its own settings go along with those of the picture; then it asks how each was painted."""
    own = {
        "selection_info": {"left": 0, "right": 32}, "mask_expansion": 0, "expanded_mask": None, "mode": "img2img",
        "original_prompt": FOX, "original_negative_prompt": "", "use_sharp_mask": False, "use_prompt_shortcut": False,
        "prompt_shortcut_ui_dict": {}, "uniqueDocumentId": "1234",
    }  # fmt: skip
    answer = painted(
        sdapi, "/img2img", prompt=OWL, negative_prompt="", init_images=[text(fox)], denoising_strength=0.5,
        sampler_index="Euler", width=32, height=32, batch_size=1, cfg_scale=7, seed=7, restore_faces=False,
        alwayson_scripts={}, **own,
    )  # fmt: skip
    expected = easel.generate(OWL, image=fox, seed=7, strength=0.5, steps=4, guidance=7.0, size=(32, 32), **SAME)
    same(answer["images"][0], expected)
    assert not own.keys() & answer["parameters"].keys()
    image = f"data:image/png;base64,{answer['images'][0]}"
    assert sdapi.post("/png-info", json={"image": image}).json()["info"].startswith(OWL)
    extra = {
        "resize_mode": 0, "show_extras_results": 0, "gfpgan_visibility": 0, "codeformer_visibility": 0,
        "codeformer_weight": 0, "upscaling_resize": 2, "upscaling_resize_w": 64, "upscaling_resize_h": 64,
        "upscaling_crop": True, "upscaler_1": "Lanczos", "upscaler_2": "None", "extras_upscaler_2_visibility": 0,
        "upscale_first": False, "image": text(fox),
    }  # fmt: skip
    larger = opened(sdapi.post("/extra-single-image", json=extra).json()["image"])
    np.testing.assert_array_equal(np.asarray(larger), np.asarray(fox.resize((64, 64), 1)))


def test_stability_matrix(server, sdapi):
    """Nulls for all that it does not say, in options and requests."""
    assert server.get("/internal/ping").json() == {}
    options = {"samples_format": "png", "samples_save": None, "n_rows": None, "upscaler_for_img2img": None}
    assert sdapi.post("/options", json=options).status_code == 200
    names = ("styles", "seed", "sampler_name", "hr_upscaler", "eta", "s_noise", "override_settings", "script_args")
    assert len(painted(sdapi, prompt=FOX, width=32, height=32, **dict.fromkeys(names))["images"]) == 1
