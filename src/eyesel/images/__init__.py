"""Pictures in and out: safe decoding, the one preprocessing that travels with the weights, files with metadata.

Everything that reads or writes a picture goes through here, so that training, evaluation, the commands and the server
see the same pixels.
"""

from eyesel.images.ahead import ahead
from eyesel.images.decode import FORMATS, MAX_PIXELS, open_image
from eyesel.images.files import (
    WRITABLE,
    check_room,
    check_writable,
    read_metadata,
    save_image,
    texts_in,
    write_image,
    written_whole,
)
from eyesel.images.find import READABLE, find_images
from eyesel.images.fit import FILTERS, RESIZES, fitted, window
from eyesel.images.masks import alpha_mask, around, blurred, filled, inverted, open_mask
from eyesel.images.sources import Found, Names, Source, each_source, find_sources
from eyesel.images.tally import Tally, digest
from eyesel.images.tensors import from_pil, to_pil
from eyesel.images.transform import ImageTransform

__all__ = [
    "FILTERS",
    "FORMATS",
    "MAX_PIXELS",
    "READABLE",
    "RESIZES",
    "WRITABLE",
    "Found",
    "ImageTransform",
    "Names",
    "Source",
    "Tally",
    "ahead",
    "alpha_mask",
    "around",
    "blurred",
    "check_room",
    "check_writable",
    "digest",
    "each_source",
    "filled",
    "find_images",
    "find_sources",
    "fitted",
    "from_pil",
    "inverted",
    "open_image",
    "open_mask",
    "read_metadata",
    "save_image",
    "texts_in",
    "to_pil",
    "window",
    "write_image",
    "written_whole",
]
