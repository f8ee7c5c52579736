"""Every encoding gives the same picture, and what is no picture is refused with its field."""

from __future__ import annotations

import io
import struct
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from camera_bags import compressed_image, raw_image, scene
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from wm_ros.contract.images import MAX_PIXELS, BadImage, decode, inspect
from wm_ros.contract.schema import ImageFormat

WHOLE = ImageFormat(height=24, width=32, encoding="rgb8")
GREY = ImageFormat(height=24, width=32, encoding="mono8")
SMALL = ImageFormat(height=6, width=8, encoding="rgb8")


def alpha(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([pixels, np.full((*pixels.shape[:2], 1), 9, np.uint8)], axis=-1)


def grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """ITU-R 601-2, to a unit."""
    return (pixels @ np.array([0.299, 0.587, 0.114]))[..., None].round().astype(np.uint8)


ENCODINGS = {
    "rgb8": lambda p: p,
    "bgr8": lambda p: p[..., ::-1],
    "8UC3": lambda p: p[..., ::-1],
    "rgba8": alpha,
    "bgra8": lambda p: alpha(p[..., ::-1]),
}


@pytest.mark.parametrize("padding", [0, 1, 7])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_order_of_colours_and_every_step_give_the_same_picture(encoding: str, padding: int) -> None:
    pixels = scene(1)
    got = decode(raw_image(ENCODINGS[encoding](pixels), encoding, padding=padding), WHOLE)
    assert got.dtype == np.uint8 and got.shape == (24, 32, 3)
    np.testing.assert_array_equal(got, pixels)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
@pytest.mark.parametrize("padding", [0, 5])
def test_grey_pictures_stay_what_they_are(encoding: str, padding: int) -> None:
    pixels = scene(2, channels=1)
    message = raw_image(pixels, encoding, padding=padding)
    np.testing.assert_array_equal(decode(message, GREY), pixels)
    np.testing.assert_array_equal(decode(message, WHOLE), np.repeat(pixels, 3, axis=-1))


def test_colours_become_grey_by_itu_601() -> None:
    pixels = scene(3)
    assert np.abs(decode(raw_image(pixels), GREY).astype(int) - grey(pixels)).max() <= 1


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
@pytest.mark.parametrize("padding", [0, 3])
def test_sixteen_bits_are_scaled_in_either_byte_order(encoding: str, big: bool, padding: int) -> None:
    depth = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 11  # millimetres, up to 8437
    message = raw_image(depth, encoding, big=big, padding=padding)
    got = decode(message, GREY.model_copy(update={"full_scale": 5000}))[..., 0]
    expected = np.minimum(np.round(depth / 5000 * 255), 255)
    assert np.abs(got - expected).max() <= 1 and got[0, 0] == 0 and got[-1, -1] == 255
    assert decode(message, GREY).max() == round(8437 / 65535 * 255)


def test_shrinking_averages_every_area() -> None:
    pixels = scene(4)
    expected = pixels.reshape(6, 4, 8, 4, 3).mean(axis=(1, 3))
    assert np.abs(decode(raw_image(pixels), SMALL) - expected).max() <= 1  # Pillow rounds after each direction


def test_enlarging_repeats_pixels() -> None:
    pixels = scene(5, 6, 8)
    np.testing.assert_array_equal(decode(raw_image(pixels), WHOLE), pixels.repeat(4, axis=0).repeat(4, axis=1))


def test_png_is_lossless_and_jpeg_is_close() -> None:
    pixels = scene(6)
    np.testing.assert_array_equal(decode(compressed_image(pixels, "png"), WHOLE), pixels)
    np.testing.assert_array_equal(decode(compressed_image(alpha(pixels), "png"), WHOLE), pixels)
    assert np.abs(decode(compressed_image(pixels, "jpeg", quality=95), WHOLE).astype(int) - pixels).mean() < 4
    assert np.abs(decode(compressed_image(grey(pixels), "jpeg", quality=95), GREY).astype(int) - grey(pixels)).mean() < 2


def test_a_large_jpeg_that_is_decoded_at_a_fraction_looks_as_if_it_was_not() -> None:
    pixels = scene(7, 480, 640)
    expected = pixels.reshape(6, 80, 8, 80, 3).mean(axis=(1, 3))
    got = decode(compressed_image(pixels, "jpeg", quality=95), SMALL)
    assert np.abs(got - expected).mean() < 2 and np.abs(got - expected).max() < 10


def test_a_png_of_sixteen_bits_is_scaled() -> None:
    depth = (np.arange(24 * 32, dtype=np.uint16) * 80).reshape(24, 32)
    expected = decode(raw_image(depth, "16UC1"), GREY)
    np.testing.assert_array_equal(decode(compressed_image(depth, "png"), GREY), expected)


def test_a_png_with_a_palette_has_its_colours() -> None:
    pixels = scene(8)
    file = io.BytesIO()
    reduced = Image.fromarray(pixels).quantize(64)
    reduced.save(file, "png")
    message = SimpleNamespace(format="png", data=np.frombuffer(file.getvalue(), np.uint8))
    np.testing.assert_array_equal(decode(message, WHOLE), np.asarray(reduced.convert("RGB")))


def test_what_is_seen_is_told_without_decoding() -> None:
    assert str(inspect(raw_image(scene(1), "bgr8"))) == "32x24 bgr8"
    assert str(inspect(compressed_image(scene(1)))) == "32x24 jpeg"
    assert str(inspect(compressed_image(scene(1), "png"))) == "32x24 png"


REFUSED = [
    ("encoding", {"encoding": "bayer_rggb8"}, "encoding 'bayer_rggb8' is not read, but rgb8, .*image_proc"),
    ("image_size", {"step": 95}, "step 95 is less than a row of 32 pixels of rgb8, 96 bytes"),
    ("image_size", {"step": 97}, "data have 2304 bytes, step 97 times height 24 makes 2328"),
    ("image_size", {"height": 25}, "data have 2304 bytes"),
    ("image_size", {"width": 0}, "width 0 and height 24 make no picture"),
    ("image_size", {"step": 2**32 - 1}, "data have 2304 bytes"),
    ("too_large", {"width": 2**32 - 1, "height": 2**32 - 1}, f"more than {MAX_PIXELS} pixels"),
]


@pytest.mark.parametrize(("reason", "fields", "words"), REFUSED, ids=[str(f) for _, f, _ in REFUSED])
def test_a_raw_image_with_a_wrong_field_is_refused_with_the_field(reason: str, fields: dict[str, Any], words: str) -> None:
    message = raw_image(scene(1), **fields)
    for call in (inspect, lambda m: decode(m, SMALL)):
        with pytest.raises(BadImage, match=words) as caught:
            call(message)
        assert caught.value.reason == reason


def cut(message: Any, size: int) -> Any:
    return SimpleNamespace(format=message.format, data=message.data[:size])


@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_a_compressed_image_that_is_cut_off_is_refused_before_it_is_decoded(form: str) -> None:
    message = compressed_image(scene(1, 120, 160), form)
    for size in (0, 3, 20, len(message.data) // 2, len(message.data) - 9):
        with pytest.raises(BadImage) as caught:
            inspect(cut(message, size))
        assert caught.value.reason in ("damaged", "encoding")


def test_other_compressions_are_refused_with_the_format() -> None:
    with pytest.raises(BadImage, match="format 'h264': data are neither jpeg nor png: publish"):
        inspect(SimpleNamespace(format="h264", data=np.arange(100, dtype=np.uint8)))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + png_chunk(b"IEND", b"")
    message = SimpleNamespace(format="png", data=np.frombuffer(bomb, np.uint8))
    for call in (inspect, lambda m: decode(m, SMALL)):
        with pytest.raises(BadImage, match=f"30000 and height 30000 make more than {MAX_PIXELS} pixels") as caught:
            call(message)
        assert caught.value.reason == "too_large"


@settings(deadline=None, max_examples=300)
@given(form=st.sampled_from(["jpeg", "png"]), at=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8))
@example(form="png", at=[(0.0, 0)])
def test_damaged_data_are_refused_or_give_a_picture_of_the_right_size(form: str, at: list[tuple[float, int]]) -> None:
    message = compressed_image(scene(1, 48, 64), form)
    data = np.array(message.data)
    for where, value in at:
        data[int(where * (len(data) - 1))] = value
    try:
        assert decode(SimpleNamespace(format=form, data=data), SMALL).shape == (6, 8, 3)
    except BadImage as bad:
        assert bad.reason in ("damaged", "encoding", "too_large", "image_size")
