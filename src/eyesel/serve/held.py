"""How many pixels of pictures this process holds: a file of a few kilobytes can be a gigabyte when it is decoded.

A picture counts from before it is decoded until nobody holds it, be that a request, or the job that came of it.
"""

import threading
import weakref
from collections.abc import Callable
from itertools import count

from PIL import Image

from eyesel.serve.errors import ApiError

_lock = threading.Lock()
_pixels: dict[int, int] = {}  # of each picture
_numbers = count()


def holding() -> int:
    """Pixels."""
    return sum(list(_pixels.values()))


def held(pixels: int, most: int, decode: Callable[[], Image.Image]) -> Image.Image:
    """What `decode` gives, a picture of so many pixels. Raises a 429 if there were more than `most` then."""
    with _lock:
        if holding() + pixels > most:
            raise ApiError(429, "The pictures of other requests fill the memory: come again.", None, "queue_full", 5)
        number = next(_numbers)
        _pixels[number] = pixels
    try:
        image = decode()
    except BaseException:
        _pixels.pop(number)
        raise
    weakref.finalize(image, _pixels.pop, number)  # without the lock, which this thread may have
    return image
