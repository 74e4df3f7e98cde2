"""How a picture was painted, in its file and out of it again, as eyesel and as other programs write it down."""

import json
import struct

import pytest
from PIL import Image, PngImagePlugin

import eyesel
from eyesel import infotext
from eyesel.errors import ImageError, OutputError
from eyesel.images import read_metadata, save_image
from eyesel.picture import Picture, read_record, settings_from

SETTINGS = {
    "prompt": 'a fox, (ünïcode 狐 🦊:1.1)\nsecond "line"\nNegative prompt: no, of the prompt <lora:x:0.8>',
    "negative": "",
    "steps": 3,
    "guidance": 7.1234567890123,
    "guidance_rescale": 0.1 + 0.2,
    "guidance_interval": (0.28, 5.42),
    "solver": "tcd",
    "schedule": "align_your_steps_xl",
    "eta": 0.3,
    "rng": "philox",
    "width": 64,
    "height": 40,
    "clip_skip": 2,
    "emphasis": "no norm",
    "variation_seed": 2**64 - 1,
    "variation_strength": 0.05,
    "seamless": True,
    "strength": 0.75,
    "resize": "crop",
    "mask_blur": 4,
    "fill": "noise",
    "only_masked": True,
    "padding": 32,
    "invert": True,
    "expand": (64, 0, 64, 8),
    "hires": 1.5,
    "hires_steps": 10,
    "hires_strength": 0.55,
    "hires_upscaler": "latent",
    "loras": (("x", 0.8, 0.8), ("y", 0.5, 1.0)),
    "model": "/models/a, b.safetensors",
    "model_hash": "6ce0161689",
}
EMPTY = {"clip_skip": None, "hires": None, "schedule": None, "negative": None}
SUFFIXES = [".png", ".jpg", ".webp"]


def image():
    return Image.new("RGB", (64, 40), (200, 100, 50))


def png(path, **texts):
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key.replace("_", "-") if key == "sd_metadata" else key, text)
    image().save(path, pnginfo=info)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_setting_comes_back_from_a_file(tmp_path, suffix):
    path = tmp_path / f"fox{suffix}"
    Picture(image(), 7, SETTINGS).save(path, enlarge=2)
    again = Picture.open(path)
    version = f"eyesel {eyesel.__version__}"
    assert (again.seed, again.settings) == (7, SETTINGS | {"version": version})
    assert again.image.size == (128, 80)
    record = read_record(path)
    assert (record.program, record.unknown, record.otherwise) == (version, {}, {})
    Picture(image(), 7, SETTINGS | EMPTY).save(path)
    left = {name: value for name, value in SETTINGS.items() if name not in EMPTY}
    assert Picture.open(path).settings == left | {"version": version}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_settings_from_a_file_are_keywords(tmp_path, suffix):
    path = tmp_path / f"fox{suffix}"
    Picture(image(), 7, SETTINGS).save(path)
    settings = eyesel.settings_from(path)
    assert settings["size"] == (64, 40) and settings["seed"] == 7
    assert settings["loras"] == [("y", 0.5, 1.0)]  # the other one is asked for by the prompt
    assert not settings.keys() & {"width", "height", "version", "model_hash"}
    assert settings.keys() - SETTINGS.keys() == {"size", "seed"}


