"""`handler.py` and `requirements.txt` beside weights: a folder that Hugging Face Inference Endpoints deploy as it is.

(huggingface.co/docs/inference-endpoints/guides/custom_handler)
"""

import shutil
from importlib.metadata import requires
from pathlib import Path

from eyesel import __version__
from eyesel.errors import OutputError, SettingError
from eyesel.images.files import written_whole
from eyesel.weights.checkpoint import open_painter
from eyesel.weights.inside import model_inside
from eyesel.weights.vit import open_vit_files

HANDLER = '''\
"""What Hugging Face Inference Endpoints call; written by `eyesel models handler`.

    answer = EndpointHandler(folder)({"inputs": ..., "parameters": {...}})
"""

from eyesel.endpoint import EndpointHandler

__all__ = ["EndpointHandler"]
'''


def write_handler(
    folder: str | Path, *, package: str | None = None, bundle: bool = False, force: bool = False
) -> list[Path]:
    """Make a folder with a ViT or a Stable Diffusion checkpoint deployable; gives what was written.

    `package` is what pip is to install as eyesel, such as "git+https://..." or the address of a wheel; the default is
    this version from the package index. `bundle` puts a copy of eyesel into the folder instead, without the models that
    come with it. What is there already is replaced only by `force`. Raises `OutputError`, or `CheckpointError` for
    weights that eyesel does not open.
    """
    folder = Path(folder).expanduser()
    if bundle and package is not None:
        raise SettingError(f"With bundle eyesel comes from the folder, and not from {package}: leave out one of them.")
    if package is not None and not package.strip().isprintable():
        raise SettingError(f"package is {package!r}; it must be one line of a requirements file.")
    kind, model = model_inside(folder)
    open_painter(model) if kind == "painter" else open_vit_files(model)
    needed = _dependencies() if bundle else [package or f"eyesel=={__version__}"]
    texts = {folder / "handler.py": HANDLER, folder / "requirements.txt": "\n".join(needed) + "\n"}
    written = [*texts, *([folder / "eyesel"] if bundle else [])]
    there = [path for path in written if path.exists()]
    if there and not force:
        raise OutputError(f"{there[0]} exists already: look at it, or allow it to be replaced (--force).")
    if bundle:
        _copy_package(folder / "eyesel")
    for path, text in texts.items():
        with written_whole(path) as trial:
            trial.write_text(text, encoding="utf-8")
    return written


def _dependencies() -> list[str]:
    return [line for line in requires("eyesel") or [] if "extra ==" not in line]


def _copy_package(target: Path) -> None:
    package = Path(__file__).parent
    if target.exists():
        if not (target / "endpoint.py").is_file():
            raise OutputError(f"{target} is there, and no copy of eyesel: it was not replaced; rename it.")
        shutil.rmtree(target)
    shutil.copytree(package, target, ignore=shutil.ignore_patterns("__pycache__", "tiny"))
