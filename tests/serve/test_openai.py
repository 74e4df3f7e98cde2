"""OpenAI's own client against a real server."""

import asyncio
import base64
import io

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from eyesel.images import open_image
from eyesel.serve.options import Limits
from serving import FOX, png, serving, wait_for

OWL = "a large owl on a blue background"
FEW = {"steps": 4}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def masked(fox):
    """A picture whose upper left quarter is fully transparent, and whose lower right is nearly so."""
    alpha = np.full((32, 32), 255, np.uint8)
    alpha[:16, :16] = 0
    alpha[24:, 24:] = 1
    return png(Image.fromarray(np.dstack([np.asarray(fox), alpha])))


def opened(datum):
    return Image.open(io.BytesIO(base64.b64decode(datum.b64_json)))


def test_generations_are_those_of_the_library(client, easel):
    answer = client.images.generate(
        prompt=FOX, model="tiny", n=2, size="32x32", extra_body={"seed": 7, "negative_prompt": "red", **FEW}
    )
    expected = easel.generate(FOX, n=2, seed=7, negative="red", size=(32, 32), steps=4)
    assert [datum.model_extra["seed"] for datum in answer.data] == [7, 8]
    for datum, picture in zip(answer.data, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(opened(datum)), np.asarray(picture.image))
    assert (answer.size, answer.output_format, answer.background) == ("32x32", "png", "opaque")
    assert opened(answer.data[0]).info["parameters"].startswith(FOX)


