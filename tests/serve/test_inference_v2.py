"""The Open Inference Protocol v2, as its clients speak it: JSON over HTTP."""

import base64

import numpy as np
import pytest
from PIL import Image

from serving import png


def infer(server, inputs, status=200, path="/v2/models/tiny/infer", **more):
    answer = server.post(path, json={"inputs": [inputs], **more})
    assert answer.status_code == status, answer.text
    return answer.json()


def images(*data):
    return {
        "name": "image",
        "shape": [len(data)],
        "datatype": "BYTES",
        "data": [base64.b64encode(each).decode() for each in data],
    }


def arrays(answer):
    return {each["name"]: np.array(each["data"]).reshape(each["shape"]) for each in answer["outputs"]}


def test_health_and_metadata(server):
    assert server.get("/v2/health/live").status_code == server.get("/v2/health/ready").status_code == 200
    assert server.get("/v2").json()["name"] == "eyesel"
    for path in ("/v2/models/tiny", "/v2/models/tiny/versions/1"):
        told = server.get(path).json()
        assert [(each["name"], each["datatype"], each["shape"]) for each in told["inputs"]] == [
            ("pixel_values", "FP32", [-1, 3, 32, 32]),
            ("image", "BYTES", [-1]),
        ]
        assert {each["name"]: each["shape"] for each in told["outputs"]} == {
            "logits": [-1, 64],
            "probabilities": [-1, 64],
            "labels": [-1],
        }
        assert server.get(f"{path}/ready").status_code == 200


def test_pictures_and_their_pixels_give_what_the_library_gives(server, eye, fox, fox_png):
    black = Image.new("RGB", (40, 50))
    expected = eye.logits([fox, black]).numpy()
    pixels = eye.transform([fox, black]).numpy()
    nested = {"name": "pixel_values", "shape": [2, 3, 32, 32], "datatype": "FP32", "data": pixels.tolist()}
    for inputs in (images(fox_png, png(black)), nested, {**nested, "data": pixels.flatten().tolist()}):
        answer = infer(server, inputs, id="mine")
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", "tiny", "1")
        found = arrays(answer)
        np.testing.assert_allclose(found["logits"], expected, atol=1e-4)
        shares = np.exp(expected - expected.max(1, keepdims=True))
        np.testing.assert_allclose(found["probabilities"], shares / shares.sum(1, keepdims=True), atol=1e-5)
        assert found["labels"].tolist() == [eye.labels[i] for i in expected.argmax(1)]


def test_outputs_are_chosen(server, fox_png):
    answer = infer(server, images(fox_png), outputs=[{"name": "labels"}], path="/v2/models/tiny/versions/1/infer")
    assert [each["name"] for each in answer["outputs"]] == ["labels"] and arrays(answer)["labels"].tolist() == ["fox"]


PIXELS = {"name": "pixel_values", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": [0.0] * 3072}


@pytest.mark.parametrize(
    ("inputs", "more", "said"),
    [
        ({**PIXELS, "shape": [1, 3, 16, 16]}, {}, "shape"),
        ({**PIXELS, "data": [0.0]}, {}, "1 numbers"),
        ({**PIXELS, "data": [[0.0], [0.0, 1.0]]}, {}, "tensor"),
        ({**PIXELS, "data": [1e300] * 3072}, {}, "FP32"),
        ({**PIXELS, "datatype": "BYTES"}, {}, "FP32"),
        ({**PIXELS, "datatype": "INT8"}, {}, "datatype"),
        ({**PIXELS, "name": "x"}, {}, "name"),
        ({**PIXELS, "parameters": {"binary_data_size": 9}}, {}, "binary_data_size"),
        (PIXELS, {"outputs": [{"name": "boxes"}]}, "outputs.0.name"),
        (PIXELS, {"priority": 1}, "priority"),
        ({**images(b"no picture")}, {}, "not a picture"),
        ({**images(b"no picture"), "shape": [2]}, {}, "shape"),
    ],
)
def test_what_cannot_be_inferred_is_an_error_that_says_why(server, inputs, more, said):
    answer = infer(server, inputs, 400, **more)
    assert list(answer) == ["error"] and said in answer["error"]


def test_unknown_models_and_versions(server):
    for path in ("/v2/models/none", "/v2/models/tiny/versions/2", "/v2/models/dall-e-2", "/v2/models/none/ready"):
        answer = server.get(path)
        assert answer.status_code == 404 and list(answer.json()) == ["error"]
    assert server.post("/v2/models/tiny/infer", content=b"{").status_code == 400
