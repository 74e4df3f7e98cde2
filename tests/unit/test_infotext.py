"""AUTOMATIC1111's text: what is written reads back, here and by its own rules; what others write is understood."""

import itertools
import json
import random
import re

import pytest

from eyesel import infotext
from eyesel.diffusion import SCHEDULES, SOLVERS
from eyesel.diffusion.aliases import named_schedule, named_solver
from eyesel.errors import SettingError
from eyesel.infotext import rows

BARE = {
    "prompt": "a large fox",
    "steps": 25,
    "solver": "euler",
    "guidance": 7.5,
    "seed": 7,
    "width": 512,
    "height": 768,
    "rng": "cpu",
    "model": "tiny",
    "version": "eyesel 0.1.0",
}
# For each setting, values that differ from what is taken for granted, with the settings that they need beside them.
OTHERS = {
    "negative": ["red", "red\nblue, (green:1.2)"],
    "steps": [1, 1000],
    "guidance": [1.0, 7.123456789012345, 0.1 + 0.2, 1e-7, 30.0],
    "guidance_rescale": [0.7],
    "guidance_interval": [(0.28, 5.42), (1e-05, 14.6146), (0.0, 1.0)],
    "solver": list(SOLVERS),
    "schedule": [name for name in SCHEDULES if name != "align_your_steps_xl"],
    "eta": [0.0, 0.3, 1.0],
    "rng": ["philox"],
    "seed": [0, 2**32 - 1, 2**64 - 1],
    "width": [8, 8192],
    "clip_skip": [1, 2],
    "emphasis": ["no norm", "ignore", "none"],
    "variation_seed": [0, 2**64 - 1],
    "variation_strength": [0.05, 1.0],
    "seamless": [True],
    "strength": [0.0, 0.75, 1.0],
    "resize": ["crop", "fill"],
    "mask_blur": [0, 4, 12],
    "fill": ["fill", "noise", "nothing"],
    "only_masked": [True],
    "padding": [0, 32],
    "invert": [True],
    "expand": [(64, 0, 64, 0)],
    "hires": [1.5, 2.0],
    "hires_steps": [10],
    "hires_strength": [0.55],
    "hires_upscaler": ["latent", "4x-UltraSharp"],
    "model": ["owner/name", "owner/name@v1", "a, b: c", '"quoted"', "[x]", " spaces ", "C:\\models\\sd, 1"],
    "model_hash": ["6ce0161689"],
    "content": ["photo.jpg", "a, b: c.png"],
    "styles": [("wave.png",), ('a, "b".png', "", "ü.jpg")],
    "style_weights": [(1.0,), (0.25, 0.75)],
    "style_strength": [0.0, 0.5],
    "style_gamma": [0.75],
    "style_temperature": [1.5],
    "style_layers": [(1,), (6, 7, 8)],
    "style_color": [0.0, 0.3],
    "style_match": [0.5],
    "faithful": [True],
}
BESIDE = {
    **{name: {"strength": 0.75} for name in ("resize", "mask_blur", "fill", "only_masked", "invert")},
    "padding": {"strength": 0.75, "only_masked": True},
    **{name: {"hires": 2.0} for name in ("hires_steps", "hires_strength", "hires_upscaler")},
}
EACH = [BARE | BESIDE.get(name, {}) | {name: value} for name, values in OTHERS.items() for value in values]


@pytest.mark.parametrize(
    "settings", EACH, ids=lambda s: " ".join(f"{k}={v}" for k, v in (s.items() - BARE.items()) or s.items())
)
def test_each_setting_comes_back_from_the_text_alone(settings):
    assert infotext.parse(infotext.format(settings)) == settings


def test_the_table_covers_every_setting():
    unwritten = {"loras"}  # which stand in the prompt
    unwritten |= {"embeddings", "vae", "variant", "ema", "prediction_type", "zero_terminal_snr"}
    unwritten |= {"adapter", "adapter_images", "adapter_scale", "image_encoder"}  # for which others have no words
    whole = {"prompt", "negative", "width", "height"}
    known = set(rows.KNOWN)
    assert known - unwritten - whole == {row.setting for row in rows.ROWS} - {"size"}
    assert known - unwritten - {"prompt", "height", "version"} == set(OTHERS)


