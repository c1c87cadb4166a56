"""Pictures as people have them: turned, transparent, of 16 bits, broken, too thin, too large."""

import io

import numpy as np
import pytest
from PIL import Image

from lop.data.pictures import check, decode
from lop.data.samples import decode_images
from lop.errors import LopError
from lop.evaluation.tasks import tables
from lop.report.changes import thumbnail


def stored(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def turned():
    """A picture of 8 × 16, red above blue, stored lying on its side."""
    upright = Image.new("RGB", (8, 16), "red")
    upright.paste("blue", (0, 8, 8, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    return stored(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)


@pytest.mark.parametrize(
    "show",
    [
        decode,
        tables.decode,
        lambda data: decode_images({"images": [{"bytes": data}]})[0],
        lambda data: Image.open(io.BytesIO(thumbnail(data)[0])),
    ],
)
def test_pictures_are_upright_everywhere(show):
    picture = show(turned())
    assert picture.size == (8, 16)
    assert picture.getpixel((4, 0)) == (255, 0, 0)
    assert picture.getpixel((4, 15)) == (0, 0, 255)
    assert not picture.getexif().get(0x0112)


def palette(**options):
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 0, 128, 0])
    return stored(picture, **options)


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (stored(Image.new("RGBA", (4, 4), (0, 0, 0, 0))), (255, 255, 255)),
        (stored(Image.new("RGBA", (4, 4), (255, 0, 0, 255))), (255, 0, 0)),
        (stored(Image.new("LA", (4, 4), (0, 0))), (255, 255, 255)),
        (stored(Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3)), (255, 255, 255)),
        (palette(), (0, 128, 0)),
        (palette(transparency=1), (255, 255, 255)),
        (stored(Image.new("1", (4, 4), 1)), (255, 255, 255)),
        (stored(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        (stored(Image.fromarray(np.full((4, 4), 32896, np.uint16))), (128, 128, 128)),
        (stored(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"), (128, 128, 128)),
        (
            stored(
                Image.new("RGB", (4, 4), "red"),
                "GIF",
                save_all=True,
                append_images=[Image.new("RGB", (4, 4), "blue")],
            ),
            (255, 0, 0),
        ),
    ],
)
def test_every_mode_becomes_rgb_on_white(data, colour):
    picture = decode(data)
    assert (picture.mode, picture.getpixel((1, 1))) == ("RGB", colour)
    check(data)


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    for kind in ("PNG", "TIFF"):
        found = np.asarray(decode(stored(Image.fromarray(ramp), kind)))[..., 0]
        assert np.abs(found - ramp / 257.0).max() <= 0.5


def noise():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("see", [decode, check])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (stored(noise(), "JPEG")[:2000], "image file is truncated"),
        (stored(noise())[:2000], "not an image that can be read"),
        (b"", "not an image that can be read: cannot identify image file"),
        (b"no picture", "not an image that can be read: cannot identify image file"),
        (stored(Image.new("RGB", (1, 300))), "1 × 300 pixels: expected one side to be at most 200"),
        (stored(Image.new("1", (13380, 13380))), "exceeds limit"),
        (stored(Image.new("F", (4, 4), 300.0), "TIFF"), "values from 300 to 300: expected 0 to 1"),
        (stored(Image.new("F", (4, 4), np.nan), "TIFF"), "values from nan to nan"),
    ],
    ids=["cut jpeg", "cut png", "empty", "text", "thin", "giant", "bright", "nan"],
)
def test_a_bad_picture_is_one_line(see, data, said):
    with pytest.raises(LopError, match=said) as caught:
        see(data)
    assert "\n" not in str(caught.value)


def test_the_sample_is_named():
    with pytest.raises(LopError, match="sample s7: not an image"):
        decode_images({"id": "s7", "images": [{"bytes": b"x"}]})
