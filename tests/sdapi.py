"""What the tests of AUTOMATIC1111's web API share."""

import base64
import io

import numpy as np
from PIL import Image

from serving import png

SAME = {"solver": "euler", "schedule": "normal", "rng": "philox"}  # what AUTOMATIC1111 does where nothing is said


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
