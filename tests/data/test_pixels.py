"""One policy turns every kind of image file into pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attrbench.data.pixels import refusing_bombs, to_pixels, what_is_wrong

ORANGE = (255, 128, 0)


def saved(image, kind="PNG", **options):
    """As it comes out of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def one_color(image, channels=3):
    pixels = to_pixels(image, (4, 4, channels))
    assert pixels.shape == (4, 4, channels) and pixels.dtype == np.uint8
    assert (pixels == pixels[0, 0]).all()
    return tuple(int(value) for value in pixels[0, 0])


def palette(transparent):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, *ORANGE])
    return saved(image, transparency=1) if transparent else saved(image)


def sixteen_bits(value):
    return saved(Image.fromarray(np.full((8, 8), value, np.uint16)))


@pytest.mark.parametrize(
    ("image", "color"),
    [
        (saved(Image.new("RGB", (8, 8), ORANGE)), ORANGE),
        (saved(Image.new("L", (8, 8), 77)), (77, 77, 77)),
        (saved(Image.new("1", (8, 8), 1)), (255, 255, 255)),
        (palette(transparent=False), ORANGE),
        (palette(transparent=True), (255, 255, 255)),
        (saved(Image.new("RGBA", (8, 8), (*ORANGE, 255))), ORANGE),
        (saved(Image.new("RGBA", (8, 8), (*ORANGE, 0))), (255, 255, 255)),
        (saved(Image.new("RGBA", (8, 8), (0, 0, 0, 128))), (127, 127, 127)),
        (saved(Image.new("LA", (8, 8), (0, 0))), (255, 255, 255)),
        (saved(Image.new("L", (8, 8), 9), transparency=9), (255, 255, 255)),
        (sixteen_bits(65535), (255, 255, 255)),
        (sixteen_bits(0), (0, 0, 0)),
        (sixteen_bits(100 * 257), (100, 100, 100)),
        (saved(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "TIFF"), (255, 255, 255)),
        (saved(Image.new("CMYK", (8, 8), (255, 0, 255, 0)), "TIFF"), (0, 255, 0)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_every_mode_keeps_its_color(image, color):
    assert one_color(image) == color


def test_models_of_one_channel_get_gray():
    assert one_color(saved(Image.new("RGB", (8, 8), (255, 0, 0))), channels=1) == (76,)  # ITU-R 601


def test_a_picture_is_turned_as_its_exif_says():
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 8, 4))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    pixels = to_pixels(saved(image, "PNG", exif=exif), (8, 8, 3))
    assert pixels[:, 4:].min() == 255 and pixels[:, :4].max() == 0


@pytest.mark.parametrize("size", [(24, 8), (8, 24)])
def test_the_center_stays_and_the_ends_go(size):
    """As where training scales the shorter side first: the filter sees two pixels beyond the edge."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", tuple((s - 12) // 2 for s in size) + tuple((s + 12) // 2 for s in size))
    assert one_color(saved(image)) == (0, 0, 255)


def test_shrinking_averages():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = to_pixels(saved(Image.fromarray(stripes)), (8, 8, 3))
    assert abs(pixels.astype(int) - 127.5).max() < 20


def test_the_right_size_is_left_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(to_pixels(saved(Image.fromarray(pixels)), (8, 8, 3)), pixels)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"]))
def test_any_size_and_mode_comes_out_in_shape(width, height, mode):
    image = Image.new(mode, (width, height))
    assert to_pixels(image, (6, 6, 3)).shape == (6, 6, 3)
    assert to_pixels(image, (6, 6, 1)).shape == (6, 6, 1)


def test_the_first_frame_counts():
    frames = [Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")]
    assert one_color(saved(frames[0], "GIF", save_all=True, append_images=frames[1:])) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_of_unknown_range_are_refused(mode):
    with pytest.raises(ValueError, match=r"unknown range|16 bits"):
        to_pixels(Image.new(mode, (4, 4), 1_000_000), (4, 4, 3))


def bomb():
    """A PNG of a few bytes that says that it has 100 million pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_before_it_is_unpacked():
    with refusing_bombs(), pytest.raises(Exception, match="decompression bomb") as caught:
        Image.open(io.BytesIO(bomb()))
    assert "89 million pixels" in what_is_wrong(caught.value)
