"""A robot that only talks: publishes 12-joint `joint_states` at a high rate while a logger records, and says what it sent."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import rclpy
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from wm_ros.nodes.base import SENSOR_QOS
from wm_ros.nodes.messages import time_message

JOINTS = 12
PATIENCE_S = 40.0
BURST_S = 0.001
"""Messages go out in bursts of this length, as from a driver's cycle of 1 kHz."""


def main() -> None:
    """Records one bag by hand: start, publish, stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--logger", required=True, help="part of the logger's command line")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rclpy.init()
    node = rclpy.create_node("source")
    publisher = node.create_publisher(JointState, "joint_states", SENSOR_QOS)
    _call(node, "logger/start")
    deadline = time.monotonic() + PATIENCE_S
    while not publisher.get_subscription_count():
        if time.monotonic() > deadline:
            raise SystemExit("the logger does not listen to joint_states")
        time.sleep(0.05)
    pid = _pid(options.logger)
    count, burst = round(options.rate * options.seconds), round(options.rate * BURST_S)
    numbers = [0.1 * i for i in range(JOINTS)]
    message = JointState(name=[f"joint_{i}" for i in range(JOINTS)], position=numbers, velocity=numbers, effort=numbers)
    began, cpu = time.monotonic(), _cpu_s(pid)
    for first in range(0, count, burst):
        message.header.stamp = time_message(time.time_ns())
        data = serialize_message(message)
        for _ in range(min(burst, count - first)):
            publisher.publish(data)
        time.sleep(max(0.0, began + (first + burst) / options.rate - time.monotonic()))
    took = time.monotonic() - began
    time.sleep(1.0)
    spent = _cpu_s(pid) - cpu
    bag = _call(node, "logger/stop")
    options.out.write_text(json.dumps({"sent": count, "seconds": took, "cpu_s": spent, "bag": bag, "bytes": len(data)}))


def _call(node: Node, name: str) -> str:
    client = node.create_client(Trigger, name)
    if not client.wait_for_service(PATIENCE_S):
        raise SystemExit(f"nobody offers {name}")
    future = client.call_async(Trigger.Request())
    rclpy.spin_until_future_complete(node, future, timeout_sec=PATIENCE_S)
    answer = future.result()
    if answer is None or not answer.success:
        raise SystemExit(f"{name}: {answer.message if answer else 'no answer'}")
    return str(answer.message)


def _pid(part: str) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if part.encode() in words and b"wm_ros.nodes.logger" in words:
                return int(entry.name)
    raise SystemExit("there is no logger process")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100.0  # user and system time, in the kernel's fixed ticks


if __name__ == "__main__":
    main()
