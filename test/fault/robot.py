"""A robot made of a clock: sensors at the control rate, and every command that reaches it."""

from __future__ import annotations

import time
from collections.abc import Callable

from peer import Peer
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from wm_ros.contract import schema
from wm_ros.nodes.base import COMMAND_QOS, SENSOR_QOS
from wm_ros.nodes.messages import time_message

CONTRACT = schema.load("cartpole_swingup")


class Robot(Peer):
    """Speaks only while the test waits for something."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.sources: list[str] = []
        """`header.frame_id` of every command, in order."""
        self.commands: list[JointState] = []
        self.speaking = True
        self._sensors = self.node.create_publisher(JointState, "joint_states", SENSOR_QOS)
        self._estop = self.node.create_publisher(Bool, "estop", 10)
        self.node.create_subscription(JointState, "command", self._on_command, 10)
        self.node.create_timer(CONTRACT.control.period_s, self._speak)

    def _speak(self) -> None:
        if self.speaking:
            message = JointState(name=["slider", "hinge_1"], position=[0.1, 0.0], velocity=[0.0, 0.0])
            message.header.stamp = time_message(time.time_ns())
            self._sensors.publish(message)

    def _on_command(self, message: JointState) -> None:
        self.commands.append(message)
        self.sources.append(message.header.frame_id)

    @property
    def stamp_ns(self) -> int:
        return time.time_ns()

    def publisher(self) -> object:
        """A controller's end of `mpc/command`."""
        return self.node.create_publisher(JointState, "mpc/command", COMMAND_QOS)

    def arm(self, yes: bool = True) -> tuple[bool, str]:
        answer = self.call(SetBool, "command_gate/arm", SetBool.Request(data=yes))
        return answer.success, answer.message

    def arm_when_ready(self, command: Callable[[], None] = lambda: None) -> None:
        """Arms as soon as the gate hears sensors and a controller; `command` is called before each try."""

        def armed() -> bool:
            command()
            return self.arm() == (True, "armed")

        self.wait(armed, "the gate to hear sensors and commands")

    def press_estop(self, pressed: bool) -> None:
        self.wait(self._estop.get_subscription_count, "the gate's e-stop")
        self._estop.publish(Bool(data=pressed))

    def forget(self) -> None:
        """Only commands from now on count."""
        self.sources.clear()
        self.commands.clear()

    def wait_for(self, source: str, count: int = 1) -> int:
        """Waits for the last `count` commands to be of this source; gives the index of the first command of it since `forget`."""
        self.wait(
            lambda: len(self.sources) >= count and all(s.startswith(source) for s in self.sources[-count:]), f"{count} commands of {source}"
        )
        return next(i for i, s in enumerate(self.sources) if s.startswith(source))

    def assert_held_to_the_end(self, since: int) -> None:
        """Every command from index `since` on is the safe action."""
        assert all(s.startswith("hold:") for s in self.sources[since:]), self.sources[since:]
        assert all(list(c.effort) == [0.0] for c in self.commands[since:])
