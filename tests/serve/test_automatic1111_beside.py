"""AUTOMATIC1111's web API beside painting: what is in a picture, larger pictures, lists, and the folder of models."""

import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import eyesel
from eyesel.classifier import Prediction
from eyesel.serve.dialects.automatic1111.extras import Room
from eyesel.serve.dialects.automatic1111.looking import caption
from eyesel.serve.dialects.automatic1111.options import Options
from eyesel.serve.errors import ApiError
from eyesel.serve.options import Limits
from eyesel.text.prompt import emphasis
from eyesel.weights.hub import ASSETS
from sdapi import SAME, opened, painted, same, text
from serving import FOX, serving, wait_for

# What is in a picture


def caption_of(client, image, **said):
    answer = client.post("/interrogate", json={"image": text(image), **said})
    assert answer.status_code == 200, answer.text
    return answer.json()["caption"]


def test_a_caption_has_the_labels_that_are_likely(sdapi, eye, fox):
    best, *others = eye.classify(fox, top_k=100)
    assert best.score >= 0.5 > others[0].score
    for model in ("clip", "deepdanbooru", "tiny"):
        assert caption_of(sdapi, fox, model=model) == best.label
    sdapi.post("/options", json={"interrogate_return_ranks": True, "interrogate_deepbooru_score_threshold": 0})
    assert caption_of(sdapi, fox) == ", ".join(f"({p.label}:{p.score:.3f})" for p in (best, *others))
    sdapi.post("/options", json={"interrogate_return_ranks": False, "interrogate_deepbooru_score_threshold": 1})
    assert caption_of(sdapi, fox) == best.label  # there is always one
    sdapi.post("/options", json={"interrogate_deepbooru_score_threshold": 0.5})


def test_a_caption_is_a_prompt_that_says_what_it_says():
    said = caption([Prediction("crane (bird)", 0.9), Prediction("[old] sign", 0.6)], Options())
    assert said == r"crane \(bird\), \[old\] sign"
    assert emphasis(said) == [[("crane (bird), [old] sign", 1.0)]]


@pytest.mark.parametrize(
    ("said", "status", "field"),
    [
        ({"image": None}, 404, "image"),
        ({"image": "?"}, 400, "image"),
        ({"model": "blip"}, 404, "blip"),
        ({"clip": 1}, 422, "clip"),
    ],
)
def test_what_cannot_be_looked_at_is_named(sdapi, fox, said, status, field):
    answer = sdapi.post("/interrogate", json={"image": text(fox), **said})
    assert answer.status_code == status and field in answer.json()["detail"], answer.text


# Larger pictures


def enlarged(client, image, **said):
    answer = client.post("/extra-single-image", json={"image": text(image), **said})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(("name", "filter"), [("Lanczos", 1), ("Nearest", 0)])
def test_a_picture_is_enlarged_by_a_filter(sdapi, fox, name, filter):
    for factor, size in (2, (64, 64)), (1.3, (42, 42)), (0.5, (16, 16)):
        made = enlarged(sdapi, fox, upscaler_1=name, upscaling_resize=factor)
        np.testing.assert_array_equal(np.asarray(opened(made["image"])), np.asarray(fox.resize(size, filter)))
        assert made["html_info"] == f"<p>Postprocess upscale by: {factor:g}, Postprocess upscaler: {name}</p>"


def test_a_picture_comes_to_a_size_cut_or_whole(sdapi, fox):
    said = {"upscaler_1": "Nearest", "resize_mode": 1, "upscaling_resize_w": 96, "upscaling_resize_h": 64}
    large = np.asarray(fox.resize((96, 96), 0))
    np.testing.assert_array_equal(np.asarray(opened(enlarged(sdapi, fox, **said)["image"])), large[16:80])
    whole = enlarged(sdapi, fox, **said, upscaling_crop=False)
    np.testing.assert_array_equal(np.asarray(opened(whole["image"])), large)
    assert "to: 96x64" in whole["html_info"]


def test_two_upscalers_are_blended(sdapi, fox):
    made = enlarged(sdapi, fox, upscaler_1="Lanczos", upscaler_2="Nearest", extras_upscaler_2_visibility=0.25)
    expected = Image.blend(fox.resize((64, 64), 1), fox.resize((64, 64), 0), 0.25)
    np.testing.assert_array_equal(np.asarray(opened(made["image"])), np.asarray(expected))
    assert "Postprocess upscaler 2: Nearest" in made["html_info"]


def test_without_an_upscaler_a_picture_stays_as_it_is(sdapi, fox):
    made = enlarged(sdapi, fox)
    np.testing.assert_array_equal(np.asarray(opened(made["image"])), np.asarray(fox))
    assert made["html_info"] == "<p></p>"


@pytest.mark.parametrize("format", ["png", "jpg"])
def test_a_larger_picture_still_says_how_it_was_painted(sdapi, format):
    sent = painted(sdapi, prompt=FOX, seed=7)["images"][0]
    said = {"upscaler_1": "Lanczos", "override_settings": {"samples_format": format}}
    made = sdapi.post("/extra-single-image", json={"image": sent, **said}).json()["image"]
    texts = sdapi.post("/png-info", json={"image": made}).json()["items"]
    assert texts["parameters"] == opened(sent).info["parameters"]
    assert texts["postprocessing"].startswith("Postprocess upscale by: 2")
    assert opened(made).format == {"png": "PNG", "jpg": "JPEG"}[format]


