"""The visualizer as the process that users run, looked at through its topics."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Path
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32MultiArray
from visualization_msgs.msg import Marker, MarkerArray

from wm_ros.nodes.messages import float32_array, time_message
from wm_ros.viz import displays

PATIENCE_S = 40.0
NAMESPACE = f"visualizer_test_{os.getpid()}"
HORIZON = 12


class Viewer:
    """The robot's side and the viewer's side of the topics, on a thread of its own."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("viewer", namespace=NAMESPACE, context=self.context)
        self.changed = threading.Condition()
        self.arrays: list[MarkerArray] = []
        self.paths: list[Path] = []
        self.health: list[Any] = []
        self.tick = 0
        self.cart = 0.5
        self.plan = self.backwards = False
        self.joints = self.node.create_publisher(JointState, "joint_states", 10)
        self.planned = {
            topic: self.node.create_publisher(Float32MultiArray, f"mpc/{topic}", 1) for topic in ("plan", "candidates", "returns", "spread")
        }
        self.node.create_subscription(DiagnosticArray, "diagnostics", lambda m: self._keep(self.health, m.status[0]), 10)
        self.subscriptions: list[Any] = []
        self.node.create_timer(0.02, self._robot)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def look(self) -> None:
        self.subscriptions = [
            self.node.create_subscription(MarkerArray, "markers", lambda m: self._keep(self.arrays, m), 1),
            self.node.create_subscription(Path, "plan_path", lambda m: self._keep(self.paths, m), 1),
        ]

    def look_away(self) -> None:
        for subscription in self.subscriptions:
            self.node.destroy_subscription(subscription)
        self.subscriptions = []

    def _keep(self, where: list[Any], message: Any) -> None:
        with self.changed:
            where.append(message)
            self.changed.notify_all()

    def _robot(self) -> None:
        self.tick += 1
        stamp_ns = (1 if self.backwards else 1000) * 10**9 + self.tick * 20_000_000
        # Names in an order of their own, and a joint that the contract does not know.
        message = JointState(name=["gripper", "hinge_1", "slider"], position=[9.0, math.pi, self.cart], velocity=[0.0, 0.0, 0.0])
        message.header.stamp = time_message(stamp_ns)
        self.joints.publish(message)
        if self.plan:
            plan = np.zeros((HORIZON, 6))
            plan[:, 0], plan[:, 2] = np.linspace(self.cart, 1.5, HORIZON), -1.0
            candidates = np.stack([plan[:, :5], plan[:, :5] * [0.5, 1, 1, 1, 1], plan[:, :5] * [0.2, 1, 1, 1, 1]])
            self.planned["plan"].publish(float32_array(plan, "horizon", "column"))
            self.planned["candidates"].publish(float32_array(candidates, "candidate", "horizon", "column"))
            self.planned["returns"].publish(float32_array(np.array([3.0, 2.0, 1.0]), "candidate"))
            self.planned["spread"].publish(float32_array(np.full((HORIZON, 5), 0.01), "horizon", "column"))
        with self.changed:
            self.changed.notify_all()

    def wait(self, what: str, test: Callable[[], Any]) -> Any:
        """The first true result of `test`, which is tried whenever something happened."""
        with self.changed:
            result = self.changed.wait_for(test, PATIENCE_S)
        assert result, f"waited {PATIENCE_S:.0f} s in vain for {what}"
        return result

    def marks(self, what: str, test: Callable[[dict[tuple[str, int], Marker]], Any]) -> dict[tuple[str, int], Marker]:
        """Clears what was seen and waits for an array that `test` accepts."""
        with self.changed:
            self.arrays.clear()

        def find() -> Any:
            for array in self.arrays:
                added = {(m.ns, m.id): m for m in array.markers if m.action == Marker.ADD}
                if test(added):
                    return added
            return None

        return self.wait(what, find)  # type: ignore[no-any-return]

    def close(self) -> None:
        self.executor.shutdown()
        self.thread.join()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture(scope="module")
def viewer() -> Iterator[Viewer]:
    viewer = Viewer()
    yield viewer
    viewer.close()


@pytest.fixture(scope="module", autouse=True)
def visualizer(viewer: Viewer) -> Iterator[subprocess.Popen[str]]:
    arguments = ["--ros-args", "-r", f"__ns:=/{NAMESPACE}", "-p", "mode:=lockstep", "-p", "rate_hz:=20.0", "-p", "lifetime_s:=0.5"]
    process = subprocess.Popen([sys.executable, "-m", "wm_ros.nodes.visualizer", *arguments], stderr=subprocess.PIPE, text=True)
    yield process
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def subscribed(viewer: Viewer) -> int:
    return sum(p.get_subscription_count() for p in (viewer.joints, *viewer.planned.values()))


