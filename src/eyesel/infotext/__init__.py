"""How a picture was painted, as text: what AUTOMATIC1111 writes into its pictures, and half of the world reads.

    a large fox
    Negative prompt: red
    Steps: 25, Sampler: Euler a, CFG scale: 7.5, Seed: 7, Size: 512x512, Model: tiny, RNG: CPU, Version: eyesel 0.1.0

`rows.py` is the table of its entries, `text.py` writes and reads it, `record.py` does so for the metadata of a file,
`comfyui.py` and `invokeai.py` read what these two write instead.
"""

from eyesel.infotext.record import Record, metadata, read
from eyesel.infotext.text import format, parse, printable

__all__ = ["Record", "format", "metadata", "parse", "printable", "read"]