def entries(data, at):
    """The entries of a big-endian TIFF directory: tag -> (type, value)."""
    (count,) = struct.unpack_from(">H", data, at)
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 7: 1}
    found = {}
    for i in range(count):
        tag, kind, n = struct.unpack_from(">HHI", data, at + 2 + 12 * i)
        place = at + 2 + 12 * i + 8
        size = n * sizes[kind]
        start = struct.unpack_from(">I", data, place)[0] if size > 4 else place
        found[tag] = kind, data[start : start + size]
    assert list(found) == sorted(found)
    return found


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_exif_is_laid_out_as_piexif_does(tmp_path, suffix):
    """A user comment of the type UNDEFINED (7), "UNICODE", a null, big-endian UTF-16: AUTOMATIC1111 reads no other."""
    path = tmp_path / f"fox{suffix}"
    picture = Picture(image(), 7, SETTINGS)
    picture.save(path)
    with Image.open(path) as opened:
        data = opened.info["exif"].removeprefix(b"Exif\0\0")
    assert data[:8] == b"MM\0*\0\0\0\x08"
    first = entries(data, 8)
    (inner,) = struct.unpack(">I", first[0x8769][1])
    kind, comment = entries(data, inner)[0x9286]
    assert kind == 7 and comment == b"UNICODE\0" + picture.parameters.encode("utf-16-be")
    kind, others = first[0x9C9C]
    assert kind == 1 and json.loads(others.decode("utf-16-le").rstrip("\0")).keys() == {"eyesel"}


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize("form", ["BE", "LE", "LE with mark", "UTF-8"])
def test_comments_of_other_programs(tmp_path, suffix, form):
    text = "a fox 狐\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 64x40"
    comment = {
        "BE": b"UNICODE\0" + text.encode("utf-16-be"),
        "LE": b"UNICODE\0" + text.encode("utf-16-le"),
        "LE with mark": b"UNICODE\0" + text.encode("utf-16"),
        "UTF-8": b"ASCII\0\0\0" + text.encode(),
    }[form]
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    image().save(tmp_path / f"fox{suffix}", exif=exif)
    assert read_metadata(tmp_path / f"fox{suffix}") == {"parameters": text}
    record = read_record(tmp_path / f"fox{suffix}")
    assert (record.settings["solver"], record.settings["rng"]) == ("euler_ancestral", "philox")


def test_the_first_form_of_eyesel_is_still_read(tmp_path):
    """Both records as JSON in the user comment; and no version, nor anything about the noise, in the text."""
    old = {"prompt": "a fox", "negative": "", "steps": 2, "solver": "euler", "guidance": 7.5, "rng": "cpu"}
    old |= {"seed": 7, "guidance_interval": [0.28, 5.42], "width": 64, "height": 40, "schedule": None, "model": "tiny"}
    text = "a fox\nSteps: 2, Sampler: euler, CFG scale: 7.5, Guidance interval: 0.28-5.42, Seed: 7, Size: 64x40"
    texts = {"parameters": text, "eyesel": json.dumps(old)}
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + json.dumps(texts).encode("utf-16-be")
    image().save(tmp_path / "fox.jpg", exif=exif)
    save_image(image(), tmp_path / "fox.png", texts)
    for name in ("fox.jpg", "fox.png"):
        record = read_record(tmp_path / name)
        assert record.program == "eyesel" and record.otherwise == {}
        expected = {name: value for name, value in old.items() if value is not None}
        assert record.settings == expected | {"guidance_interval": (0.28, 5.42)}


def test_room_in_a_jpeg(tmp_path):
    long = SETTINGS | {"prompt": "fox " * 5_000}
    with pytest.raises(OutputError, match=r"EXIF of a JPEG has 65,533: write fox.png or fox.webp\.$"):
        Picture(image(), 7, long).save(tmp_path / "fox.jpg")
    assert list(tmp_path.iterdir()) == []
    for suffix in (".png", ".webp"):
        Picture(image(), 7, long).save(tmp_path / f"fox{suffix}")
        assert Picture.open(tmp_path / f"fox{suffix}").settings["prompt"] == long["prompt"]
    Picture(image(), 7, SETTINGS | {"prompt": "fox " * 3_500}).save(tmp_path / "fox.jpg")
    assert Picture.open(tmp_path / "fox.jpg").settings["prompt"] == "fox " * 3_500


# --- two records that disagree


def edited(tmp_path, change):
    """A picture whose text somebody has edited."""
    Picture(image(), 7, SETTINGS | {"prompt": "a fox", "solver": "euler"}).save(tmp_path / "fox.png")
    texts = read_metadata(tmp_path / "fox.png")
    save_image(image(), tmp_path / "fox.png", texts | {"parameters": change(texts["parameters"])})
    return tmp_path / "fox.png"


def test_the_exact_record_wins_and_the_text_is_told(tmp_path):
    path = edited(tmp_path, lambda text: text.replace("Steps: 3", "Steps: 20").replace("Euler", "Euler a"))
    record = read_record(path)
    assert (record.settings["steps"], record.settings["solver"]) == (3, "euler")
    assert record.otherwise == {"steps": 20, "solver": "euler_ancestral"}
    with pytest.warns(UserWarning, match="fox.png was edited; its text says steps: 20, solver: euler_ancestral,"):
        assert settings_from(path)["steps"] == 3


