"""Fine-tuning of both halves on Hugging Face's Trainer: one command from a folder of pictures to a model.

What the halves share is here: arguments, the output folder and its checkpoints, the monitor, the data, the card. None
of it is imported by `import eyesel`.
"""

import importlib.util

from eyesel.errors import SettingError


def check_installed() -> None:
    """Raise `SettingError`, with what to type, where the packages of the extra `train` are missing."""
    needed = ("transformers", "accelerate", "datasets", "peft", "matplotlib")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingError(f'the package {missing[0]} is missing: pip install "eyesel[train]".')