def test_the_order_is_that_of_automatic1111():
    settings = BARE | {"negative": "red", "schedule": "karras", "clip_skip": 2, "variation_seed": 3, "model_hash": "ab"}
    settings |= {"variation_strength": 0.1, "seamless": True, "hires": 2.0, "hires_strength": 0.5, "solver": "dpmpp_2m"}
    assert infotext.format(settings) == (
        "a large fox\nNegative prompt: red\nSteps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, "
        "Seed: 7, Size: 512x768, Model hash: ab, Model: tiny, Variation seed: 3, Variation seed strength: 0.1, "
        "Denoising strength: 0.5, Clip skip: 2, RNG: CPU, Tiling: True, Hires upscale: 2, Version: eyesel 0.1.0"
    )


def test_what_goes_without_saying_is_not_said():
    nothing = {"negative": "", "guidance_rescale": 0.0, "guidance_interval": None, "schedule": None, "eta": None}
    nothing |= {"emphasis": "original", "variation_seed": None, "variation_strength": 0.0, "seamless": False}
    nothing |= {"strength": None, "resize": "stretch", "mask_blur": 4, "fill": "original", "only_masked": False}
    nothing |= {
        "padding": 32,
        "invert": False,
        "hires": None,
        "hires_steps": 5,
        "hires_upscaler": "latent",
        "loras": [],
    }
    assert infotext.format(BARE | nothing) == infotext.format(BARE)
    assert infotext.format({k: v for k, v in BARE.items() if k != "seed"}, 7) == infotext.format(BARE)


def test_names_of_automatic1111_lead_back():
    for solver in SOLVERS:
        assert named_solver(rows.SOLVERS.write(solver)) == (solver, None)
    for schedule in set(SCHEDULES) - {"align_your_steps_xl"}:
        assert named_schedule(rows.SCHEDULES.write(schedule)) == schedule
    assert rows.SCHEDULES.write("align_your_steps_xl") == "Align Your Steps"  # for it, the model tells which is meant


def test_checkpoints_are_called_by_their_file_names():
    for name in ("/home/fox/models/sd15.safetensors", "sd15.ckpt", "C:\\models\\sd15.safetensors"):
        assert ", Model: sd15, " in infotext.format(BARE | {"model": name})
    assert ", Model: models/folder.v2, " in infotext.format(BARE | {"model": "models/folder.v2"})


def test_loras_stand_in_the_prompt():
    loras = [["a", 0.8, 0.8], ["b", 0.5, 1.0], ["c", 1, 1]]
    text = infotext.format(BARE | {"prompt": "fox <lora:c:1> and <lora:a:0.8>", "loras": loras})
    assert text.startswith("fox <lora:c:1> and <lora:a:0.8> <lora:b:0.5:1>\nSteps")


# --- the reader of AUTOMATIC1111


def as_automatic1111_reads(text):
    """`parse_generation_parameters`, of before 1.5 and of 1.10, written anew: both have to understand what we write."""
    entry = r'\s*([\w ]+):\s*("(?:\\|\"|[^\"])+"|[^,]*)(?:,|$)'
    newer = r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)'
    *lines, last = text.strip().split("\n")
    assert re.match(rf"^(?:{entry}){{3,}}$", last), "the old reader takes the last line for a part of the prompt"
    assert len(re.findall(newer, last)) >= 3
    said = {"Prompt": [], "Negative prompt": []}
    part = "Prompt"
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            part, line = "Negative prompt", line[16:].strip()
        said[part].append(line)
    said = {name: "\n".join(lines) for name, lines in said.items()}
    for name, value in re.findall(newer, last):
        said[name] = json.loads(value) if value[:1] == value[-1:] == '"' else value
    return said


