"""Hugging Face's own client against a real server, and what it does not send."""

import base64
import io

import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError
from PIL import Image

from serving import FOX, png, serving

OWL = "a large owl on a blue background"


def client(server, path=""):
    return InferenceClient(model=f"{server.base_url}{path}", token="any", timeout=60)


def same(image, picture):
    np.testing.assert_array_equal(np.asarray(image), np.asarray(picture.image))


@pytest.mark.parametrize("path", ["", "/predict", "/models/tiny", "/models/tiny/pipeline/image-classification"])
def test_image_classification(server, eye, fox, fox_png, path, tmp_path):
    (tmp_path / "fox.png").write_bytes(fox_png)
    expected = [(each.label, pytest.approx(each.score, abs=1e-5)) for each in eye.classify(fox, top_k=5)]
    for image in (fox_png, str(tmp_path / "fox.png"), tmp_path / "fox.png"):
        found = client(server, path).image_classification(image)
        assert [(each.label, each.score) for each in found] == expected


def test_image_classification_with_parameters(server, eye, fox, fox_png):
    found = client(server).image_classification(fox_png, top_k=3, function_to_apply="sigmoid")
    expected = eye.classify(fox, top_k=3, function_to_apply="sigmoid")
    assert [each.label for each in found] == [each.label for each in expected]
    assert [each.score for each in found] == pytest.approx([each.score for each in expected], abs=1e-5)


def test_feature_extraction(server, eye, fox, fox_png):
    """The client's own method is for texts: a picture in base64 is one."""
    text = base64.b64encode(fox_png).decode()
    there = client(server, "/models/tiny/pipeline/feature-extraction")
    np.testing.assert_allclose(there.feature_extraction(text)[0], eye.embed(fox), atol=1e-4)
    found = there.feature_extraction(text, normalize=True)[0]
    np.testing.assert_allclose(found, eye.embed(fox, normalize=True), atol=1e-5)
    for sent in ({"content": fox_png}, {"json": {"inputs": [text, text], "parameters": {"pool": "mean", "layer": 2}}}):
        answer = server.post("/?task=image-feature-extraction", **sent).json()
        expected = eye.embed(fox, pool="mean", layer=2) if "json" in sent else eye.embed(fox)
        np.testing.assert_allclose(answer, [expected] * len(answer), atol=1e-4)


@pytest.mark.parametrize("path", ["", "/models/tiny", "/models/gpt-image-1/pipeline/text-to-image"])
def test_text_to_image(server, easel, path):
    image = client(server, path).text_to_image(
        FOX, negative_prompt="red", width=32, height=40, num_inference_steps=4, guidance_scale=2.0, seed=7,
        scheduler="EulerAncestralDiscreteScheduler", extra_body={"clip_skip": 2},
    )  # fmt: skip
    same(image, easel.generate(
        FOX, negative="red", size=(32, 40), steps=4, guidance=2.0, seed=7, solver="euler_ancestral", clip_skip=2
    ))  # fmt: skip


def test_image_to_image(server, easel, fox, fox_png, tmp_path):
    (tmp_path / "fox.png").write_bytes(fox_png)
    said = {"prompt": OWL, "num_inference_steps": 6, "guidance_scale": 3.0, "seed": 7, "strength": 0.5}
    expected = easel.generate(OWL, image=fox, steps=6, guidance=3.0, seed=7, strength=0.5)
    for image in (fox_png, str(tmp_path / "fox.png"), tmp_path / "fox.png"):
        same(client(server).image_to_image(image, **said), expected)
    larger = client(server).image_to_image(fox_png, **said, target_size={"width": 40, "height": 48})
    assert larger.size == (40, 48)


def test_image_to_image_without_words_paints_what_is_seen(server, fox_png):
    image = client(server).image_to_image(fox_png)
    assert image.size == (32, 32) and image.info["parameters"].startswith("fox\n")


def test_white_in_the_mask_is_repainted(server, fox, fox_png):
    mask = Image.new("L", fox.size)
    mask.paste(255, (0, 0, 32, 8))
    text = base64.b64encode(png(mask)).decode()
    image = client(server).image_to_image(fox_png, OWL, num_inference_steps=4, mask_image=text, mask_blur=0)
    changed = (np.asarray(image) != np.asarray(fox)).any(-1)
    assert changed[:8].mean() > 0.5 and not changed[8:].any()


