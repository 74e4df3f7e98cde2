"""Fine-tuning of both halves on Hugging Face's Trainer: one command from a folder of pictures to a model.

What the halves share is here: arguments, the output folder and its checkpoints, the monitor, the data, the card. None
of it is imported by `import eyesel`.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from eyesel.errors import SettingError

if TYPE_CHECKING:
    from eyesel.train.classifier import fit_classifier as fit_classifier
    from eyesel.train.diffusion.fit import fit_diffusion as fit_diffusion

# Loaded on first use: they wait for transformers.
_HOME = {"fit_classifier": "classifier", "fit_diffusion": "diffusion.fit"}


def check_installed() -> None:
    """Raise `SettingError`, with what to type, where the packages of the extra `train` are missing."""
    needed = ("transformers", "accelerate", "datasets", "peft", "matplotlib")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingError(f'the package {missing[0]} is missing: pip install "eyesel[train]".')


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'eyesel.train' has no attribute {name!r}")
    check_installed()
    return getattr(importlib.import_module(f"eyesel.train.{_HOME[name]}"), name)