def test_what_was_added_to_the_text_is_not_lost(tmp_path):
    record = read_record(edited(tmp_path, lambda text: f"{text}, Postprocess upscale by: 4"))
    assert (record.unknown, record.otherwise) == ({"Postprocess upscale by": "4"}, {})
    record = read_record(edited(tmp_path, lambda text: text.replace("Steps: 3", "Steps: many")))
    assert record.settings["steps"] == 3 and "many" in record.otherwise["parameters"]
    path = edited(tmp_path, lambda text: "gone")
    assert read_record(path).otherwise == {"prompt": "gone"}


def test_the_text_alone_is_enough(tmp_path):
    Picture(image(), 7, SETTINGS).save(tmp_path / "fox.png")
    png(tmp_path / "fox.png", parameters=read_metadata(tmp_path / "fox.png")["parameters"])
    record = read_record(tmp_path / "fox.png")
    assert record.program == f"eyesel {eyesel.__version__}"
    lost = {"prompt", "negative", "schedule", "loras", "model", "strength", "hires_strength"}
    assert {k: v for k, v in SETTINGS.items() if k not in lost}.items() <= record.settings.items()
    assert record.settings["model"] == "a, b"


def test_settings_of_a_later_version_are_kept(tmp_path):
    path = png(tmp_path / "fox.png", eyesel=json.dumps({"prompt": "a fox", "seed": 7, "glow": [1, {"x": None}]}))
    assert read_record(path).unknown == {"glow": '[1, {"x": null}]'}
    with pytest.warns(UserWarning, match="means nothing here: glow"):
        assert settings_from(path) == {"prompt": "a fox", "seed": 7}


# --- other programs

GRAPH = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 156680208700286,
            "steps": 20,
            "cfg": 8.0,
            "sampler_name": "dpmpp_2m",
            "scheduler": "karras",
            "denoise": 1.0,
            "model": ["10", 0],
            "positive": ["11", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["12", 0]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad", "clip": ["12", 0]}},
    "10": {
        "class_type": "LoraLoader",
        "inputs": {
            "lora_name": "ink",
            "strength_model": 0.8,
            "strength_clip": 0.5,
            "model": ["4", 0],
            "clip": ["4", 1],
        },
    },
    "11": {"class_type": "ConditioningSetArea", "inputs": {"conditioning": ["6", 0], "strength": 1.0}},
    "12": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]}},
}
OF_GRAPH = {
    "prompt": "a fox",
    "negative": "bad",
    "seed": 156680208700286,
    "steps": 20,
    "guidance": 8.0,
    "solver": "dpmpp_2m",
    "schedule": "karras",
    "rng": "cpu",
    "width": 512,
    "height": 768,
    "clip_skip": 2,
    "loras": (("ink", 0.5, 0.8),),
    "model": "sd15.safetensors",
}


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_comfyui(tmp_path, suffix):
    path = tmp_path / f"fox{suffix}"
    if suffix == ".png":
        png(path, prompt=json.dumps(GRAPH), workflow='{"nodes": []}')
    else:
        exif = Image.Exif()
        exif[0x0110], exif[0x010F] = f"prompt:{json.dumps(GRAPH)}", 'workflow:{"nodes": []}'
        image().save(path, exif=exif)
    record = read_record(path)
    assert (record.program, record.settings) == ("ComfyUI", OF_GRAPH)
    assert "ConditioningSetArea" in record.unknown["nodes"]