def test_health_and_info(server):
    hub = InferenceClient(model=str(server.base_url), provider="hf-inference", token="any")
    assert hub.health_check() is True
    told = hub.get_endpoint_info()
    assert {"text-to-image", "image-classification"} <= set(told["tasks"]) and told["models"][0]["id"] == "tiny"


def test_bodies_of_all_kinds_and_without_a_media_type(server, fox_png):
    text = base64.b64encode(fox_png).decode()
    bodies = [
        {"content": fox_png, "headers": {"content-type": ""}},
        {"content": fox_png, "headers": {"content-type": "application/octet-stream"}},
        {"files": {"image": fox_png}, "data": {"top_k": "2"}},
        {"json": {"inputs": f"data:image/png;base64,{text}"}},
        {"content": f'{{"inputs": "{text}"}}', "headers": {"content-type": "application/json; charset=utf-8"}},
        {"json": {"inputs": text, "parameters": {"top_k": None}, "options": {"wait_for_model": True}}},
    ]
    for body in bodies:
        answer = server.post("/", **body)
        assert answer.status_code == 200 and answer.json()[0]["label"] == "fox", answer.text
    both = server.post("/?top_k=1", json={"inputs": [text, text]}).json()
    assert [[each["label"] for each in found] for found in both] == [["fox"], ["fox"]]


def test_a_picture_is_answered_as_it_is_accepted(server):
    body = {"inputs": FOX, "parameters": {"seed": 7, "num_inference_steps": 4}}
    plain = server.post("/", json=body)
    assert Image.open(io.BytesIO(base64.b64decode(plain.json()))).format == "PNG"
    for accept, kind in (("image/png", "PNG"), ("image/jpeg", "JPEG"), ("image/webp;q=1, */*", "WEBP")):
        answer = server.post("/", json=body, headers={"accept": accept})
        assert Image.open(io.BytesIO(answer.content)).format == kind and answer.headers["x-eyesel-seed"] == "7"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"inputs": FOX, "parameters": {"steps_": 4}}, "steps_"),
        ({"inputs": FOX, "parameters": {"num_inference_steps": 0}}, "num_inference_steps"),
        ({"inputs": FOX, "parameters": {"num_images_per_prompt": 2}}, "num_images_per_prompt"),
        ({"inputs": FOX, "parameters": {"width": 512}}, "height"),
        ({"inputs": FOX, "parameters": {"width": 33, "height": 32}}, "width"),
        ({"inputs": FOX, "parameters": {"scheduler": "Magic"}}, "scheduler"),
        ({"inputs": FOX, "parameters": [1]}, "parameters"),
        ({"inputs": " "}, "prompt is empty"),
        ({"inputs": [FOX, FOX]}, "inputs"),
        ({"inputs": 7, "task": "text-to-image"}, "inputs"),
        ({"inputs": FOX, "task": "object-detection"}, "task"),
        ({"inputs": FOX, "task": "feature-extraction"}, "base64"),
        ({"inputs": FOX, "task": "image-to-image"}, "base64"),
        ({}, "inputs"),
    ],
)
def test_what_cannot_be_done_is_a_bad_request_that_names_the_field(server, body, said):
    answer = server.post("/", json=body)
    assert answer.status_code == 400 and list(answer.json()) == ["error"] and said in answer.json()["error"]


def test_errors_reach_the_user_of_the_client(server, fox_png):
    with pytest.raises(BadRequestError, match="top_k"):
        client(server).image_classification(fox_png, top_k=0)
    with pytest.raises(HfHubHTTPError, match="sd-9"):
        client(server, "/models/sd-9").text_to_image(FOX)
    with pytest.raises(BadRequestError, match="object-detection"):
        client(server, "/?task=object-detection").object_detection(fox_png)


def test_the_token_is_the_key(fox_png):
    with serving(api_keys=("secret",)) as server:
        for token, status in (("secret", 200), ("wrong", 401)):
            answer = httpx.post(server.base_url, content=fox_png, headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == status
        assert list(answer.json()) == ["error"]
        found = InferenceClient(model=str(server.base_url), token="secret").image_classification(fox_png)
        assert found[0].label == "fox"
