"""The house rule: imports go downwards only, and `import eyesel` costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import eyesel

PACKAGE = Path(eyesel.__file__).parent

# Who may import whom inside the package; `errors` is open to all, and a room may import itself.
MODELS = {"weights", "models", "nn"}
ALLOWED = {
    "errors": set(),
    "fields": set(),
    "nn": set(),
    "diffusion": {"fields"},
    "taps": {"nn"},
    "models": {"fields", "nn"},
    "images": set(),
    "text": set(),
    "weights": {"fields", "images", "models", "nn", "text"},
    "attention": {"taps", "images"},
    "explain": {"models", "taps"},
    "stream": {"images"},
    "eye": {"fields", "images", "models", "stream"},
    "classifier": {*MODELS, "attention", "explain", "eye", "fields", "images", "stream", "taps"},
    "parquet": set(),
    "embeddings": {"images", "parquet", "weights"},
    "predictions": {"images", "parquet"},
    "journal": {"images"},
    "contact": {"images"},
    "infotext": {"fields", "diffusion", "settings"},
    "picture": {"images", "infotext", "__init__"},
    "settings": {"fields"},
    "conditioning": {"models", "nn", "text"},
    "script": {"conditioning", "diffusion", "models", "text"},
    "passes": {"conditioning", "diffusion", "models", "script", "settings"},
    "canvas": {"images", "settings"},
    "stylize": {
        "canvas",
        "conditioning",
        "diffusion",
        "fields",
        "images",
        "models",
        "nn",
        "script",
        "settings",
        "taps",
    },
    "easel": {"canvas", "conditioning", "fields", "images", "models", "nn", "text", "weights"},
    "run": {"canvas", "conditioning", "diffusion", "easel", "images", "nn", "passes", "picture", "settings"},
    "adaptable": {"easel", "models", "text", "weights"},
    "restyle": {"easel", "nn", "picture", "run", "stylize"},
    "stable_diffusion": {
        *("adaptable", "fields", "nn", "picture", "restyle", "run", "settings", "stylize", "taps", "weights"),
    },
    "search": {"classifier", "images", "taps", "weights"},
    "scale": {"serve"},
    "endpoint": {"classifier", "fields", "images", "settings", "stable_diffusion", "weights"},
    "handler": {"images", "weights", "__init__"},
    "compare": {"classifier", "images", "stable_diffusion", "weights"},
    "serve": {
        "attention",
        "classifier",
        "diffusion",
        "images",
        "infotext",
        "models",
        "picture",
        "run",
        "settings",
        "stable_diffusion",
        "stylize",
        "text",
        "weights",
        "web",
        "__init__",
    },
    "web": {
        "classifier",
        "compare",
        "diffusion",
        "explain",
        "images",
        "infotext",
        "picture",
        "search",
        "serve",
        "settings",
        "weights",
    },
    "train": {
        *MODELS,
        "__init__",
        "classifier",
        "contact",
        "diffusion",
        "fields",
        "images",
        "stable_diffusion",
        "stream",
        "stylize",
        "text",
    },
    "cli": {
        "attention",
        "classifier",
        "compare",
        "contact",
        "embeddings",
        "handler",
        "images",
        "infotext",
        "journal",
        "picture",
        "predictions",
        "run",
        "search",
        "scale",
        "serve",
        "settings",
        "stable_diffusion",
        "stream",
        "stylize",
        "train",
        "weights",
        "__init__",
    },
    "__main__": {"cli"},
    "__init__": {"attention", "classifier", "stable_diffusion", "images", "picture"},
}

# Third-party packages of the core, by room; the standard library is free.
THIRD_PARTY = {
    "errors": set(),
    "fields": set(),
    "nn": {"torch"},
    "diffusion": {"torch"},
    "taps": {"torch", "numpy", "PIL"},
    "models": {"torch"},
    "images": {"torch", "numpy", "PIL"},
    "text": {"tokenizers"},
    "settings": set(),
    "conditioning": {"torch"},
    "script": {"torch"},
    "passes": {"torch"},
    "canvas": {"numpy", "PIL"},
    "stylize": {"torch", "numpy", "PIL", "safetensors"},
    "weights": {"torch", "numpy", "safetensors", "huggingface_hub"},
    "attention": {"torch", "numpy", "PIL"},
    "explain": {"torch"},
    "stream": {"torch", "PIL"},
    "eye": {"torch", "numpy", "PIL"},
    "classifier": {"torch", "numpy"},
    "infotext": set(),
    "parquet": {"pyarrow"},
    "embeddings": {"numpy", "pyarrow", "torch"},
    "predictions": {"pyarrow"},
    "journal": {"numpy"},
    "contact": {"PIL"},
    "picture": {"torch", "PIL"},
    "easel": {"torch", "PIL"},
    "run": {"torch", "numpy"},
    "adaptable": set(),
    "restyle": {"torch"},
    "stable_diffusion": {"torch"},
    "scale": {"fastapi", "ray", "starlette"},
    "endpoint": {"PIL"},
    "handler": set(),
    "search": {"numpy", "PIL", "lancedb", "pyarrow", "sklearn"},
    "compare": {"numpy", "PIL", "safetensors", "torch"},
    "train": {
        *("torch", "numpy", "PIL", "safetensors", "huggingface_hub", "rich"),
        *("transformers", "accelerate", "datasets", "peft", "matplotlib"),
    },
    "serve": {
        *("torch", "numpy", "PIL", "fastapi", "fastapi_offline", "pydantic", "starlette", "uvicorn"),
        "prometheus_client",
    },
    "web": {"PIL", "fastapi", "gradio", "starlette"},
    "cli": {"typer", "rich", "numpy", "PIL"},
    "__main__": set(),
    "__init__": set(),
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            yield node.module


def test_arrows_point_downwards():
    seen = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        here = room(path)
        seen.add(here)
        assert here in ALLOWED, f"{path.name}: say in ALLOWED what {here} may import"
        for name in imported(path):
            top, *rest = name.split(".")
            if top == "eyesel":
                target = rest[0] if rest else "__init__"
                assert target in {here, "errors", *ALLOWED[here]}, f"{path} may not import {name}"
            elif top not in sys.stdlib_module_names:
                assert top in THIRD_PARTY[here], f"{path} may not import {name}"
    assert seen == set(ALLOWED), "a room of ALLOWED is gone"


def test_import_and_help_do_not_load_torch():
    code = (
        "import sys, eyesel; eyesel.EyeselError; import eyesel.cli; heavy = {'torch', 'numpy', 'PIL', 'rich'} & "
        "set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_exist():
    for name in eyesel.__all__:
        assert getattr(eyesel, name).__name__ == name