PLAIN = [
    "a fox",
    "quotes \"here\", and 'there'",
    "commas, colons: (red:1.3), [fox:owl:0.4], {a|b}, back\\slash \\(plain\\)",
    "several\nlines\n\nand an empty one",
    "ünïcode 狐 🦊 👩‍🎨 \u202eright to left",
    "Steps: 3",
    "fox\nSteps: 3, Sampler: Euler, CFG scale: 2, Seed: 1\nowl",
    "Model: x, Seed: 5",
    "a fox, Negative prompt: in the middle of a line",
    "<lora:x:0.8> fox",
    '{"json": [1, 2]}',
    "x" * 5000,
]
SPACED = ["  two spaces before and behind  ", "trailing\n", "\nleading", "\ttab", "hard\u00a0space", "null \0", "a\rb"]
NASTY = [*",:\"'\\()[]{}\n \0🦊狐", "\u202e", "\\n", '", ', "fox", "1.2", "<lora:x:1>"]
NASTY += ["Steps: 3, ", "Sampler: Euler a, ", "Seed: 5, ", " Negative prompt: ", "Size: 8x8"]


@pytest.mark.parametrize(("prompt", "negative"), itertools.product(PLAIN, [None, *PLAIN[1:6]]))
def test_prompts_come_back_here_and_there(prompt, negative):
    settings = BARE | {"prompt": prompt} | ({} if negative is None else {"negative": negative})
    text = infotext.format(settings)
    assert infotext.parse(text) == settings
    theirs = as_automatic1111_reads(text)
    assert (theirs["Prompt"], theirs["Negative prompt"]) == (prompt, negative or "")
    assert (theirs["Steps"], theirs["Sampler"], theirs["Size"]) == ("25", "Euler", "512x768")


@pytest.mark.parametrize("prompt", SPACED)
def test_spaces_are_kept(prompt):
    settings = BARE | {"prompt": prompt, "negative": prompt}
    assert infotext.parse(infotext.format(settings)) == settings


