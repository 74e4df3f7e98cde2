"""What the tests of the server start from."""

import httpx
import pytest

import eyesel
from serving import FOX, png, serving


@pytest.fixture(scope="session")
def server():
    """A client of a server with the options that it has by itself."""
    with serving() as client:
        yield client


@pytest.fixture(scope="session")
def eye():
    return eyesel.ImageClassifier.load("tiny")


@pytest.fixture(scope="session")
def easel():
    return eyesel.StableDiffusion.load("tiny")


@pytest.fixture(scope="session")
def fox(easel):
    return easel.generate(FOX, seed=7, steps=8).image


@pytest.fixture(scope="session")
def fox_png(fox):
    return png(fox)


@pytest.fixture(scope="module")
def sdapi(server):
    """A client of AUTOMATIC1111's web API."""
    with httpx.Client(base_url=f"{server.base_url}/sdapi/v1", timeout=60) as client:
        yield client
