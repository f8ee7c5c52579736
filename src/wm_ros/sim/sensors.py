"""What the simulated robot's sensor topics say, as plain records with the fields of their message types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.sim.simulator import Simulator

STANDS_IN_FOR = ("sensor_msgs/msg/JointState", "sensor_msgs/msg/Image")


@dataclass(frozen=True)
class Stamp:
    """Fields of builtin_interfaces/Time."""

    sec: int
    nanosec: int


@dataclass(frozen=True)
class Header:
    """Fields of std_msgs/Header."""

    stamp: Stamp
    frame_id: str


@dataclass(frozen=True)
class JointSample:
    """Fields of sensor_msgs/JointState; the contract's assembler reads it as it reads the message."""

    header: Header
    name: list[str]
    position: list[float]
    velocity: list[float]
    effort: list[float]


@dataclass(frozen=True)
class ImageSample:
    """Fields of sensor_msgs/Image."""

    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: NDArray[np.uint8]


def header(stamp_ns: int, frame_id: str = "") -> Header:
    """A header with the stamp given in nanoseconds."""
    return Header(Stamp(*divmod(stamp_ns, 1_000_000_000)), frame_id)


def check_channels(contract: Contract, simulator: Simulator) -> None:
    """Refuses a contract that needs sensors which the simulator does not have.

    Raises:
        UserError: a channel of another type, or a joint that the model lacks.
    """
    for channel in contract.observation:
        if channel.type not in STANDS_IN_FOR:
            raise UserError(
                f"contract {contract.name}: observation.{channel.name}: the simulator cannot stand in for {channel.type}, "
                f"only for {', '.join(STANDS_IN_FOR)}: run with the robot's own sensors or simulator, without sim"
            )
        if channel.image is not None and channel.clock != "header":
            raise UserError(
                f"contract {contract.name}: observation.{channel.name}.clock: a simulated camera stamps its pictures: set clock: header"
            )
        missing = sorted({str(f.joint) for f in channel.features} - set(simulator.joint_names))
        if missing:
            raise UserError(
                f"contract {contract.name}: observation.{channel.name}: the MJCF has no joint {', '.join(missing)}; "
                f"it has {', '.join(simulator.joint_names)}"
            )


def read_channels(contract: Contract, simulator: Simulator, stamp_ns: int) -> dict[str, Any]:
    """Channel name → the present sample of every channel that is no camera, stamped."""
    joints = simulator.joints()
    return {
        channel.name: JointSample(
            header(stamp_ns, channel.frame or ""),
            list(joints.names),
            joints.position.tolist(),
            joints.velocity.tolist(),
            joints.effort.tolist(),
        )
        for channel in contract.observation
        if channel.image is None
    }


def image_sample(contract: Contract, channel: str, picture: NDArray[np.uint8], stamp_ns: int) -> ImageSample:
    """What a camera of the contract publishes: the picture [H, W, 3], RGB, whatever the contract makes of it then."""
    height, width, _ = picture.shape
    frame = next(c.frame for c in contract.observation if c.name == channel)
    return ImageSample(header(stamp_ns, frame or channel), height, width, "rgb8", 0, 3 * width, picture.reshape(-1))