@pytest.mark.parametrize("settings", EACH[:: len(EACH) // 40])
def test_automatic1111_reads_every_entry(settings):
    text = infotext.format(settings)
    theirs = as_automatic1111_reads(text)
    for row in rows.ROWS:
        if row.name in theirs and settings.get(row.setting) is not None:
            assert row.write(settings[row.setting]) == theirs[row.name]


def test_prompts_of_every_kind_of_character():
    draw = random.Random(0)
    for _ in range(500):
        prompt, negative = ("".join(draw.choices(NASTY, k=draw.randint(1, 30))) for _ in range(2))
        if any(line.lstrip().startswith("Negative prompt:") for line in prompt.split("\n")):
            continue
        settings = BARE | {"prompt": prompt, "negative": negative, "model": negative.strip(" ") or "x"}
        text = infotext.format(settings)
        assert infotext.parse(text) == settings
        assert as_automatic1111_reads(text)["Seed"] == "7"


def test_the_format_cannot_tell_a_prompt_with_a_line_of_its_own():
    """Nothing escapes it; AUTOMATIC1111 reads the same."""
    text = infotext.format(BARE | {"prompt": "fox\nNegative prompt: owl\nred"})
    assert infotext.parse(text)["prompt"] == as_automatic1111_reads(text)["Prompt"] == "fox"
    assert infotext.parse(text)["negative"] == as_automatic1111_reads(text)["Negative prompt"] == "owl\nred"
    text = infotext.format(BARE | {"negative": "red\nNegative prompt: owl"})
    assert infotext.parse(text)["negative"] == "red\nNegative prompt: owl"


# --- what other programs write

OLD_A1111 = """\
girl with an artist's beret, determined, ((eyeshadow)), (coquettish:1.2), intricate
by Alphonse Mucha
Negative prompt: ugly, fat, (((deformed))), [blurry], bad anatomy
Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 965400086, Size: 512x512, Model hash: 45dee52b"""
KARRAS_A1111 = """\
masterpiece, <lora:add_detail:0.6>, a castle
Negative prompt: EasyNegative
Steps: 30, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 1234567, Size: 512x768, Model hash: 6ce0161689, \
Model: v1-5-pruned-emaonly, VAE hash: 735e4c3a44, VAE: vae-ft-mse-840000-ema-pruned.safetensors, \
Denoising strength: 0.4, Clip skip: 2, ENSD: 31337, Hires upscale: 1.5, Hires steps: 15, Hires upscaler: Latent, \
Lora hashes: "add_detail: 7c6bad76eb54", TI hashes: "EasyNegative: c74b4e810b03", Version: v1.6.0"""
NEW_A1111 = """\
a castle
Steps: 30, Sampler: DPM++ 2M, Schedule type: Automatic, CFG scale: 7, Seed: 1, Size: 768x512, Model: sdxl, \
Variation seed: 5, Variation seed strength: 0.2, Mask blur: 4, Inpaint area: Only masked, Masked area padding: 32, \
Denoising strength: 0.75, Masked content: latent noise, Mask mode: Inpaint not masked, RNG: NV, Tiling: True, \
Emphasis: No norm, Eta DDIM: 0.3, Version: v1.10.1"""
FORGE = """\
a photo, "quoted"
Steps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, Seed: 42, Size: 896x1152, \
Model hash: c161224931, Model: flux1-dev-bnb-nf4, Beta schedule alpha: 0.6, \
ADetailer prompt: "face, \\"smiling\\": yes\\nsecond", Version: f2.0.1v1.10.1-previous-501-g668e87f9, Module 1: ae"""
SD_CPP = """\
a lovely cat
Negative prompt: bad
Steps: 20, CFG scale: 7.000000, Guidance: 3.500000, Eta: 0.000000, Seed: 42, Size: 512x512, \
Model: sd-v1-4.ckpt, RNG: cuda, Sampler: euler_a karras, Version: stable-diffusion.cpp"""
NEW_SD_CPP = """\
a lovely cat
Steps: 20, CFG scale: 7.000000, SLG scale: 7.000000, Skip layers: [7, 8, 9, ], Guidance: 3.500000, Eta: 0.000000, \
Seed: 42, Size: 512x512, Model: sd.safetensors, RNG: cpu, Sampler: dpm++2m discrete, Version: stable-diffusion.cpp"""
CIVITAI = """\
yin yang, harmony
Negative prompt: greyscale
Steps: 22, Sampler: DPM++ 2M Karras, CFG scale: 3.8, Seed: 894409639, Size: 832x1216, Clip skip: 2, \
Created Date: 2024-09-23T06:17:42.9952795Z, Civitai resources: \
[{"type":"checkpoint","modelVersionId":128078,"modelName":"SD XL","modelVersionName":"v1.0 VAE fix"},\
{"type":"lora","weight":0.85,"modelVersionId":210432,"modelName":"Double, Exposure: x"}], \
Civitai metadata: {"remixOfId":1}"""
COMFY_SAVER = """\
a fox
Negative prompt: owl
Steps: 20, Sampler: dpmpp_2m_sde, Scheduler: karras, CFG scale: 7, Seed: 5, Size: 64x64, Shift: 3, Version: ComfyUI"""
DYNAMIC = """\
a red fox
Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 512x512
Template: a {red|blue} fox
Negative Template: x, y"""

GPU = {"rng": "philox"}
SAMPLES = {
    "old A1111": (
        OLD_A1111,
        {"steps": 20, "solver": "euler_ancestral", "schedule": "normal", "guidance": 7.0, "seed": 965400086}
        | {"width": 512, "height": 512, "model_hash": "45dee52b", **GPU},
        {},
    ),
    "A1111 of Karras": (
        KARRAS_A1111,
        {"steps": 30, "solver": "dpmpp_2m", "schedule": "karras", "guidance": 6.5, "seed": 1234567, "width": 512}
        | {"height": 768, "model_hash": "6ce0161689", "model": "v1-5-pruned-emaonly", "hires": 1.5, "hires_steps": 15}
        | {"hires_strength": 0.4, "hires_upscaler": "latent", "clip_skip": 2, "version": "v1.6.0", **GPU},
        {
            "VAE hash": "735e4c3a44",
            "VAE": "vae-ft-mse-840000-ema-pruned.safetensors",
            "ENSD": "31337",
            "Lora hashes": "add_detail: 7c6bad76eb54",
            "TI hashes": "EasyNegative: c74b4e810b03",
        },
    ),
    "new A1111": (
        NEW_A1111,
        {"steps": 30, "solver": "dpmpp_2m", "schedule": "karras", "guidance": 7.0, "seed": 1, "width": 768}
        | {"height": 512, "model": "sdxl", "variation_seed": 5, "variation_strength": 0.2, "mask_blur": 4}
        | {"only_masked": True, "padding": 32, "strength": 0.75, "fill": "noise", "invert": True, "seamless": True}
        | {"emphasis": "no norm", "eta": 0.3, "version": "v1.10.1", **GPU},
        {},
    ),
    "Forge": (
        FORGE,
        {"steps": 20, "solver": "euler", "schedule": "simple", "guidance": 1.0, "seed": 42, "width": 896}
        | {"height": 1152, "model_hash": "c161224931", "model": "flux1-dev-bnb-nf4"}
        | {"version": "f2.0.1v1.10.1-previous-501-g668e87f9", **GPU},
        {
            "Distilled CFG Scale": "3.5",
            "Beta schedule alpha": "0.6",
            "ADetailer prompt": 'face, "smiling": yes\nsecond',
            "Module 1": "ae",
        },
    ),
    "sd.cpp": (
        SD_CPP,
        {"steps": 20, "solver": "euler_ancestral", "schedule": "karras", "guidance": 7.0, "seed": 42, "width": 512}
        | {"height": 512, "model": "sd-v1-4.ckpt", "version": "stable-diffusion.cpp", **GPU},
        {"Guidance": "3.500000"},
    ),
    "new sd.cpp": (
        NEW_SD_CPP,
        {"steps": 20, "solver": "dpmpp_2m", "schedule": "normal", "guidance": 7.0, "seed": 42, "width": 512}
        | {"height": 512, "model": "sd.safetensors", "version": "stable-diffusion.cpp", "rng": "cpu"},
        {"SLG scale": "7.000000", "Skip layers": "[7, 8, 9, ]", "Guidance": "3.500000"},
    ),
    "Civitai": (
        CIVITAI,
        {"steps": 22, "solver": "dpmpp_2m", "schedule": "karras", "guidance": 3.8, "seed": 894409639, "width": 832}
        | {"height": 1216, "clip_skip": 2, **GPU},
        {
            "Created Date": "2024-09-23T06:17:42.9952795Z",
            "Civitai resources": CIVITAI[CIVITAI.index("[{") : CIVITAI.index(", Civitai metadata")],
            "Civitai metadata": '{"remixOfId":1}',
        },
    ),
    "a node of ComfyUI": (
        COMFY_SAVER,
        {"steps": 20, "solver": "dpmpp_2m_sde", "schedule": "karras", "guidance": 7.0, "seed": 5, "width": 64}
        | {"height": 64, "rng": "cpu", "version": "ComfyUI"},
        {"Shift": "3"},
    ),
    "dynamic prompts": (
        DYNAMIC,
        {"steps": 20, "solver": "euler", "schedule": "normal", "guidance": 7.0, "seed": 5, "width": 512}
        | {"height": 512, **GPU},
        {"Template": "a {red|blue} fox", "Negative Template": "x, y"},
    ),
}


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_real_texts(sample, line_end):
    text, expected, unknown = SAMPLES[sample]
    settings = infotext.parse(text.replace("\n", line_end))
    assert settings.pop("unknown", {}) == unknown
    prompt, negative = settings.pop("prompt"), settings.pop("negative", None)
    assert settings == expected
    before = text[: text.index("\nSteps: ")]
    assert before == (prompt if negative is None else f"{prompt}\nNegative prompt: {negative}")


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        ("Euler", ("euler", "normal")),
        ("DPM++ 2M", ("dpmpp_2m", "normal")),
        ("DPM++ 2M, Schedule type: Automatic", ("dpmpp_2m", "karras")),
        ("DPM++ 2M SDE, Schedule type: Automatic", ("dpmpp_2m_sde", "exponential")),
        ("Euler a, Schedule type: Automatic", ("euler_ancestral", "normal")),
        ("DPM++ 2M Karras, Schedule type: Automatic", ("dpmpp_2m", "karras")),
        ("DPM++ SDE, Schedule type: SGM Uniform", ("dpmpp_sde", "sgm_uniform")),
        ("DDIM", ("ddim", None)),
        ("PLMS", ("pndm", None)),
        ("EulerAncestralDiscreteScheduler, Schedule type: beta", ("euler_ancestral", "beta")),
        ("k_dpmpp_2m_ka", ("dpmpp_2m", "karras")),
        ("DPM++ 3M SDE, Schedule type: KL Optimal", ("DPM++ 3M SDE", "KL Optimal")),  # refused where they are used
    ],
)
def test_samplers_of_other_programs(sampler, expected):
    settings = infotext.parse(f"a fox\nSteps: 20, Sampler: {sampler}, CFG scale: 7, Seed: 5")
    assert (settings["solver"], settings.get("schedule")) == expected
    ours = infotext.parse("a fox\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 5, Version: eyesel 0.1.0")
    assert "schedule" not in ours and "rng" not in ours


