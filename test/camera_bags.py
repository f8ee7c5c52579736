"""Makes camera messages and bags with cameras for tests."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from cartpole_bags import JOINT_STATE, PERIOD, START, cdr, contract, custom_data, force, header, joint_state, message, raw_state
from numpy.typing import NDArray
from PIL import Image

from wm_ros.contract import schema
from wm_ros.contract.schema import Contract
from wm_ros.data.bag_writer import BagOptions, BagWriter
from wm_ros.data.qos import Qos

RAW = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"


def with_camera(kind: str = RAW, name: str = "camera", topic: str = "camera/image_raw", **changes: Any) -> Contract:
    """The cart-pole's contract with a camera that the controller sees as 6 x 8 pixels."""
    data = contract().model_dump(mode="json")
    image = {"height": 6, "width": 8, "encoding": "rgb8", **changes.pop("image", {})}
    data["observation"].append({"name": name, "topic": topic, "type": kind, "max_age_s": 0.15, "image": image, **changes})
    return schema.parse(data, "test")


def scene(seed: int, height: int = 24, width: int = 32, channels: int = 3) -> NDArray[np.uint8]:
    """A picture with smooth and with sharp parts, another one for every seed: [H, W, C]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([127 + 100 * np.sin(x / 9 + c + seed) * np.cos(y / 7) for c in range(channels)], axis=-1)
    smooth[height // 3 : height // 2, width // 4 : width // 2] = rng.integers(0, 256, channels)
    picture: NDArray[np.uint8] = smooth.clip(0, 255).astype(np.uint8)
    return picture


def raw_image(pixels: NDArray[Any], encoding: str = "rgb8", stamp: int = 0, *, padding: int = 0, big: bool = False, **fields: Any) -> Any:
    """A sensor_msgs/Image of pixels [H, W, C] or [H, W], its rows followed by `padding` bytes of rubbish."""
    order = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    rows = np.ascontiguousarray(order).view(np.uint8).reshape(len(pixels), -1)
    rows = np.concatenate([rows, np.full((len(rows), padding), 0xAB, np.uint8)], axis=1)
    values = {"height": pixels.shape[0], "width": pixels.shape[1], "encoding": encoding, "is_bigendian": int(big), "step": rows.shape[1]}
    values |= {"data": rows.ravel()} | fields
    return message(RAW, header(stamp, "camera"), *values.values())


def compressed_image(pixels: NDArray[Any], form: str = "jpeg", stamp: int = 0, **options: Any) -> Any:
    """A sensor_msgs/CompressedImage of pixels [H, W, C] or [H, W]."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, form, **options)
    return message(COMPRESSED, header(stamp, "camera"), form, np.frombuffer(file.getvalue(), np.uint8))


def write_with_camera(
    path: Path,
    ticks: int,
    of: Contract,
    pictures: list[tuple[int, Any]],
    *,
    options: BagOptions | None = None,
) -> Path:
    """A bag of `ticks` steps at 50 Hz with camera messages (time of reception, message)."""
    camera = next(c for c in of.observation if c.image is not None)
    writer = BagWriter(path, custom_data(of), options)
    names = (("joint_states", JOINT_STATE), ("command", JOINT_STATE), (camera.topic, camera.type))
    sensor, command, shown = (writer.add_topic(f"/{name}", kind, Qos()) for name, kind in names)
    events: list[tuple[int, int, bytes, int]] = []
    for k in range(ticks + 1):
        stamp = START + k * PERIOD
        position, velocity = raw_state(k)
        events.append((stamp + 2000, sensor, joint_state(stamp, ["slider", "hinge_1"], position, velocity), stamp))
        if k < ticks:
            events.append((stamp + 3000, command, joint_state(stamp, ["slider"], effort=[force(k)]), stamp))
    for received, picture in pictures:
        events.append((received, shown, picture if isinstance(picture, bytes) else cdr(camera.type, picture), received))
    for received, topic, data, published in sorted(events, key=lambda e: e[0]):
        writer.write(topic, data, received, published)
    writer.close()
    return path


def every(ticks: int, make: Any, step: int = 2, start: int = 0) -> list[tuple[int, Any]]:
    """A picture at every `step`-th tick, `make(number, stamp)`, received a microsecond after its stamp."""
    stamps = [(k // step, START + k * PERIOD) for k in range(start, ticks + 1, step)]
    return [(stamp + 1000, make(number, stamp)) for number, stamp in stamps]
