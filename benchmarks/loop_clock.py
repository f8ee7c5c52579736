"""The robot's end of a loop for benchmarks: stamps sensors with the steady clock and times the commands that come back."""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path

import rclpy
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_srvs.srv import SetBool

from wm_ros.contract import schema
from wm_ros.contract.assembler import stamp_ns
from wm_ros.nodes.base import COMMAND_QOS, SENSOR_QOS, steady_ns
from wm_ros.nodes.messages import time_message

START_LIMIT_S = 40.0
"""How long the other end may take until it answers at all."""
LAST_ANSWER_S = 0.5
"""How long the last answers are waited for."""


class Clock(Node):
    """Publishes `joint_states` at a fixed rate; a command's latency is its arrival minus its stamp."""

    def __init__(self, contract: schema.Contract) -> None:
        super().__init__("clock")
        self.arrivals_ns: dict[int, int] = {}
        """Stamp → arrival of the first command with it that is no hold."""
        names = list(dict.fromkeys(str(f.joint) for c in contract.observation for f in c.features))
        self._message = JointState(name=names, position=[0.0] * len(names), velocity=[0.0] * len(names))
        self._sensors = self.create_publisher(JointState, contract.observation[0].topic, SENSOR_QOS)
        self.create_subscription(JointState, contract.action.topic, self._on_command, COMMAND_QOS)
        self.arm = self.create_client(SetBool, "command_gate/arm")

    def tick(self) -> int:
        """Publishes one sample and gives its stamp."""
        now = steady_ns()
        self._message.header.stamp = time_message(now)
        self._sensors.publish(self._message)
        return now

    def _on_command(self, message: JointState) -> None:
        now = steady_ns()
        if not message.header.frame_id.startswith("hold:"):
            self.arrivals_ns.setdefault(stamp_ns(message.header.stamp), now)


def measure(node: Clock, rate_hz: float, seconds: float, warm_up_s: float, armed: bool) -> dict[str, list[int]]:
    """Steady times in nanoseconds: when each sample was sent, and when its command came; -1 where none came."""
    executor = EventsExecutor()
    executor.add_node(node)
    period_ns = round(1e9 / rate_hz)

    def wait_until(moment_ns: int) -> None:
        while (left := moment_ns - steady_ns()) > 0:
            executor.spin_once(left * 1e-9)

    following = steady_ns()
    answer, asked_ns = None, 0
    limit = following + round(START_LIMIT_S * 1e9)
    # Until the first command: the other end starts, and a gate must be armed, once it has seen a sensor.
    while not node.arrivals_ns:
        if steady_ns() > limit:
            raise SystemExit(f"no command came back within {START_LIMIT_S:g} s")
        node.tick()
        if armed and steady_ns() - asked_ns > 1_000_000_000 and node.arm.service_is_ready():
            answer, asked_ns = node.arm.call_async(SetBool.Request(data=True)), steady_ns()
        following += period_ns
        wait_until(following)
    del answer
    gc.collect()
    gc.freeze()
    first = steady_ns() + round(warm_up_s * 1e9)
    last = first + round(seconds * 1e9)
    sent: list[int] = []
    while steady_ns() < last:
        stamp = node.tick()
        if stamp >= first:
            sent.append(stamp)
        following = max(following + period_ns, steady_ns())
        wait_until(following)
    wait_until(last + round(LAST_ANSWER_S * 1e9))
    return {"sent_ns": sent, "arrived_ns": [node.arrivals_ns.get(stamp, -1) for stamp in sent]}


def main() -> None:
    """Entry point: writes what `measure` gives to the file `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contract", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--warm-up", type=float, required=True)
    parser.add_argument("--arm", action="store_true", help="arm the command gate first")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rclpy.init()
    contract = schema.load(options.contract)
    node = Clock(contract)
    try:
        measured = measure(node, contract.control.rate_hz, options.seconds, options.warm_up, options.arm)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    options.out.write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