@pytest.mark.parametrize(("format", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_other_formats_are_compressed_as_asked(client, format, kind):
    sizes = []
    for compression in (5, 95):
        answer = client.images.generate(
            prompt=FOX, model="gpt-image-1", output_format=format, output_compression=compression,
            extra_body={"seed": 7, **FEW},
        )  # fmt: skip
        assert opened(answer.data[0]).format == kind
        sizes.append(len(base64.b64decode(answer.data[0].b64_json)))
    assert sizes[0] < sizes[1] and answer.output_format == format


def test_what_only_informs_openai_is_accepted_and_named(client):
    answer = client.images.with_raw_response.generate(
        prompt=FOX, model="dall-e-3", user="me", style="vivid", extra_body=FEW
    )
    assert answer.headers["x-eyesel-ignored"] == "user, style"


def test_urls_are_served(client, server):
    answer = client.images.generate(prompt=FOX, response_format="url", extra_body={"seed": 7, **FEW})
    made = httpx.get(answer.data[0].url)
    assert answer.data[0].b64_json is None and made.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(made.content)).info["parameters"].startswith(FOX)
    assert server.get(httpx.URL(answer.data[0].url).path.replace("-0.png", "-1.png")).status_code == 404


def test_urls_are_served_by_any_of_several_servers():
    with serving() as server:
        server.live.engine.name = "a1b2c3d4"  # as a replica's, with which the ids of its jobs begin
        asked = {"prompt": FOX, "response_format": "url", "steps": 1}
        url = server.post("/v1/images/generations", json=asked).json()["data"][0]["url"]
        assert "/a1b2c3d4-" in url and Image.open(io.BytesIO(server.get(url).content)).size == (32, 32)


def test_quality_is_a_number_of_steps(client):
    answer = client.images.generate(prompt=FOX, quality="low")
    assert "Steps: 12" in opened(answer.data[0]).info["parameters"]


def test_an_edit_starts_from_the_picture(client, easel, fox, fox_png):
    answer = client.images.edit(image=("fox.png", fox_png), prompt=OWL, extra_body={"seed": 3, "strength": 0.5, **FEW})
    expected = easel.generate(OWL, image=fox, seed=3, strength=0.5, steps=4)
    np.testing.assert_array_equal(np.asarray(opened(answer.data[0])), np.asarray(expected.image))


@pytest.mark.parametrize("within", [False, True])
def test_an_edit_repaints_where_the_mask_is_fully_transparent(client, fox, fox_png, masked, within):
    """In the picture itself or in a mask; and nowhere else, bit for bit."""
    files = {"image": ("fox.png", masked)} if within else {"image": ("fox.png", fox_png), "mask": ("m.png", masked)}
    answer = client.images.edit(**files, prompt=OWL, n=2, extra_body={"seed": 3, "mask_blur": 0, **FEW})
    before = np.asarray(open_image(masked) if within else fox)
    for datum in answer.data:
        after = np.asarray(opened(datum))
        changed = (after != before).any(-1)
        assert changed[:16, :16].mean() > 0.5
        assert not changed[:, 16:].any() and not changed[16:].any()


def test_an_edit_with_several_pictures_takes_their_style(client, easel, fox, fox_png):
    style = easel.generate("a large strawberry on a red background", seed=1, steps=4).image
    answer = client.images.edit(
        image=[("fox.png", fox_png), ("style.png", png(style))], prompt=FOX, extra_body={"strength": 0.8, **FEW}
    )
    expected = easel.stylize(fox, style, prompt=FOX, strength=0.8, steps=4)
    np.testing.assert_array_equal(np.asarray(opened(answer.data[0])), np.asarray(expected.image))


def test_an_edit_as_json(server, fox_png):
    text = base64.b64encode(fox_png).decode()
    for picture in (text, f"data:image/png;base64,{text}", {"image_url": f"data:image/png;base64,{text}"}):
        answer = server.post("/v1/images/edits", json={"image": [picture], "prompt": OWL, "seed": 1, **FEW})
        assert answer.status_code == 200, answer.text


def test_a_variation_has_the_words_of_the_picture_or_what_is_seen_in_it(client, easel, fox_png, eye, fox, tmp_path):
    painted = easel.generate(FOX, seed=7, steps=8)
    painted.save(tmp_path / "fox.png")
    with (tmp_path / "fox.png").open("rb") as file:
        answer = client.images.create_variation(image=file, n=2, size="32x32", extra_body={"seed": 1, **FEW})
    assert [datum.revised_prompt for datum in answer.data] == [FOX, FOX]
    answer = client.images.create_variation(image=("fox.png", fox_png), extra_body={"seed": 1, **FEW})
    assert answer.data[0].revised_prompt == eye.classify(fox)[0].label


def test_a_stream_has_pictures_in_the_making(client, fox_png):
    events = list(client.images.generate(prompt=FOX, stream=True, partial_images=2, extra_body={"seed": 7, "steps": 6}))
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    final = client.images.generate(prompt=FOX, extra_body={"seed": 7, "steps": 6}).data[0]
    assert events[-1].b64_json == final.b64_json != events[0].b64_json
    edited = list(
        client.images.edit(
            image=("fox.png", fox_png), prompt=OWL, stream=True, partial_images=1, extra_body={"seed": 7, "steps": 6}
        )
    )
    assert [event.type for event in edited] == ["image_edit.partial_image", "image_edit.completed"]


def test_models_and_their_aliases(client):
    ids = [model.id for model in client.models.list()]
    assert ids[0] == "tiny" and ids.count("tiny") == 1 and {"dall-e-2", "gpt-image-1"} <= set(ids)
    assert client.models.retrieve("gpt-image-1").owned_by == "alias of tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"prompt": " "}, "prompt"),
        ({"n": 11}, "n"),
        ({"n": 0}, "n"),
        ({"size": "large"}, "size"),
        ({"size": "33x32"}, "size"),
        ({"size": "8192x8192"}, "size"),
        ({"background": "transparent"}, "background"),
        ({"output_compression": 50}, "output_compression"),
        ({"partial_images": 2}, "partial_images"),
        ({"quality": "best"}, "quality"),
        ({"quality": "high", "extra_body": {"steps": 4}}, "quality"),
        ({"extra_body": {"num_inference_steps": 1000}}, "num_inference_steps"),
        ({"extra_body": {"guidance_scale": "much"}}, "guidance_scale"),
        ({"extra_body": {"steps": 4, "num_inference_steps": 5}}, "num_inference_steps"),
        ({"extra_body": {"solver": "magic"}}, "solver"),
        ({"extra_body": {"seed": -1}}, "seed"),
        ({"extra_body": {"strength": 0.5}}, "strength"),
        ({"extra_body": {"stepps": 4}}, "stepps"),
    ],
)
def test_what_cannot_be_done_is_a_bad_request_that_names_the_field(client, said, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(**{"prompt": FOX, **said})
    assert caught.value.param == param and caught.value.type == "invalid_request_error"


def test_pictures_that_cannot_be_edited(client, fox_png, masked):
    with pytest.raises(openai.BadRequestError, match="not a picture"):
        client.images.edit(image=("fox.png", b"no picture"), prompt=OWL)
    with pytest.raises(openai.BadRequestError, match="transparent"):
        client.images.edit(image=("fox.png", fox_png), mask=("mask.png", fox_png), prompt=OWL)
    with pytest.raises(openai.BadRequestError, match="equal"):
        client.images.edit(image=("fox.png", fox_png), mask=("mask.png", png(Image.new("RGBA", (40, 32)))), prompt=OWL)
    with pytest.raises(openai.BadRequestError, match="n 1"):
        client.images.edit(image=[("a.png", fox_png), ("b.png", fox_png)], prompt=OWL, n=2)


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(prompt=FOX, model="sd-9")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_no_such_route_and_method_in_the_same_shape(server):
    for method, path, status in (("GET", "/v1/nothing", 404), ("GET", "/v1/images/edits", 405)):
        answer = server.request(method, path)
        assert answer.status_code == status and answer.json()["error"]["type"] == "invalid_request_error"


@pytest.fixture(scope="module")
def busy():
    """A server with a key and next to no queue, whose painter has much to do."""
    with serving(api_keys=("secret",), limits=Limits(queue=2, share=0.5)) as client:
        yield client


def long_job(server):
    return server.live.engine.submit("generate", {"prompt": FOX, "steps": 150, "size": (64, 64)}, n=10)


def test_errors_of_the_server_are_exceptions_of_the_client(busy):
    url = f"{busy.base_url}/v1"
    with openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.images.generate(prompt=FOX)
        assert caught.value.code == "invalid_api_key"
    with openai.OpenAI(base_url=url, api_key="secret", max_retries=0) as client:
        jobs = on_loop(busy, lambda: [long_job(busy)])
        wait_for(lambda: jobs[0].state == "running")
        jobs += on_loop(
            busy, lambda: [busy.live.engine.submit("generate", {"prompt": FOX}, client=str(i)) for i in (1, 2)]
        )
        with pytest.raises(openai.RateLimitError) as caught:
            client.images.generate(prompt=FOX)
        assert caught.value.code == "queue_full" and int(caught.value.response.headers["retry-after"]) >= 1
        on_loop(busy, lambda: [job.cancel() for job in jobs])


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_away_takes_the_job_along(busy, stream):
    headers = {"Authorization": "Bearer secret"}
    body = {"prompt": FOX, "steps": 150, "n": 10, "size": "64x64", "stream": stream}
    with httpx.Client(base_url=busy.base_url, headers=headers) as client:
        if stream:
            with client.stream("POST", "/v1/images/generations", json=body, timeout=60) as answer:
                assert answer.status_code == 200
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/images/generations", json=body, timeout=1)
    newest = max(on_loop(busy, lambda: busy.live.engine.jobs.list()), key=lambda job: job.created).id
    wait_for(lambda: on_loop(busy, lambda: busy.live.engine.jobs.get(newest).state) == "cancelled")


def on_loop(server, work):
    """What `work` gives, in the loop of the server."""

    async def run():
        return work()

    return asyncio.run_coroutine_threadsafe(run(), server.live.loop).result(30)
