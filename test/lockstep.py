"""The other end of a node that serves controllers in lockstep."""

from __future__ import annotations

import time

import tiny_controller
from peer import Peer
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from wm_ros.contract import announcements
from wm_ros.contract.announcements import ControllerNotice
from wm_ros.contract.assembler import stamp_ns
from wm_ros.nodes.base import LATCHED_QOS, LOCKSTEP_QOS
from wm_ros.nodes.messages import time_message

PERIOD = tiny_controller.contract().control.period_ns


class Lockstep(Peer):
    """Shows observations to mpc or policy_server in lockstep, and hears its answers."""

    def __init__(self, name: str, source: str = "mpc") -> None:
        super().__init__(name)
        self.answers: list[JointState] = []
        self.serving: list[ControllerNotice] = []
        self.stamp = 10**9
        self.sensors = self.node.create_publisher(JointState, "joint_states", LOCKSTEP_QOS)
        self.models = self.node.create_publisher(String, "model", LATCHED_QOS)
        self.node.create_subscription(JointState, f"{source}/command", self.answers.append, 10)
        self.node.create_subscription(String, f"{source}/controller", self._on_controller, LATCHED_QOS)

    def _on_controller(self, message: String) -> None:
        self.serving.append(announcements.read(ControllerNotice, message.data, "controller"))

    def message(self, position: float, names: tuple[str, ...] = ("hinge_1", "slider")) -> JointState:
        message = JointState(name=list(names), position=[0.0, position][: len(names)], velocity=[0.0] * len(names))
        message.header.stamp = time_message(self.stamp)
        return message

    def show(self, position: float = 0.5) -> None:
        self.wait(lambda: self.sensors.get_subscription_count(), "the subscription")
        self.stamp += PERIOD
        self.sensors.publish(self.message(position))

    def ask(self, position: float = 0.5) -> JointState:
        """One observation, and the answer to it."""
        self.show(position)
        shown = time.monotonic()

        def answered() -> bool:
            nonlocal shown
            # As the simulator does: what was lost before discovery was complete is asked again.
            if time.monotonic() - shown > 0.5:
                shown = time.monotonic()
                self.sensors.publish(self.message(position))
            return any(stamp_ns(a.header.stamp) == self.stamp for a in self.answers)

        self.wait(answered, "an answer")
        return self.answers[-1]

    def wait_for_version(self, version: int) -> None:
        self.wait(lambda: self.serving and self.serving[-1].version == version, f"controller version {version}")

    def announce(self, notice: ControllerNotice) -> None:
        self.models.publish(String(data=notice.to_json()))
