"""Style transfer: one picture's content in the style of others, by any Stable Diffusion and without training.

`settings.py` is the dial from content to style and all that can be set, `layers.py` knows the decoder's layers by name
and number, `pictures.py` brings all pictures to one size, `inversions.py` keeps what was inverted, and `run.py` does
the transfer with a painter's parts.
"""

from eyesel.stylize.inversions import Inversions
from eyesel.stylize.layers import decoder_layers
from eyesel.stylize.pictures import described, pictures_of
from eyesel.stylize.run import Parts, Transfer, detailed
from eyesel.stylize.settings import PRESETS, StyleSettings

__all__ = [
    "PRESETS",
    "Inversions",
    "Parts",
    "StyleSettings",
    "Transfer",
    "decoder_layers",
    "described",
    "detailed",
    "pictures_of",
]
