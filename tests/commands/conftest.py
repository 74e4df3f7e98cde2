"""What the tests of the command line start from."""

import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from eyesel.cli import main
from tiny_models import write_classifier, write_painter


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    return write_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="session")
def painter(tmp_path_factory):
    return write_painter(tmp_path_factory.mktemp("painter"), "sd1")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run `eyesel ARGS` in an empty folder; gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def command(*args):
        monkeypatch.setattr(sys, "argv", ["eyesel", *map(str, args)])
        code = 0
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # as in a process of its own, where they are notes and not errors
            try:
                main()
            except SystemExit as stop:
                code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return command
