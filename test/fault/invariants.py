"""The invariant monitor: a process of its own that holds every message on `command` against the contract.

It shares nothing with the gate but the contract. Each command becomes a JSON line on its output: when it came (steady clock, in ns, one
for all processes of a machine), from whom, and what is wrong with it.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from wm_ros.contract import schema
from wm_ros.contract.schema import Contract

SLACK = 1e-9
"""Of limits, for rounding."""
ROW = re.compile(r"\+(\d+)ms$")
"""A row of an older plan: what it was computed from is older than its stamp by that."""
REMEMBERED = 1000
"""Messages of a sensor; this process may be late by less."""


@dataclass
class Invariants:
    """What must hold for the sequence of commands, whatever happens to everything else."""

    contract: Contract
    seen: dict[str, deque[tuple[int, int]]] = field(default_factory=dict)
    """Topic → (when it was published, stamp), the newest messages."""
    lockstep: bool = False
    """Time waits for commands: the simulator takes only the answer to its present observation, whatever the age of others."""
    last: tuple[float, ...] | None = None

    def sensor(self, topic: str, stamp_ns: int, published_ns: int) -> None:
        """A sensor message was seen; also a faulty one."""
        self.seen.setdefault(topic, deque(maxlen=REMEMBERED)).append((published_ns, stamp_ns))

    def faults(self, source: str, names: list[str], values: list[float], stamp_ns: int, published_ns: int) -> list[str]:
        """What is wrong with a command, held against what was published before it; empty where nothing is."""
        joints = self.contract.action.joints
        if names != [j.name for j in joints] or len(values) != len(names):
            return [f"joints {names} with {len(values)} values"]
        if not all(math.isfinite(v) for v in values):
            return [f"not finite: {values}"]
        found = [f"{j.name} = {v} is outside [{j.low}, {j.high}]" for j, v in zip(joints, values, strict=True) if not _within(j, v)]
        last, self.last = self.last, tuple(values)
        if source.startswith("hold:"):
            return found + [f"hold is {values}" for _ in [0] if self.contract.safety.hold == "zero" and any(values)]
        if last is not None:
            # The gate counts the time between its own sends; here two periods, its longest, stand for all.
            reach = 2 * self.contract.control.period_s
            found += [
                f"{j.name} went from {old} to {new}: more than {j.rate_limit} {j.units}/s"
                for j, old, new in zip(joints, last, values, strict=True)
                if j.rate_limit is not None and abs(new - old) > j.rate_limit * reach + SLACK
            ]
        # One period more: the newest sample may be on its way to the gate while the command leaves it.
        known_ns = published_ns - self.contract.control.period_ns
        newest = [max((stamp for at, stamp in messages if at <= known_ns), default=0) for messages in self.seen.values()]
        if newest and not self.lockstep:
            row = ROW.search(source)
            age_s = 1e-9 * (min(newest) - stamp_ns) + (1e-3 * int(row[1]) if row else 0.0)
            if age_s > self.contract.safety.max_plan_age_s:
                found.append(f"computed from an observation that is {age_s:.3f} s old")
        return found


def _within(joint: Any, value: float) -> bool:
    return bool(joint.low - SLACK <= value <= joint.high + SLACK)


def main(contract_file: str, lockstep: bool) -> None:
    """Listens until its input ends."""
    import threading
    import time

    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from rclpy.subscription import MessageInfo
    from sensor_msgs.msg import JointState

    from wm_ros.contract.assembler import stamp_ns
    from wm_ros.nodes.messages import message_class

    contract = schema.load(contract_file)
    invariants = Invariants(contract, lockstep=lockstep)
    rclpy.init(args=sys.argv)
    node = rclpy.create_node("invariants")

    def on_command(message: JointState, info: MessageInfo) -> None:
        now, source = time.monotonic_ns(), message.header.frame_id
        values = list(getattr(message, contract.action.interface))
        found = invariants.faults(source, list(message.name), values, stamp_ns(message.header.stamp), info["source_timestamp"])
        print(json.dumps({"t": now, "source": source, "stamp": stamp_ns(message.header.stamp), "faults": found}), flush=True)

    node.create_subscription(JointState, contract.action.topic, on_command, 5000)
    for channel in contract.observation:

        def on_sensor(message: Any, info: MessageInfo, topic: str = channel.topic) -> None:
            invariants.sensor(topic, stamp_ns(message.header.stamp), info["source_timestamp"])

        node.create_subscription(
            message_class(channel.type), channel.topic, on_sensor, QoSProfile(depth=REMEMBERED, reliability=ReliabilityPolicy.BEST_EFFORT)
        )
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    print(json.dumps({"ready": True}), flush=True)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not ended.is_set():
        executor.spin_once(0.1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "lockstep")