@pytest.mark.parametrize(
    "texts",
    [
        {"workflow": '{"nodes": [{}, {}]}'},
        {"prompt": '{"1": {"class_type": "SamplerCustom", "inputs": {"x": NaN}}}'},
        {"prompt": '{"1": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "positive": [], "seed": ["9"]}}}'},
        {"invokeai_metadata": "[1]"},
        {"sd_metadata": '{"image": {"prompt": [{"weight": 1}]}}'},
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, texts):
    record = read_record(png(tmp_path / "fox.png", **texts))
    assert record.program in ("ComfyUI", "InvokeAI")
    assert not record.settings.keys() & {"steps", "seed"}


def test_invokeai(tmp_path):
    said = {"app_version": "4.2.0", "generation_mode": "txt2img", "positive_prompt": "a fox", "negative_prompt": ""}
    said |= {"width": 512, "height": 768, "seed": 3293022630, "rand_device": "cpu", "cfg_scale": 7.5, "steps": 35}
    said |= {"scheduler": "dpmpp_2m_k", "clip_skip": 1, "model": {"key": "1", "name": "juggernaut", "base": "sd-1"}}
    record = read_record(png(tmp_path / "new.png", invokeai_metadata=json.dumps(said)))
    expected = {"prompt": "a fox", "negative": "", "width": 512, "height": 768, "seed": 3293022630, "rng": "cpu"}
    expected |= {"guidance": 7.5, "steps": 35, "solver": "dpmpp_2m", "schedule": "karras", "clip_skip": 2}
    assert record.settings == expected | {"model": "juggernaut"}
    assert record.unknown == {"app_version": "4.2.0", "generation_mode": "txt2img"}

    image = {"prompt": [{"prompt": "a dog", "weight": 1.0}], "steps": 50, "cfg_scale": 7.5, "height": 512, "width": 512}
    image |= {"seed": 356, "seamless": False, "sampler": "k_lms", "variations": []}
    old = {
        "model": "stable diffusion",
        "model_weights": "stable-diffusion-1.5",
        "app_version": "v2.2.0",
        "image": image,
    }
    record = read_record(png(tmp_path / "old.png", sd_metadata=json.dumps(old)))
    expected = {"prompt": "a dog", "steps": 50, "guidance": 7.5, "height": 512, "width": 512, "seed": 356}
    assert record.settings == expected | {"solver": "lms", "model": "stable-diffusion-1.5"}


# --- nothing there, and nothing good


@pytest.mark.parametrize("texts", [{}, {"Software": "GIMP"}, {"parameters": "a screenshot"}, {"prompt": "just words"}])
def test_pictures_that_say_nothing(tmp_path, texts):
    with pytest.raises(ImageError, match=r"fox.png does not say how it was painted"):
        read_record(png(tmp_path / "fox.png", **texts))


@pytest.mark.parametrize(
    "record",
    [
        "no JSON",
        "[" * 100_000,
        '{"loras": ' + "[" * 900 + "]" * 900 + "}",
        '{"seed": 1' + "0" * 5000 + "}",
        '{"seed": 1' + "0" * 50 + "}",
        '{"guidance": NaN}',
        '{"guidance": 1e999}',
        '{"guidance": -Infinity}',
        '{"steps": "many"}',
        '{"steps": true}',
        '{"prompt": ["a fox"]}',
        '{"guidance_interval": [1]}',
        '{"expand": [1, 2, 3, -4]}',
        '{"loras": [["x", 1]]}',
        '["prompt"]',
        '"prompt"',
        "12",
    ],
    ids=lambda record: record[:30],
)
def test_hostile_records(tmp_path, record):
    for path in (tmp_path / "fox.png", tmp_path / "fox.webp"):
        save_image(image(), path, {"eyesel": record})
        with pytest.raises(ImageError, match=rf"^{path} does not say clearly how it was painted: ") as error:
            read_record(path)
        message = str(error.value)
        assert len(message) < 400 and "\n" not in message and message.endswith(".")


def test_records_of_megabytes(tmp_path):
    png(tmp_path / "text.png", parameters="a " * 5_000_000)
    png(tmp_path / "own.png", eyesel='{"prompt": "' + "a " * 5_000_000 + '"}')
    for name in ("text.png", "own.png"):
        with pytest.raises(ImageError, match=r"10,000,\d+ characters"):
            read_record(tmp_path / name)
    save_image(image(), tmp_path / "fox.webp", infotext.metadata({"prompt": "fox " * 20_000, "steps": 1, "seed": 1}))
    assert read_record(tmp_path / "fox.webp").settings["prompt"] == "fox " * 20_000


def test_a_picture_without_seed_cannot_be_opened_as_painted(tmp_path):
    path = png(tmp_path / "fox.png", parameters="a fox\nSteps: 20, Sampler: Euler, CFG scale: 7")
    with pytest.raises(ImageError, match="seed"):
        Picture.open(path)
    assert "seed" not in settings_from(path)
