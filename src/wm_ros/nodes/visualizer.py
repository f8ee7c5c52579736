"""Lifecycle node `visualizer`: the robot, its plan, the candidates and their spread as marks, and what cameras are imagined to show."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, PoseStamped
from nav_msgs.msg import Path
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Float32MultiArray
from visualization_msgs.msg import Marker, MarkerArray

from wm_ros.contract import resources
from wm_ros.contract.assembler import Assembler, BadMessage, Observation
from wm_ros.nodes.base import COMMAND_QOS, OK, WARN, Param, WmNode, run, steady_ns
from wm_ros.nodes.messages import image_message, message_class, numpy_array, time_message
from wm_ros.viz import displays, markers
from wm_ros.viz.imagined_film import film
from wm_ros.viz.kinematics import Kinematics

# Best effort also where the sensors are reliable (lockstep): a slow viewer must never hold the robot up.
NEWEST_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST)

KINDS = {"cube": Marker.CUBE, "sphere": Marker.SPHERE, "cylinder": Marker.CYLINDER, "line_strip": Marker.LINE_STRIP}
NO_POINTS = np.empty((0, 3))
PLANS = ("mpc/plan", "policy/plan")
PLANNED = (*PLANS, "mpc/candidates", "mpc/returns", "mpc/spread")


class Visualizer(WmNode):
    """Draws at most `rate_hz` times per second of wall clock, and listens to the robot only while somebody looks."""

    parameters = {
        "rate_hz": Param(20.0, "Most pictures per second, on the steady clock, in lockstep too", low=0.5, high=60.0),
        "lifetime_s": Param(0.5, "Marks disappear when nothing new has come for this time, in seconds", low=0.05, high=60.0),
        "tracked": Param("", "Site or body of the MJCF whose way is drawn; empty: the end of the deepest body"),
    }

    def __init__(self) -> None:
        super().__init__("visualizer")
        self._kinematics: Kinematics | None = None
        self._watching: list[Any] = []
        self._outputs: list[Any] = []

    def configure(self) -> None:
        self._forget()
        self._films = {name: self.create_publisher(Image, displays.imagined(name), COMMAND_QOS) for name in self.contract.images}
        self._outputs = list(self._films.values())
        self._pictures, self._refused, self._complaint, self._configured_ns = 0, 0, "", steady_ns()
        if self.contract.simulator is None:
            self.get_logger().warning(
                f"contract {self.contract.name} names no MJCF (simulator.mjcf): there is nothing to draw the robot with"
            )
            return
        beside = resources.find("config/contracts", self.param("contract"), ".yaml").parent
        self._kinematics = Kinematics(self.contract, self.param("tracked"), beside)
        self._marker_publisher = self.create_publisher(MarkerArray, displays.MARKERS.topic, COMMAND_QOS)
        self._path_publisher = self.create_publisher(Path, displays.PLAN_PATH.topic, COMMAND_QOS)
        self._outputs += [self._marker_publisher, self._path_publisher]

    def activate(self) -> None:
        if self._outputs:
            self._timer = self.create_timer(1.0 / self.param("rate_hz"), self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def deactivate(self) -> None:
        if self._outputs:
            self.destroy_timer(self._timer)
        self._stop_watching()

    def cleanup(self) -> None:
        self._stop_watching()
        for publisher in self._outputs:
            self.destroy_publisher(publisher)
        self._outputs, self._kinematics = [], None

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        values = {
            "uptime_s": (steady_ns() - self._configured_ns) * 1e-9,
            "pictures": self._pictures,
            "viewers": self._viewers(),
            "refused_messages": self._refused,
        }
        if self._complaint:
            message, self._complaint = self._complaint, ""
            return WARN, message, values
        if not self._outputs:
            return OK, "nothing to draw: the contract names no MJCF", values
        return OK, ("drawing" if self._watching else "nobody looks") if self.active else "inactive", values

    # ---- in -------------------------------------------------------------------------------------------------------

    def _viewers(self) -> int:
        return sum(publisher.get_subscription_count() for publisher in self._outputs)

    def _watch(self) -> None:
        """Subscribes to everything; `mpc` computes and sends its candidates only for subscribers."""
        self._forget()
        for channel in self.contract.observation:
            sensed = partial(self._sensed, channel.name)
            self._watching.append(self.create_subscription(message_class(channel.type), channel.topic, sensed, NEWEST_QOS))
        for topic in PLANNED:
            self._watching.append(self.create_subscription(Float32MultiArray, topic, partial(self._planned, topic), NEWEST_QOS))
        for camera in self._films:
            for source in ("mpc", "policy"):
                topic = f"{source}/imagined/{camera}"
                imagined = partial(self._imagined, camera, topic)
                self._watching.append(self.create_subscription(Image, topic, imagined, NEWEST_QOS))

    def _stop_watching(self) -> None:
        for subscription in self._watching:
            self.destroy_subscription(subscription)
        self._watching = []

    def _forget(self) -> None:
        self._assembler = Assembler(self.contract)
        self._frames: dict[str, tuple[NDArray[np.uint8], int]] = {}
        self._arrays: dict[str, tuple[NDArray[np.float32], int]] = {}
        self._news = False
        self._shown: set[tuple[str, int]] = set()
        self._path_shown = False

    def _sensed(self, channel: str, message: Any) -> None:
        try:
            self._assembler.update(channel, message, steady_ns())
        except BadMessage as error:
            if error.reason == "backwards":
                # Another run of the simulator, or a bag from its start again.
                self._assembler.reset()
            else:
                self._refuse(str(error))
                return
        self._news = True

    def _planned(self, topic: str, message: Float32MultiArray) -> None:
        try:
            array = numpy_array(message)
            self._check_shape(topic, array)
        except ValueError as error:
            self._refuse(f"{topic}: {error}")
            return
        self._arrays[topic] = (array, steady_ns())
        self._news = True

    def _imagined(self, channel: str, topic: str, message: Image) -> None:
        height, width, colours = self.contract.images[channel].shape
        data = np.asarray(message.data, np.uint8)
        size = height * width * colours
        if message.width != width or message.step != width * colours or not len(data) or len(data) % size:
            self._refuse(f"{topic}: {message.width} pixels wide and {len(data)} bytes, expected frames of {width} x {height} x {colours}")
            return
        self._frames[channel] = data.reshape(-1, height, width, colours), steady_ns()
        self._news = True

    def _check_shape(self, topic: str, array: NDArray[Any]) -> None:
        observed = self.contract.observation_size
        expected = {"plan": (2, observed), "candidates": (3, observed), "returns": (1, 0), "spread": (2, observed)}
        dims, least = expected[topic.partition("/")[2]]
        if array.ndim != dims or 0 in array.shape or array.shape[-1] < least:
            raise ValueError(f"shape {array.shape}, expected {dims} dims and at least {least} columns")

    def _refuse(self, complaint: str) -> None:
        self._refused += 1
        self._complaint = complaint

    # ---- out ------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        looked_at = self._viewers() > 0
        if looked_at and not self._watching:
            self._watch()
        elif not looked_at and self._watching:
            self._stop_watching()
        self._assembler.images = any(film.get_subscription_count() for film in self._films.values())
        observation = self._assembler.observe() if self._watching else None
        if observation is None:
            return
        if self._news:
            self._news = False
            self._pictures += 1
            if self._kinematics is not None:
                self._draw(self._kinematics, observation)
            self._show_films(observation)
        elif self._path_shown and self._plan() is None:
            self._publish_path(NO_POINTS, observation.stamp_ns)

    def _show_films(self, observation: Observation) -> None:
        for channel, publisher in self._films.items():
            frames, received_ns = self._frames.get(channel, (None, 0))
            shown = observation.images.get(channel)
            if frames is not None and shown is not None and self._fresh_since(received_ns) and publisher.get_subscription_count():
                publisher.publish(image_message(film(shown, frames), observation.stamp_ns, channel))

    def _draw(self, kinematics: Kinematics, observation: Observation) -> None:
        marks: list[markers.Marker] = []
        if self._fresh_since(observation.received_ns):
            marks += markers.robot(kinematics, observation.vector)
        plan, points = self._plan(), NO_POINTS
        if plan is not None:
            imagined = plan[:, : self.contract.observation_size]
            points = markers.plan(kinematics, np.concatenate([observation.vector[None], imagined]))
            marks.append(markers.plan_line(points))
            spread = self._fresh("mpc/spread")
            if spread is not None and spread[:, : self.contract.observation_size].shape == imagined.shape:
                marks += markers.spread(kinematics, imagined, spread[:, : self.contract.observation_size])
        candidates, returns = self._fresh("mpc/candidates"), self._fresh("mpc/returns")
        if candidates is not None:
            fits = returns is not None and len(returns) == len(candidates)
            marks += markers.candidates(kinematics, candidates[..., : self.contract.observation_size], returns if fits else None)
        if self._marker_publisher.get_subscription_count():
            self._publish_markers(marks, observation.stamp_ns)
        if self._path_publisher.get_subscription_count():
            self._publish_path(points, observation.stamp_ns)

    def _publish_path(self, points: NDArray[np.float64], stamp_ns: int) -> None:
        """Sends the plan's places `[N, 3]`; an empty path takes the last one off the screen, since paths have no lifetime."""
        if len(points) or self._path_shown:
            self._path_publisher.publish(path_message(points, time_message(stamp_ns)))
        self._path_shown = bool(len(points))

    def _publish_markers(self, marks: list[markers.Marker], stamp_ns: int) -> None:
        stamp = time_message(stamp_ns)
        lifetime_ns = round(self.param("lifetime_s") * 1e9)
        array = MarkerArray(markers=[marker_message(mark, stamp, lifetime_ns) for mark in marks])
        shown = {(mark.namespace, mark.id) for mark in marks}
        for namespace, number in sorted(self._shown - shown):
            gone = Marker(ns=namespace, id=number, action=Marker.DELETE)
            gone.header.frame_id, gone.header.stamp = markers.FRAME, stamp
            array.markers.append(gone)
        self._shown = shown
        self._marker_publisher.publish(array)

    def _fresh_since(self, received_ns: int) -> bool:
        return bool(steady_ns() - received_ns <= self.param("lifetime_s") * 1e9)

    def _plan(self) -> NDArray[np.float32] | None:
        """The newest plan, whoever made it; None where it is older than the lifetime."""
        return self._fresh(max(PLANS, key=lambda topic: self._arrays.get(topic, (None, 0))[1]))

    def _fresh(self, topic: str) -> NDArray[np.float32] | None:
        """The newest array of a topic, or None where it is older than the lifetime."""
        array, received_ns = self._arrays.get(topic, (None, 0))
        return array if array is not None and self._fresh_since(received_ns) else None


