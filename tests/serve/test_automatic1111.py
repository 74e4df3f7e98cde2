"""AUTOMATIC1111's web API: what Open WebUI and SillyTavern send, call by call, and what each field does."""

import base64
import io
import json
import threading

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import eyesel
from eyesel.infotext import parse
from eyesel.weights.hub import ASSETS
from serving import FOX, png, serving, wait_for

OWL = "a large owl on a blue background"
SAME = {"solver": "euler", "schedule": "normal", "rng": "philox"}  # what AUTOMATIC1111 does where nothing is said


@pytest.fixture(scope="module")
def sdapi(server):
    with httpx.Client(base_url=f"{server.base_url}/sdapi/v1", timeout=60) as client:
        yield client


def text(image):
    return base64.b64encode(image if isinstance(image, bytes) else png(image)).decode()


def opened(data):
    return Image.open(io.BytesIO(base64.b64decode(data)))


def painted(client, path="/txt2img", **body):
    answer = client.post(path, json={"steps": 4, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def same(data, picture):
    np.testing.assert_array_equal(np.asarray(opened(data)), np.asarray(picture.image))


# What clients do


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
    assert upscalers == ["None", "Lanczos"] and latent[0] == "Latent"
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


# What the fields do


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


def test_png_info(sdapi):
    data = painted(sdapi, prompt=FOX, negative_prompt="red", seed=7)["images"][0]
    told = sdapi.post("/png-info", json={"image": f"data:image/png;base64,{data}"}).json()
    assert told["info"].startswith(f"{FOX}\nNegative prompt: red\n") and told["items"]["parameters"] == told["info"]
    parameters = told["parameters"]
    assert (parameters["Prompt"], parameters["Negative prompt"], parameters["Seed"]) == (FOX, "red", "7")
    assert (parameters["Sampler"], parameters["Schedule type"], parameters["Size"]) == ("Euler", "Uniform", "32x32")
    assert sdapi.post("/png-info", json={"image": text(Image.new("RGB", (8, 8)))}).json()["info"] == ""


def test_lists_and_the_checkpoint(sdapi):
    for name in ("hypernetworks", "face-restorers", "realesrgan-models", "prompt-styles", "loras", "extensions"):
        assert sdapi.get(f"/{name}").json() == []
    assert sdapi.get("/embeddings").json() == {"loaded": {}, "skipped": {}}
    assert sdapi.get("/memory").json()["ram"]["total"] > 0 and sdapi.get("/cmd-flags").json()["api"] is True
    for name in ("unload-checkpoint", "reload-checkpoint"):
        assert sdapi.post(f"/{name}").json() == {}
    assert "x-process-time" in sdapi.get("/options").headers


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


@pytest.fixture
def models(tmp_path):
    """A folder of models in AUTOMATIC1111's layout: a LoRA and an embedding for the bundled painter."""
    unet = load_file(ASSETS / "tiny" / "painter" / "unet" / "diffusion_pytorch_model.safetensors")
    words = load_file(ASSETS / "tiny" / "painter" / "text_encoder" / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    name = next(name for name in sorted(unet) if name.endswith("attn2.to_v.weight"))
    out, into = unet[name].shape
    kohya = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
    (tmp_path / "Lora").mkdir()
    (tmp_path / "embeddings").mkdir()
    factors = {
        f"{kohya}.lora_down.weight": torch.randn(2, into, generator=generator),
        f"{kohya}.lora_up.weight": torch.randn(out, 2, generator=generator),
    }
    save_file(factors, tmp_path / "Lora" / "ink.safetensors")
    width = next(tensor.shape[1] for key, tensor in words.items() if "token_embedding" in key)
    save_file(
        {"emb_params": torch.randn(3, width, generator=generator)}, tmp_path / "embeddings" / "my-fox.safetensors"
    )
    (tmp_path / "embeddings" / "broken.safetensors").write_bytes(b"nothing")
    return tmp_path


def test_loras_and_embeddings_are_listed_and_used(models):
    expected = eyesel.StableDiffusion.load("tiny", models_dir=models)
    prompt = "a large my-fox <lora:ink:0.5>"
    with serving(models_dir=models) as server:
        lists = {name: server.get(f"/sdapi/v1/{name}").json() for name in ("loras", "embeddings")}
        answer = painted(server, "/sdapi/v1/txt2img", prompt=prompt, seed=7)
        unknown = server.post("/sdapi/v1/txt2img", json={"prompt": f"{FOX} <lora:none:1>", "steps": 4})
    assert [(each["name"], each["path"]) for each in lists["loras"]] == [("ink", "ink.safetensors")]
    assert lists["embeddings"]["loaded"]["my-fox"]["vectors"] == 3
    assert list(lists["embeddings"]["skipped"]) == ["broken"]
    same(answer["images"][0], expected.generate(prompt, seed=7, steps=4, guidance=7.0, **SAME))
    assert unknown.status_code == 400 and "'none'" in unknown.json()["detail"]
