"""The bare peer of a control loop: a node that answers each sensor message with a command and does nothing else."""

from __future__ import annotations

import argparse
import gc

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.experimental.events_executor import EventsExecutor
from sensor_msgs.msg import JointState

from wm_ros.contract import schema
from wm_ros.nodes.base import COMMAND_QOS, SENSOR_QOS


def main() -> None:
    """Entry point: echoes until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contract", required=True)
    parser.add_argument("--executor", choices=("single_threaded", "events"), required=True)
    options = parser.parse_args()
    contract = schema.load(options.contract)
    rclpy.init()
    node = rclpy.create_node("echo")
    publisher = node.create_publisher(JointState, contract.action.topic, COMMAND_QOS)
    answer = JointState(name=list(contract.action.names), effort=[0.0] * contract.action_size)

    def echo(message: JointState) -> None:
        answer.header.stamp = message.header.stamp
        publisher.publish(answer)

    node.create_subscription(JointState, contract.observation[0].topic, echo, SENSOR_QOS)
    executor = EventsExecutor() if options.executor == "events" else SingleThreadedExecutor()
    executor.add_node(node)
    gc.collect()
    gc.freeze()
    try:
        while rclpy.ok():
            executor.spin_once(0.1)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
