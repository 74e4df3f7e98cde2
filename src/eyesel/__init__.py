"""An eye and an easel: understand images with a Vision Transformer, make images with Stable Diffusion."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eyesel.attention import Attention as Attention
    from eyesel.classifier import ImageClassifier as ImageClassifier
    from eyesel.classifier import Prediction as Prediction
    from eyesel.errors import CheckpointError as CheckpointError
    from eyesel.errors import EyeselError as EyeselError
    from eyesel.errors import ImageError as ImageError
    from eyesel.errors import OutputError as OutputError
    from eyesel.errors import SettingError as SettingError
    from eyesel.images import open_image as open_image
    from eyesel.picture import Picture as Picture
    from eyesel.picture import settings_from as settings_from
    from eyesel.stable_diffusion import StableDiffusion as StableDiffusion

# Loaded on first use, so that `import eyesel` (and `eyesel --help`) does not wait for torch.
_HOME = {
    "Attention": "attention",
    "ImageClassifier": "classifier",
    "Prediction": "classifier",
    "CheckpointError": "errors",
    "EyeselError": "errors",
    "ImageError": "errors",
    "OutputError": "errors",
    "SettingError": "errors",
    "open_image": "images",
    "Picture": "picture",
    "settings_from": "picture",
    "StableDiffusion": "stable_diffusion",
}

__version__ = "0.1.0"
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'eyesel' has no attribute {name!r}")
    value = getattr(import_module(f"eyesel.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
