"""Decodes pictures: upright, in RGB, with transparency on white.

EXIF orientation is applied. Grey values of 16 bits, and floating-point ones from 0 to 1, are scaled
to 8 bits. Only the first frame of an animation is used; CMYK and palettes become RGB.
"""

from __future__ import annotations

import base64
import binascii
import io
import re

import numpy as np
from PIL import Image, ImageOps

from lop.errors import LopError

MAX_ASPECT = 200  # longer side over shorter: the limit of the Qwen-VL processors


def decode(data: bytes) -> Image.Image:
    """A picture as an RGB image.

    Raises LopError if it cannot be read, has an extreme aspect ratio, or has more pixels than
    Pillow's limit against decompression bombs, 179 million.
    """
    return _decode(data, whole=True)


def check(data: bytes) -> None:
    """Raise LopError unless `decode` can read the picture; faster than `decode` for large JPEGs."""
    _decode(data, whole=False)


def size(data: bytes) -> tuple[int, int]:
    """Width and height as stored, in pixels; only the header is read. LopError as `decode`."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return picture.size
    except Exception as error:
        raise LopError(_unreadable(error)) from error


def from_text(text: str) -> bytes | None:
    """The bytes of a picture written as base64 or as a data URL, or None for any other text."""
    text = re.sub(r"^data:[^,]*;base64,", "", text.strip())
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
        size(data)
    except (binascii.Error, ValueError, LopError):
        return None
    return data


def _decode(data: bytes, whole: bool) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            _check_shape(*picture.size)
            if not whole:
                picture.draft("RGB", (1, 1))  # a JPEG is read to its end, at an eighth of its size
            return _rgb(ImageOps.exif_transpose(picture))
    except LopError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        raise LopError(_unreadable(error)) from error


def _unreadable(error: Exception) -> str:
    # Pillow's message about an unknown format names the buffer's address
    reason = re.sub(r" <_io\.BytesIO object at \w+>", "", str(error)) or type(error).__name__
    return f"not an image that can be read: {reason.splitlines()[0]}"


def _check_shape(width: int, height: int) -> None:
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise LopError(
            f"a picture of {width} × {height} pixels: expected one side to be at most "
            f"{MAX_ASPECT} times the other"
        )


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode[0] in "IF":
        picture = _eight_bits(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey values of 16 bits, or floating-point ones of 0 to 1, on the scale from 0 to 255."""
    values, top = np.asarray(picture), 1.0 if picture.mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= top):
        raise LopError(
            f"grey values from {values.min():g} to {values.max():g}: expected 0 to {top:g}"
        )
    return Image.fromarray(np.round(values * (255 / top)).astype(np.uint8))
