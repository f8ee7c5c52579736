"""Camera messages to the images that the contract wants: the same lines for live nodes and for bags."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin

from wm_ros.contract.schema import ImageFormat

MAX_PIXELS: Final = 1 << 26
"""Largest picture that is decoded, 8192 x 8192: a few bytes can claim any size."""
_TAIL = 1024
_LAYOUTS: Final[dict[str, tuple[str, str, int]]] = {
    "rgb8": ("RGB", "RGB", 3),
    "bgr8": ("RGB", "BGR", 3),
    "8UC3": ("RGB", "BGR", 3),  # says no order of colours; who leaves it so has OpenCV's
    "rgba8": ("RGB", "RGBX", 4),
    "bgra8": ("RGB", "BGRX", 4),
    "mono8": ("L", "L", 1),
    "8UC1": ("L", "L", 1),
    "mono16": ("", "", 2),
    "16UC1": ("", "", 2),
}
"""Encoding → Pillow's mode, its raw mode (an alpha is left out), bytes of a pixel; no mode: 16 bits, which are scaled here."""
GREY_ENCODINGS: Final = tuple(name for name, (mode, _, _) in _LAYOUTS.items() if mode != "RGB")
_FAULTS = (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, ArithmeticError, AttributeError, struct.error, zlib.error)
"""What Pillow raises for damaged data."""


class BadImage(ValueError):
    """A camera message that must not be used. `reason` is a short stable word."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Seen:
    """What a message says about its picture."""

    width: int
    height: int
    encoding: str
    """Of the message; `jpeg` or `png` where it is compressed."""

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.encoding}"


def inspect(message: Any) -> Seen:
    """Checks what can be checked of a sensor_msgs Image or CompressedImage without decoding it.

    Raises:
        BadImage: an encoding that is not read, sizes that do not fit the data, too many pixels, or data that are cut off.
    """
    data = _bytes(message.data)
    return _inspect_raw(message, data) if hasattr(message, "encoding") else _opened(message, data)[1]


def decode(message: Any, wanted: ImageFormat) -> NDArray[np.uint8]:
    """The picture as the contract wants it.

    Shrinking averages the pixels of each area (a JPEG is decoded at a fraction of its size where that is still twice what is wanted);
    enlarging repeats them. The aspect ratio is the contract's, not the camera's. Colours become grey by ITU-R 601-2, grey becomes three
    equal colours.

    Args:
        message: sensor_msgs Image or CompressedImage, of rclpy or of rosbags.
        wanted: size and encoding.

    Returns:
        [H, W, C] uint8.

    Raises:
        BadImage: see `inspect`, and data that are damaged.
    """
    height, width, channels = wanted.shape
    mode = "RGB" if channels == 3 else "L"
    data = _bytes(message.data)
    picture = _raw(message, data, wanted) if hasattr(message, "encoding") else _compressed(message, data, wanted, mode)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BOX)
    if picture.mode != mode:
        picture = picture.convert(mode)
    return np.array(picture).reshape(height, width, channels)


def _bytes(data: Any) -> NDArray[np.uint8]:
    return np.asarray(data, np.uint8)


# ---- raw ----------------------------------------------------------------------------------------------------------------


def _inspect_raw(message: Any, data: NDArray[np.uint8]) -> Seen:
    width, height, step, encoding = int(message.width), int(message.height), int(message.step), str(message.encoding)
    if encoding not in _LAYOUTS:
        known = ", ".join(_LAYOUTS)
        raise BadImage(
            "encoding", f"encoding {encoding!r} is not read, but {known} are: convert it with image_proc, or publish one of them"
        )
    _check_size(width, height)
    row = width * _LAYOUTS[encoding][2]
    if step < row:
        raise BadImage("image_size", f"step {step} is less than a row of {width} pixels of {encoding}, {row} bytes: mend the camera driver")
    if len(data) < step * height:
        raise BadImage(
            "image_size", f"data have {len(data)} bytes, step {step} times height {height} makes {step * height}: mend the camera driver"
        )
    return Seen(width, height, encoding)


def _raw(message: Any, data: NDArray[np.uint8], wanted: ImageFormat) -> Image.Image:
    seen = _inspect_raw(message, data)
    mode, raw_mode, pixel = _LAYOUTS[seen.encoding]
    step = int(message.step)
    data = data[: step * seen.height]
    if mode:
        return Image.frombytes(mode, (seen.width, seen.height), np.ascontiguousarray(data), "raw", raw_mode, step)
    rows = np.ascontiguousarray(data.reshape(seen.height, step)[:, : seen.width * pixel])
    return _scaled(rows.view(">u2" if message.is_bigendian else "<u2"), wanted)


def _scaled(values: NDArray[Any], wanted: ImageFormat) -> Image.Image:
    return Image.fromarray(_table(wanted.full_scale)[values])


@lru_cache(maxsize=16)
def _table(full_scale: int) -> NDArray[np.uint8]:
    """[65536], what becomes of each value of 16 bits."""
    values = np.minimum(np.arange(1 << 16), full_scale)
    return ((values * 255 + full_scale // 2) // full_scale).astype(np.uint8)


# ---- compressed -----------------------------------------------------------------------------------------------------------


def _compressed(message: Any, data: NDArray[np.uint8], wanted: ImageFormat, mode: str) -> Image.Image:
    picture, _ = _opened(message, data)
    try:
        picture.draft(mode, (2 * wanted.width, 2 * wanted.height))
        picture.load()
        if picture.mode.startswith("I"):
            values = np.asarray(picture)
            return _scaled(values.clip(0, 65535).astype(np.uint16), wanted)
        return picture if picture.mode in ("RGB", "L") else picture.convert("L" if picture.mode in ("1", "LA") else "RGB")
    except _FAULTS as error:
        raise BadImage("damaged", f"data are no whole picture: {error}: check the camera driver and the network") from None


def _opened(message: Any, data: NDArray[np.uint8]) -> tuple[Image.Image, Seen]:
    """The picture, not decoded yet. Pillow's own `open` would only warn of a bomb, and for the whole process."""
    head, tail = data[:8].tobytes(), data[-_TAIL:].tobytes()
    kinds: tuple[tuple[str, bytes, bytes, Callable[[Any], Image.Image]], ...] = (
        ("jpeg", b"\xff\xd8\xff", b"\xff\xd9", JpegImagePlugin.JpegImageFile),
        ("png", b"\x89PNG\r\n\x1a\n", b"IEND", PngImagePlugin.PngImageFile),
    )
    for name, begins, ends, plugin in kinds:
        if head.startswith(begins):
            try:
                picture = plugin(io.BytesIO(data.tobytes()))
            except _FAULTS as error:
                raise BadImage("damaged", f"data are no {name}: {error}: check the camera driver and the network") from None
            _check_size(picture.width, picture.height)
            if ends not in tail:
                raise BadImage("damaged", f"data are a {name} cut off after {len(data)} bytes: check the camera driver and the network")
            return picture, Seen(picture.width, picture.height, name)
    raise BadImage("encoding", f"format {str(message.format)!r}: data are neither jpeg nor png: publish one of them, or the raw image")


def _check_size(width: int, height: int) -> None:
    if not width or not height:
        raise BadImage("image_size", f"width {width} and height {height} make no picture: mend the camera driver")
    if width * height > MAX_PIXELS:
        raise BadImage("too_large", f"width {width} and height {height} make more than {MAX_PIXELS} pixels: lower the camera's resolution")
