"""Write what the runs left, or a part of it, into the package, in the public formats; and a few example pictures.

The painter's UNet and autoencoder are stored in float16. What transformers loads, the classifier and the text encoder,
stays in float32, because transformers computes in whatever is stored: a float16 text encoder would not fit diffusers'
float32 UNet.
"""

import argparse
import json
import random
import shutil
from pathlib import Path

import tokenizer
import world
from diffusers import StableDiffusionPipeline
from PIL.PngImagePlugin import PngInfo
from train_classifier import processor
from transformers import ViTForImageClassification

ASSETS = Path(__file__).parents[2] / "src/eyesel/assets/tiny"
GENERATION = {"guidance_scale": 3.0, "num_inference_steps": 25}  # what evaluate.py found best
PARTS = ["examples", "classifier", "painter"]
EXAMPLES = ("fox", "owl", "rocket")


def publish_classifier(run: Path, folder: Path) -> None:
    ViTForImageClassification.from_pretrained(run).save_pretrained(folder)
    processor().save_pretrained(folder)


def publish_painter(run: Path, folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(run)
    pipeline.unet.half()
    pipeline.vae.half()
    pipeline.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(GENERATION, indent=2) + "\n")
    shutil.rmtree(folder / "tokenizer")  # transformers 5 writes a tokenizer.json alone, which not every program reads
    tokenizer.save(folder / "tokenizer")
    for path in (*folder.glob("*.json"), *folder.glob("*/config.json")):
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None):  # where the weights lay on the machine that trained them
            path.write_text(json.dumps(config, indent=2) + "\n")


def publish_examples(folder: Path) -> None:
    """One 256-pixel composition each, of a triple that no model was trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    for thing in EXAMPLES:
        triple = next(triple for triple in world.split()[1] if triple.object == thing)
        info = PngInfo()
        info.add_text("Description", triple.caption)
        world.compose(triple, random.Random(triple.caption)).save(folder / f"{thing}.png", pnginfo=info, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--classifier", type=Path, default=Path(".runs/classifier"))
    parser.add_argument("--painter", type=Path, default=Path(".runs/painter"))
    parser.add_argument("--output", type=Path, default=ASSETS)
    options = parser.parse_args()
    if "examples" in options.parts:
        publish_examples(options.output / "examples")
    if "classifier" in options.parts:
        publish_classifier(options.classifier, options.output / "classifier")
    if "painter" in options.parts:
        publish_painter(options.painter, options.output / "painter")
    for path in sorted(options.output.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size:>10,}  {path.relative_to(options.output)}")


if __name__ == "__main__":
    main()