def test_a_text_without_entries_is_a_prompt():
    assert infotext.parse("Screenshot") == {"prompt": "Screenshot"}
    assert infotext.parse("fox\nSteps: 20, Seed: 7") == {"prompt": "fox\nSteps: 20, Seed: 7"}  # two are too few
    assert infotext.parse("") == {"prompt": ""}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("Steps: many", ["Steps", "many", "whole number"]),
        ("Steps: 0", ["steps", "0"]),
        ("Steps: " + "9" * 5000, ["Steps", "whole number"]),
        ("Steps: 1e3", ["Steps", "1e3"]),
        ("CFG scale: nan", ["CFG scale", "nan", "a number"]),
        ("CFG scale: 1e999", ["CFG scale", "1e999"]),
        ("Seed: -1", ["seed", "-1"]),
        ("Seed: 18446744073709551616", ["seed", "18446744073709551616"]),
        ("Size: 512", ["Size", "512", "2 numbers"]),
        ("Size: 512x0", ["height", "0"]),
        ("Tiling: perhaps", ["seamless", "perhaps"]),
        ("Guidance interval: 5", ["Guidance interval", "2 numbers"]),
        ("Clip skip: two", ["Clip skip", "two"]),
    ],
)
def test_values_that_make_no_sense(entry, words):
    with pytest.raises(SettingError) as error:
        infotext.parse(f"a fox\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 5, {entry}, Version: v1.6.0")
    assert all(word in str(error.value) for word in words)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "line",
    [
        "a " * 400_000,
        "a" * 900_000,
        "a:" * 400_000,
        'a:"' * 300_000,
        "a:[" * 300_000,
        "a: " + "[" * 900_000,
        'a: "' + "\\" * 900_000,
        "a:{" + '"b":[1,' * 100_000,
        "a:[" + "1," * 400_000,
        ", " * 400_000,
        ("a" + " " * 999 + ",") * 900,
        "\n" * 900_000,
        "Steps: 1, \n" * 80_000,
        "Negative prompt:\n" * 50_000,
    ],
    ids=lambda line: line[:8].strip(),
)
def test_hostile_texts_take_no_time(line):
    """All of these are a matter of a second; a reader that goes over them again and again would never end."""
    infotext.parse("a fox\nSteps: 20, Sampler: Euler, CFG scale: 7, " + line)


def test_texts_of_megabytes_are_refused():
    with pytest.raises(SettingError, match="10,000,000"):
        infotext.parse("a" * 10_000_000)


def test_nothing_moves_the_cursor():
    assert (
        infotext.printable("a\x1b[31m\tfox\r\n狐 👩‍🎨\u202e\ud800\u3000")
        == "a\\x1b[31m\\tfox\\r\n狐 👩‍🎨\\u202e\\ud800\u3000"
    )
