"""Faults of a camera, put into the simulated robot's pictures on request."""

from __future__ import annotations

from copy import copy
from typing import Any

CAMERA_FAULTS = ("none", "dropout", "stall", "freeze", "wrong_size", "wrong_encoding")
"""What `CameraFaults` can do:

dropout: pictures are lost; stall: the last message is repeated, stamp and all; freeze: the picture stands still while stamps go on (which
nobody can tell from a robot at rest: nothing must happen); wrong_size: the message claims twice as many rows as it has; wrong_encoding: an
encoding that nobody reads.
"""
BLINDING = ("dropout", "stall", "wrong_size", "wrong_encoding")
"""Faults after which no new picture can be used, which a lockstep simulation would wait for."""


class CameraFaults:
    """Passes pictures through, changed by one fault at a time."""

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}

    def apply(self, kind: str, channel: str, picture: Any) -> Any | None:
        """What comes out of the camera.

        Args:
            kind: one of `CAMERA_FAULTS`.
            channel: the camera's.
            picture: anything with the fields of a sensor_msgs/Image; left as it is.

        Returns:
            A message, or None where it is lost.
        """
        last = self._last.get(channel)
        if kind in ("stall", "freeze") and last is not None:
            return last if kind == "stall" else _with(last, header=picture.header)
        self._last[channel] = picture
        if kind == "dropout":
            return None
        if kind == "wrong_size":
            return _with(picture, height=2 * picture.height)
        return _with(picture, encoding="rgb12") if kind == "wrong_encoding" else picture


def _with(picture: Any, **fields: Any) -> Any:
    changed = copy(picture)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed
