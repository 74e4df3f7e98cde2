"""Files by the names that prompts use, in the folders of the programs that people have."""

import base64
import json

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

from eyesel import SettingError
from eyesel.text.prompt import loras
from eyesel.weights.library import VARIABLE, Library

LORA = {"lora_unet_x.lora_up.weight": torch.ones(2, 2), "lora_unet_x.lora_down.weight": torch.ones(2, 2)}
WORD = {"emb_params": torch.ones(2, 8)}


def put(path, tensors, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata)
    return path


LAYOUTS = {
    "AUTOMATIC1111": ("models/Lora", "embeddings", "models/Stable-diffusion", "models/VAE"),
    "its folder models": ("Lora", "embeddings", "Stable-diffusion", "VAE"),
    "ComfyUI": ("models/loras", "models/embeddings", "models/checkpoints", "models/vae"),
    "flat": (".", ".", ".", "."),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    lora, embedding, checkpoint, vae = (tmp_path / folder for folder in LAYOUTS[layout])
    put(lora / "style.v1.safetensors", LORA)
    put(lora / "people" / "Anna.safetensors", LORA)
    put(embedding / "bad-hands.safetensors", WORD)
    torch.save({"string_to_param": {"*": torch.ones(2, 8)}}, embedding / "old.pt")
    torch.save({"<cat>": torch.ones(8)}, embedding / "cat.bin")
    put(checkpoint / "big.safetensors", {"model.diffusion_model.x": torch.ones(1)})
    put(vae / "sharp.safetensors", {"first_stage_model.x": torch.ones(1)})
    library = Library.open(tmp_path)
    assert {name: path.stem for name, path in library.loras().items()} == {"style.v1": "style.v1", "Anna": "Anna"}
    assert sorted(library.embeddings()) == ["bad-hands", "cat", "old"]
    assert list(library.checkpoints()) == ["big"] and list(library.vaes()) == ["sharp"]
    for name in ("Anna", "anna", "people/Anna", "PEOPLE/anna"):
        assert library.find_lora(name) == lora / "people" / "Anna.safetensors"


@pytest.fixture
def library(tmp_path):
    put(tmp_path / "models" / "Lora" / "watercolour.safetensors", LORA)
    put(tmp_path / "models" / "Lora" / "a" / "same.safetensors", LORA)
    put(tmp_path / "models" / "Lora" / "b" / "same.safetensors", LORA)
    put(tmp_path / "models" / "Lora" / "file.safetensors", LORA, {"ss_output_name": "Alias"})
    put(tmp_path / "outside.safetensors", LORA)
    return Library.open(tmp_path)


def test_what_is_not_there(library):
    with pytest.raises(SettingError, match=r"no LoRA 'watercolor' in .*: did you mean watercolour\?"):
        library.find_lora("watercolor")
    put(library.folder / "models" / "Lora" / "watercolors.safetensors", {"weight": torch.ones(2)})
    (library.folder / "models" / "Lora" / "watercolor2.safetensors").write_bytes(b"junk")
    with pytest.raises(SettingError, match=r"did you mean watercolour\?$"):  # not what is none
        library.find_lora("watercolor")
    with pytest.raises(SettingError, match=r"several LoRAs 'same': write a/same or b/same"):
        library.find_lora("same")
    assert library.find_lora("b/same").parent.name == "b"
    assert {"a/same", "b/same", "file", "watercolour"} < library.loras().keys()


def test_the_name_that_its_trainer_gave(library):
    (library.folder / "models" / "Lora" / "broken.safetensors").write_bytes(b"no tensors")
    assert library.find_lora("Alias").stem == "file"


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "..", "", "a/../file", "models/Lora/file", "\0", "*"])
def test_no_name_leads_out_of_the_folder(library, name):
    name = str(library.folder / "outside") if name == "*" else name
    with pytest.raises(SettingError, match="there is no LoRA"):
        library.find_lora(name)


def test_tags(library):
    text, wanted = loras("a fox <lora:watercolour:0.5:0.8> <lora:FILE>")
    found = library.loras_of(wanted)
    assert text == "a fox  "
    assert [(f.path.stem, f.text_weight, f.unet_weight) for f in found] == [
        ("watercolour", 0.5, 0.8),
        ("file", 1.0, 1.0),
    ]


def test_links_are_followed_once(library, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    put(disk / "far.safetensors", LORA)
    (library.folder / "models" / "Lora" / "disk").symlink_to(disk)
    (disk / "round").symlink_to(disk)
    assert library.find_lora("far").parent.name == "disk"


def test_of_two_files_of_one_name_safetensors_counts(library):
    torch.save(LORA, library.folder / "models" / "Lora" / "file.ckpt")
    assert library.find_lora("file").suffix == ".safetensors"


def test_words_in_texts(tmp_path):
    home = tmp_path / "embeddings"
    for name in ("bad-hands", "fox", "<cat>", "never.used"):
        put(home / f"{name}.safetensors", WORD)
    library = Library.open(tmp_path)
    found = library.embeddings_in("a foxtrot, (FOX:1.2) and <cat>s", "bad-hands, never used")
    assert sorted(path.stem for path in found) == ["bad-hands", "fox"]
    assert library.embeddings_in("a <cat>, never.used")[0].stem == "<cat>"


def test_pictures_are_embeddings_only_if_they_hide_one(tmp_path):
    home = tmp_path / "embeddings"
    put(home / "fox.safetensors", WORD)
    picture, info = Image.fromarray(np.full((8, 8, 3), 90, np.uint8)), PngImagePlugin.PngInfo()
    data = {"string_to_param": {"*": {"TORCHTENSOR": [[0.5] * 8]}}}
    info.add_text("sd-ti-embedding", base64.b64encode(json.dumps(data).encode()).decode())
    for name in ("fox", "holiday", "owl.preview"):
        picture.save(home / f"{name}.png")
    picture.save(home / "owl.png", pnginfo=info)
    (home / "broken.png").write_bytes(b"no picture")
    found = Library.open(tmp_path).embeddings()
    assert {name: path.suffix for name, path in found.items()} == {"fox": ".safetensors", "owl": ".png"}


def test_where_it_is(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert Library.open() is None
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert Library.open().folder == tmp_path
    with pytest.raises(SettingError, match=f"no folder of models: give one with --models-dir or {VARIABLE}"):
        Library.open(tmp_path / "absent")