def marker_message(mark: markers.Marker, stamp: Any, lifetime_ns: int) -> Marker:
    """A mark as visualization_msgs/Marker."""
    message = Marker(ns=mark.namespace, id=mark.id, type=KINDS[mark.kind], action=Marker.ADD)
    message.header.frame_id, message.header.stamp = markers.FRAME, stamp
    pose = message.pose
    pose.position.x, pose.position.y, pose.position.z = mark.position
    pose.orientation.x, pose.orientation.y, pose.orientation.z, pose.orientation.w = mark.quaternion
    message.scale.x, message.scale.y, message.scale.z = mark.scale
    message.color.r, message.color.g, message.color.b, message.color.a = mark.color
    message.lifetime.sec, message.lifetime.nanosec = divmod(lifetime_ns, 1_000_000_000)
    if mark.points is not None:
        message.points = [Point(x=x, y=y, z=z) for x, y, z in mark.points.tolist()]
    return message


def path_message(points: NDArray[np.float64], stamp: Any) -> Path:
    """Places `[N, 3]` as nav_msgs/Path."""
    message = Path()
    message.header.frame_id, message.header.stamp = markers.FRAME, stamp
    for x, y, z in points.tolist():
        pose = PoseStamped(header=message.header)
        pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = x, y, z
        message.poses.append(pose)
    return message


def main(make: Callable[[], WmNode] = Visualizer) -> None:
    """Entry point of the executable."""
    run(make)


if __name__ == "__main__":
    main()
