"""What a run ran on, for every result that is written down."""

from __future__ import annotations

import platform
from importlib import metadata

PACKAGES = ("wm_ros", "torch", "onnxruntime", "onnxruntime-gpu", "onnx", "mujoco", "numpy", "rclpy", "ros-rclpy", "rosbags", "mcap")


def versions() -> dict[str, str]:
    """Name → version of Python, the system and the packages that are installed."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