def test_several_pictures_are_enlarged(sdapi, fox):
    other = Image.new("RGB", (8, 4), "teal")
    images = [{"data": text(fox), "name": "fox"}, {"data": f"data:image/png;base64,{text(other)}"}]
    answer = sdapi.post("/extra-batch-images", json={"imageList": images, "upscaler_1": "Lanczos"}).json()
    assert [opened(each).size for each in answer["images"]] == [(64, 64), (16, 8)]


@pytest.mark.parametrize(
    ("said", "status", "field"),
    [
        ({"image": None}, 404, "image"),
        ({"image": "?"}, 400, "image"),
        ({"upscaler_1": "R-ESRGAN 4x+"}, 422, "upscaler_1"),
        ({"upscaler_1": "Latent"}, 422, "upscaler_1"),
        ({"upscaler_2": "ESRGAN"}, 422, "upscaler_2"),
        ({"upscaler_2": "Lanczos", "extras_upscaler_2_visibility": 1}, 422, "upscaler_2"),
        ({"gfpgan_visibility": 0.5}, 422, "gfpgan_visibility"),
        ({"codeformer_visibility": 1}, 422, "codeformer_visibility"),
        ({"extras_upscaler_2_visibility": 2}, 422, "extras_upscaler_2_visibility"),
        ({"resize_mode": 2}, 422, "resize_mode"),
        ({"upscaling_resize": 0}, 422, "upscaling_resize"),
        ({"upscaling_resize": 1e9}, 422, "upscaling_resize"),
        ({"upscaling_resize_w": 10**400}, 422, "upscaling_resize_w"),
        ({"upscaler_1": "Lanczos", "upscaling_resize": 300}, 422, "9600x9600"),
        ({"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 9000}, 422, "9000x9000"),
        ({"upscale_model": "ESRGAN"}, 422, "upscale_model"),
    ],
)
def test_what_cannot_be_enlarged_is_named(sdapi, fox, said, status, field):
    answer = sdapi.post("/extra-single-image", json={"image": text(fox), **said})
    assert answer.status_code == status and field in answer.json()["detail"], answer.text
    assert list(answer.json()) == ["error", "detail", "body", "errors"]


def test_pictures_without_end_are_not_enlarged():
    with serving(limits=Limits(images=2), warm_up=False) as client:
        for number in (0, 3):
            images = [{"data": text(Image.new("RGB", (8, 8)))}] * number
            answer = client.post("/sdapi/v1/extra-batch-images", json={"imageList": images})
            assert answer.status_code == 422 and "imageList" in answer.json()["detail"]
    room = Room(100)
    with room.taken(1000):  # one alone always fits
        with pytest.raises(ApiError) as caught, room.taken(1):
            pass
        assert caught.value.status == 429 and caught.value.retry_after
    with room.taken(60), room.taken(40):
        pass


# Lists, and the folder of models


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
    for name in ("unload-checkpoint", "reload-checkpoint", "refresh-vae", "refresh-loras", "skip"):
        assert sdapi.post(f"/{name}").json() == {}
    assert "x-process-time" in sdapi.get("/options").headers


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


def test_the_folder_of_models_is_looked_into_again(tmp_path):
    folder = tmp_path / "Stable-diffusion"
    folder.mkdir()
    with serving(models_dir=tmp_path) as server:
        names = lambda: [each["model_name"] for each in server.get("/sdapi/v1/sd-models").json()]  # noqa: E731
        assert names() == ["tiny"]
        (folder / "other.safetensors").write_bytes(b"nothing")
        assert names() == ["tiny"]
        assert server.post("/sdapi/v1/refresh-checkpoints").json() == {} and names() == ["tiny", "other"]
        body = {"prompt": FOX, "override_settings": {"sd_model_checkpoint": "other"}}
        broken = server.post("/sdapi/v1/txt2img", json=body)
        assert broken.status_code == 400 and "other" in broken.json()["detail"]
        (folder / "other.safetensors").unlink()
        server.post("/sdapi/v1/refresh-checkpoints")
        assert names() == ["tiny"] and server.post("/sdapi/v1/txt2img", json=body).status_code == 404


@pytest.mark.parametrize("name", ["create/embedding", "create/hypernetwork", "train/embedding", "train/hypernetwork"])
def test_a_server_does_not_train(sdapi, name):
    answer = sdapi.post(f"/{name}", json={"name": "my-fox"})
    assert answer.status_code == 403 and "eyesel train" in answer.json()["detail"]
    assert list(answer.json()) == ["error", "detail", "body", "errors"]


def test_what_is_skipped_makes_room_for_the_next(sdapi):
    answers = {}

    def ask(name, steps):
        body = {"prompt": FOX, "steps": steps, "width": 64, "height": 64, "cfg_scale": 1 + steps / 100}
        answers[name] = sdapi.post("/txt2img", json=body)

    first = threading.Thread(target=ask, args=("first", 150))
    first.start()
    wait_for(lambda: sdapi.get("/progress").json()["state"]["sampling_steps"] == 150)
    second = threading.Thread(target=ask, args=("second", 2))
    second.start()
    assert sdapi.post("/skip").json() == {}
    first.join(30)
    second.join(30)
    assert answers["first"].status_code == 400 and "cancelled" in answers["first"].json()["detail"]
    assert json.loads(answers["second"].json()["info"])["steps"] == 2
