"""Messages that several nodes send, built in one place."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32MultiArray, Float64MultiArray, MultiArrayDimension

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract


def message_class(type_name: str) -> Any:
    """The Python class of a message type such as `sensor_msgs/msg/JointState`.

    Raises:
        UserError: the package that holds it is not installed.
    """
    package, _, name = type_name.partition("/msg/")
    try:
        return getattr(import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        raise UserError(f"{type_name}: no such message type here: install the ROS package {package}") from None


def time_message(stamp_ns: int) -> Time:
    """Nanoseconds as a builtin_interfaces/Time."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


class CommandForm:
    """One command message that is filled in again and again, for who publishes it at once: half the time of making one, in every tick."""

    def __init__(self, contract: Contract) -> None:
        self._message = JointState(name=list(contract.action.names))
        self._interface = contract.action.interface

    def fill(self, action: Any, stamp_ns: int, source: str) -> JointState:
        """A command for the contract's joints. What it gives changes with the next call.

        Args:
            action: in the order of the contract's joints.
            stamp_ns: stamp of the observation that the action is for.
            source: who computed it, for `header.frame_id`, such as `pets:3:1f2e3d4c`.
        """
        message = self._message
        stamp = message.header.stamp
        stamp.sec, stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        message.header.frame_id = source
        # rclpy takes an array of doubles as it is; anything else it checks value by value.
        setattr(message, self._interface, array("d", action))
        return message


def image_message(picture: NDArray[np.uint8], stamp_ns: int, frame: str) -> Image:
    """A picture [H, W, C] as sensor_msgs/Image: rgb8 for three channels, mono8 for one."""
    height, width, channels = picture.shape
    encoding = {1: "mono8", 3: "rgb8"}[channels]
    # rclpy takes an array of bytes as it is; anything else it checks value by value.
    message = Image(height=height, width=width, encoding=encoding, step=channels * width, data=array("B", picture.tobytes()))
    message.header.stamp = time_message(stamp_ns)
    message.header.frame_id = frame
    return message


def _dimensions(shape: tuple[int, ...], labels: Sequence[str]) -> list[MultiArrayDimension]:
    if len(shape) != len(labels):
        raise ValueError(f"array {shape} needs {len(shape)} labels, got {list(labels)}")
    # As std_msgs/MultiArrayLayout says: the stride of a dimension counts the values from it on.
    strides = [int(np.prod(shape[i:])) for i in range(len(shape))]
    return [MultiArrayDimension(label=label, size=size, stride=stride) for label, size, stride in zip(labels, shape, strides, strict=True)]


def float32_array(array: NDArray[Any], *labels: str) -> Float32MultiArray:
    """`array` as a row-major Float32MultiArray, one label per axis."""
    message = Float32MultiArray(data=np.ascontiguousarray(array, dtype=np.float32).ravel())
    message.layout.dim = _dimensions(array.shape, labels)
    return message


def float64_array(array: NDArray[Any], *labels: str) -> Float64MultiArray:
    """`array` as a row-major Float64MultiArray, one label per axis."""
    message = Float64MultiArray(data=np.ascontiguousarray(array, dtype=np.float64).ravel())
    message.layout.dim = _dimensions(array.shape, labels)
    return message


def numpy_array(message: Float32MultiArray | Float64MultiArray) -> NDArray[Any]:
    """The array in a row-major multi-array message.

    Raises:
        ValueError: the sizes in the layout do not fit the data.
    """
    shape = tuple(d.size for d in message.layout.dim)
    data = np.asarray(message.data)
    if int(np.prod(shape)) + message.layout.data_offset != data.size:
        raise ValueError(f"layout {shape} with offset {message.layout.data_offset} does not fit {data.size} values")
    return data[message.layout.data_offset :].reshape(shape)