def test_robot_is_not_listened_to_before_somebody_looks(viewer: Viewer) -> None:
    viewer.wait("diagnostics", lambda: any(s.message == "nobody looks" for s in viewer.health))
    assert subscribed(viewer) == 0


def test_markers_of_a_joint_state_are_where_the_joints_are(viewer: Viewer) -> None:
    viewer.look()
    marks = viewer.marks("the robot", lambda added: any(ns == "robot" for ns, _ in added))
    assert {ns for ns, _ in marks} == {"world", "robot"}, "no plan, no marks of it"
    cart = next(m for (ns, _), m in marks.items() if ns == "robot" and m.type == Marker.CUBE)
    assert (cart.pose.position.x, cart.pose.position.z) == pytest.approx((0.5, 1.0))
    assert cart.header.frame_id == "world" and cart.lifetime.nanosec == 500_000_000
    lowest = min(m.pose.position.z for (ns, _), m in marks.items() if ns == "robot")
    assert lowest == pytest.approx(0.0, abs=1e-6), "the pole hangs down"


def test_published_topics_have_the_types_of_the_table_that_rviz_is_checked_against(viewer: Viewer) -> None:
    types = dict(viewer.node.get_publisher_names_and_types_by_node("visualizer", f"/{NAMESPACE}"))
    for display in displays.DISPLAYS:
        assert types[f"/{NAMESPACE}/{display.topic}"] == [display.message_type]


def test_plan_candidates_and_spread_are_drawn_and_disappear_when_stale(viewer: Viewer) -> None:
    viewer.plan = True
    marks = viewer.marks("the plan", lambda added: {"plan", "candidates", "spread"} <= {ns for ns, _ in added})
    assert set(displays.NAMESPACES) == {ns for ns, _ in marks}
    assert sum(ns == "candidates" for ns, _ in marks) == 3
    path = viewer.wait("the path", lambda: next((p for p in viewer.paths if p.poses), None))
    # Row 0 is where the robot is, then one pose for each row of the plan; the tip hangs one metre below the cart.
    assert len(path.poses) == HORIZON + 1 and path.header.frame_id == "world"
    end = path.poses[-1].pose.position
    assert (end.x, end.y, end.z) == pytest.approx((1.5, 0.0, 0.0), abs=1e-5)

    viewer.plan = False
    viewer.marks("marks without a plan", lambda added: {ns for ns, _ in added} == {"world", "robot"})
    viewer.wait("an empty path", lambda: not viewer.paths[-1].poses)


def test_pictures_are_throttled_on_the_wall_clock_also_in_lockstep(viewer: Viewer) -> None:
    """The robot publishes at 50 Hz; the node's own count of pictures must stay at or below 20 Hz."""

    def counts() -> list[tuple[float, int]]:
        found = []
        for status in viewer.health:
            values = {v.key: v.value for v in status.values}
            found.append((float(values["uptime_s"]), int(values["pictures"])))
        return found

    with viewer.changed:
        viewer.health.clear()
    viewer.wait("four seconds of diagnostics", lambda: len(viewer.health) >= 4)
    (start, before), (end, after) = counts()[0], counts()[-1]
    assert 0 < after - before <= 20.0 * (end - start) + 1


def test_malformed_arrays_and_messages_are_refused_and_named(viewer: Viewer) -> None:
    wrong = Float32MultiArray(data=[1.0, 2.0])
    with viewer.changed:
        viewer.health.clear()

    def complained() -> bool:
        viewer.planned["plan"].publish(wrong)
        return any("mpc/plan" in status.message for status in viewer.health)

    viewer.wait("a complaint", complained)
    viewer.marks("the robot all the same", lambda added: any(ns == "robot" for ns, _ in added))


def test_time_that_starts_again_does_not_stop_the_pictures(viewer: Viewer) -> None:
    viewer.backwards, viewer.cart = True, -0.25
    marks = viewer.marks("the robot", lambda added: any(m.type == Marker.CUBE and m.pose.position.x == -0.25 for m in added.values()))
    assert max(m.header.stamp.sec for m in marks.values()) < 1000


def test_robot_is_left_alone_when_nobody_looks_any_more(viewer: Viewer) -> None:
    assert subscribed(viewer) == 5
    viewer.look_away()
    viewer.wait("the subscriptions to go", lambda: subscribed(viewer) == 0)
