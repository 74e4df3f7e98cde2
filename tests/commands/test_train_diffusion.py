"""`eyesel train diffusion ...`"""

import json
from pathlib import Path

import pytest
from PIL import Image

from command_line import refused

SHEET = Path(__file__).parents[1] / "data" / "compositions.png"
QUICK = ("--max-steps", 2, "--use-cpu", "--per-device-train-batch-size", 2)


@pytest.fixture
def photos(tmp_path):
    """Four pictures in two class folders, of which kohya's has repeats."""
    sheet = Image.open(SHEET).convert("RGB")
    for i, name in enumerate(("3_red fox", "owl")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for shift in range(2):
            sheet.crop((32 * i, shift, 32 * i + 32, 32 + shift)).save(tmp_path / "photos" / name / f"{shift}.png")
    return tmp_path / "photos"


def test_from_a_folder_to_a_lora(run, photos):
    prompt = ("--validation-prompt", "a fox", "--validation-steps", 1)
    code, out, err = run("train", "diffusion", photos, "-o", "mine", "--rank", 2, *prompt, *QUICK)
    assert code == 0, err
    assert out.startswith("mine: lora, a mean loss of ")
    for name in ("pytorch_lora_weights.safetensors", "mine.safetensors", "samples.png", "curves.png", "README.md"):
        assert Path("mine", name).is_file(), name
    card = Path("mine/README.md").read_text()
    assert "library_name: diffusers" in card and "| rank | 2 |" in card and '.with_loras(["mine"])' in card
    code, _, err = run("generate", "a fox", "--lora", "mine/mine.safetensors", "--steps", 2, "-o", "fox.png")
    assert code == 0, err
    code, out, _ = run("train", "diffusion", photos, "-o", "mine", "--rank", 2, *prompt, *QUICK, "--resume")
    assert (code, out) == (0, "mine: the run is finished already\n")
    code, out, _ = run("train", "diffusion", photos, "-o", "mine", "--rank", 2, *QUICK, "--force", "--json")
    assert code == 0 and json.loads(out)["train_loss"] > 0


def test_what_is_refused(run, photos, tmp_path):
    def trained(*options):
        return run("train", "diffusion", photos, "-o", "x", *options)

    refused(trained("--method", "hyper"), "method is 'hyper'")
    refused(trained("--learning-rat", "1"), "learning_rate")
    refused(trained("--method", "full", "--rank", 8), "rank does nothing with the method full")
    refused(trained("--method", "textual-inversion", "--placeholder", "<x>"), "initializer")
    refused(trained("--resolution", 30), "multiple of 8")
    refused(trained("--base", "nobody"), "there is no model 'nobody'")
    refused(trained(*QUICK, "--resume"), "no run to go on with")
    refused(run("train", "diffusion", photos, "-o", photos, *QUICK), "holds no run of eyesel")
    refused(run("train", "diffusion", "nothing", "-o", "x"), "nothing is no folder")
    (photos / "4.png").write_bytes((photos / "owl" / "0.png").read_bytes())
    refused(trained(*QUICK, "--strict"), "1 pictures in", "have no caption (4.png)", "or one instance_prompt for all")
    (photos / "owl" / "9.png").write_bytes(b"nothing")
    refused(trained(*QUICK, "--strict", "--instance-prompt", "an owl"), "9.png")
    assert not Path("x").exists()
