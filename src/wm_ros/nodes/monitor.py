"""What happens in the system, as one JSON line per event on standard output, for displays and programs outside ROS."""

from __future__ import annotations

import json
import sys
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from std_msgs.msg import Float64MultiArray, String

from wm_ros.contract.announcements import Announcement, ControllerNotice, EpisodeState, Progress, Segment, read
from wm_ros.contract.errors import UserError
from wm_ros.nodes.base import SEGMENT_QOS, Param, WmNode, run, steady_ns

DEEP_QOS = SEGMENT_QOS
"""Latched, and deep enough that no state of an episode is overtaken by the next before it is read."""

ANNOUNCEMENTS: dict[str, tuple[str, type[Announcement], Any]] = {
    "episode": ("episode", EpisodeState, DEEP_QOS),
    "model": ("model", ControllerNotice, DEEP_QOS),
    "mpc/controller": ("controller", ControllerNotice, DEEP_QOS),
    "policy/controller": ("controller", ControllerNotice, DEEP_QOS),
    "train/progress": ("progress", Progress, 10),
    "log/segment": ("segment", Segment, SEGMENT_QOS),
}
"""Topic → (event, its record, quality of service)."""


class MonitorNode(WmNode):
    """Prints `{"event": ..., "time": seconds since the start, "data": {...}}`, one line each."""

    parameters = {"step_rate_hz": Param(10.0, "Most `step` events per second", low=0.1, high=1000.0)}

    def __init__(self) -> None:
        super().__init__("monitor")
        self._start_ns = steady_ns()
        self._next_step_ns = 0

    def configure(self) -> None:
        for topic, (event, kind, qos) in ANNOUNCEMENTS.items():
            self.create_subscription(String, topic, self._announcement(event, kind, topic), qos)
        self.create_subscription(Float64MultiArray, "step", self._on_step, 10)
        self.create_subscription(DiagnosticArray, "diagnostics", self._on_diagnostics, 50)

    def activate(self) -> None:
        self._say("ready", {})

    def _announcement(self, event: str, kind: type[Announcement], topic: str) -> Any:
        def heard(message: String) -> None:
            try:
                self._say(event, read(kind, message.data, topic).model_dump(mode="json"))
            except UserError as error:
                self.get_logger().warning(str(error))

        return heard

    def _on_step(self, message: Float64MultiArray) -> None:
        now = steady_ns()
        if now < self._next_step_ns or not message.layout.dim:
            return
        self._next_step_ns = now + int(1e9 / self.param("step_rate_hz"))
        self._say("step", dict(zip(message.layout.dim[0].label.split(","), message.data, strict=False)))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        nodes = {
            status.name.rpartition("/")[2]: {
                "level": int.from_bytes(status.level, "little"),
                "message": status.message,
                "values": {pair.key: pair.value for pair in status.values},
            }
            for status in message.status
        }
        self._say("diagnostics", nodes)

    def _say(self, event: str, data: dict[str, Any]) -> None:
        line = {"event": event, "time": round((steady_ns() - self._start_ns) * 1e-9, 3), "data": data}
        try:
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            raise UserError("standard output: closed by its reader: nothing left to report to") from None


def main() -> None:
    """Entry point of the executable `monitor`."""
    run(MonitorNode)


if __name__ == "__main__":
    main()
