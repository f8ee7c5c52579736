"""The logger as its own process, spoken to over ROS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from camera_bags import scene, with_camera
from cartpole_bags import JOINT_STATE, PERIOD, START, cdr, force, raw_state, store
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from wm_ros.contract import announcements, schema
from wm_ros.contract.announcements import EpisodeState, Segment
from wm_ros.contract.assembler import Assembler
from wm_ros.data.align import read_episodes
from wm_ros.data.bag_reader import Bag
from wm_ros.data.ros_types import deserialize
from wm_ros.nodes.base import COMMAND_QOS, LATCHED_QOS, LOCKSTEP_QOS, SEGMENT_QOS
from wm_ros.nodes.messages import time_message

PATIENCE_S = 30.0


def normal(data: bytes) -> bytes:
    """The message with zeros for padding: what stands there is left to chance by the middleware."""
    return cdr(JOINT_STATE, deserialize(store, data, JOINT_STATE))


def sensors_in(bag: Bag) -> list[bytes]:
    return [normal(m.data) for m in bag.messages({"/cart/joint_states"})]


class Robot(Node):
    """Plays the simulator, the gate and the episode manager."""

    def __init__(self) -> None:
        super().__init__("robot", namespace="cart")
        self.sensor = self.create_publisher(JointState, "joint_states", LOCKSTEP_QOS)
        self.command = self.create_publisher(JointState, "command", COMMAND_QOS)
        self.episode = self.create_publisher(String, "episode", LATCHED_QOS)
        self.segments: list[Segment] = []
        self.diagnostics: list[DiagnosticStatus] = []
        self.sent: list[bytes] = []
        self.create_subscription(String, "log/segment", self._on_segment, SEGMENT_QOS)
        self.create_subscription(DiagnosticArray, "diagnostics", lambda m: self.diagnostics.extend(m.status), 10)
        self.start = self.create_client(Trigger, "logger/start")
        self.stop = self.create_client(Trigger, "logger/stop")

    def _on_segment(self, message: String) -> None:
        self.segments.append(announcements.read(Segment, message.data, "log/segment"))

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
            rclpy.spin_once(self, timeout_sec=0.05)

    def connected(self) -> None:
        """Until the logger is subscribed to everything."""
        self.wait(lambda: all(p.get_subscription_count() for p in (self.sensor, self.command, self.episode)), "the logger")
        self.wait(lambda: self.diagnostics, "diagnostics")

    def say(self, state: str, ticks: int = 0, episode: int = 1, start: int = START) -> None:
        end = start + ticks * PERIOD if state in ("ended", "discarded") else 0
        text = EpisodeState(
            episode=episode, state=state, purpose="train", seed=0, start_stamp_ns=start, end_stamp_ns=end, controller_version=2
        ).to_json()
        self.episode.publish(String(data=text))

    def tick(self, k: int, start: int = START, command: bool = True) -> JointState:
        position, velocity = raw_state(k)
        sensor = JointState(name=["slider", "hinge_1"], position=position, velocity=velocity)
        sensor.header.stamp = time_message(start + k * PERIOD)
        self.sensor.publish(sensor)
        self.sent.append(normal(serialize_message(sensor)))
        if command:
            message = JointState(name=["slider"], effort=[force(k)])
            message.header.stamp = time_message(start + k * PERIOD)
            self.command.publish(message)
        rclpy.spin_once(self, timeout_sec=0.002)
        return sensor


@pytest.fixture
def robot() -> Iterator[Robot]:
    rclpy.init()
    node = Robot()
    yield node
    node.destroy_node()
    rclpy.shutdown()


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); from wm_ros.nodes.logger import main; main()"


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []

    def start(limit: int = 0, **parameters: Any) -> subprocess.Popen[str]:
        program = ["-c", LIMITED.format(limit=limit)] if limit else ["-m", "wm_ros.nodes.logger"]
        arguments = ["--ros-args", "-r", "__ns:=/cart"]
        for key, value in {"directory": tmp_path / "bags", "mode": "lockstep", **parameters}.items():
            arguments += ["-p", f"{key}:={value}"]
        process = subprocess.Popen([sys.executable, *program, *arguments], stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_an_episode_becomes_one_bag_with_every_message_bit_for_bit(robot: Robot, logger: Any, tmp_path: Path) -> None:
    process = logger()
    robot.connected()
    for k in range(3):  # before the episode was announced: the ring buffer has it
        robot.tick(k)
    robot.say("running")
    for k in range(3, 60):
        robot.tick(k)
    robot.say("ended", ticks=60)
    robot.tick(60, command=False)  # the last sample may come after the announcement
    robot.wait(lambda: robot.segments, "log/segment")
    segment = robot.segments[0]
    assert segment.path == str(tmp_path / "bags" / "episode_0001") and segment.dropped == 0
    bag = Bag(segment.path)
    assert sensors_in(bag) == robot.sent
    assert segment.messages == sum(bag.counts.values()) == 61 + 60 + 2
    contract = schema.load("cartpole_swingup")
    assert bag.contract == contract and not bag.losses
    (episode,) = read_episodes(segment.path, contract)
    assert len(episode) == 60 and episode.provenance.controller_version == 2
    assert episode.action[:, 0].tolist() == [np.float32(force(k)) for k in range(60)]
    robot.say("running", episode=1, start=START + 10**10)  # the same number again must not overwrite anything
    for k in range(5):
        robot.tick(k, START + 10**10)
    robot.say("ended", 4, start=START + 10**10)
    robot.wait(lambda: len(robot.segments) == 2, "the second segment")
    assert robot.segments[1].path.endswith("episode_0002")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0


def test_pictures_of_a_megabyte_are_recorded_as_they_came_and_give_what_the_live_assembler_saw(
    robot: Robot, logger: Any, tmp_path: Path
) -> None:
    contract = with_camera()
    contract_file = tmp_path / "camera.yaml"
    contract_file.write_text(contract.canonical_json())
    camera = robot.create_publisher(Image, "camera/image_raw", LOCKSTEP_QOS)
    logger(contract=contract_file, linger_seconds=30.0)  # the last picture carries the last stamp, and may take its time
    robot.connected()
    robot.wait(camera.get_subscription_count, "the logger's subscription to the camera")
    assembler, seen = Assembler(contract), []
    robot.say("running")
    for k in range(31):
        if k % 5 == 0:
            picture = Image(height=600, width=600, encoding="bgr8", step=1800, data=scene(k, 600, 600).tobytes())
            picture.header.stamp = time_message(START + k * PERIOD)
            camera.publish(picture)
            assembler.update("camera", picture, k)
        assembler.update("joints", robot.tick(k, command=k < 30), k)
        observation = assembler.observe()
        assert observation is not None
        seen.append(observation.images["camera"])
    robot.say("ended", ticks=30)
    robot.wait(lambda: robot.segments, "log/segment")
    assert robot.segments[0].dropped == 0
    (episode,) = read_episodes(robot.segments[0].path, contract)
    assert len(episode) == 30 and np.asarray(episode.images["camera"]).tobytes() == np.stack(seen).tobytes()


def test_a_terminated_logger_closes_its_bag(robot: Robot, logger: Any, tmp_path: Path) -> None:
    process = logger()
    robot.connected()
    robot.say("running")
    for k in range(20):
        robot.tick(k)
    robot.wait(lambda: _recorded(robot), "the messages to arrive")
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 0
    bag = Bag(tmp_path / "bags" / "episode_0001")
    assert bag.metadata is not None and not bag.losses
    assert sensors_in(bag) == robot.sent


def test_a_killed_loggers_bag_is_readable_to_its_last_chunk(robot: Robot, logger: Any, tmp_path: Path) -> None:
    process = logger(chunk_seconds=0.05)
    robot.connected()
    robot.say("running")
    storage = tmp_path / "bags" / "episode_0001" / "episode_0001_0.mcap"
    k = 0

    def two_chunks() -> bool:
        nonlocal k
        robot.tick(k)
        k += 1
        return storage.exists() and storage.stat().st_size > 8 and len(list(Bag(storage).blocks())) >= 2

    robot.wait(two_chunks, "two chunks")
    process.kill()
    process.wait(PATIENCE_S)
    path = tmp_path / "bags" / "episode_0001"
    assert not (path / "metadata.yaml").exists()
    read = sensors_in(Bag(path))
    assert read and read == robot.sent[: len(read)]
    episodes = read_episodes(path, schema.load("cartpole_swingup"))
    assert episodes[0].stamp[0] == START and episodes[0].provenance.controller_version == 2


def test_a_full_disk_stops_the_recording_with_an_error_and_nothing_else(robot: Robot, logger: Any, tmp_path: Path) -> None:
    process = logger(limit=20_000, chunk_seconds=0.05, compression="none")
    robot.connected()
    robot.say("running")
    k = 0

    def error() -> bool:
        nonlocal k
        robot.tick(k)
        k += 1
        return any(d.level == DiagnosticStatus.ERROR and "episode_0001: recording stopped" in d.message for d in robot.diagnostics)

    robot.wait(error, "the ERROR diagnostic")
    assert process.poll() is None
    read = sensors_in(Bag(tmp_path / "bags" / "episode_0001"))
    assert read and read == robot.sent[: len(read)]
    assert not robot.segments
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0


def test_recording_by_hand_and_discarded_episodes(robot: Robot, logger: Any, tmp_path: Path) -> None:
    logger()
    robot.connected()
    robot.wait(robot.start.service_is_ready, "logger/start")
    started = robot.start.call_async(Trigger.Request())
    robot.wait(started.done, "an answer")
    assert started.result().message == str(tmp_path / "bags" / "recording_0000")
    robot.tick(0)
    robot.wait(lambda: _recorded(robot, 2), "the messages to arrive")
    stopped = robot.stop.call_async(Trigger.Request())
    robot.wait(stopped.done, "an answer")
    metadata = tmp_path / "bags" / "recording_0000" / "metadata.yaml"
    robot.wait(metadata.exists, "the closed bag")
    assert Bag(metadata.parent).counts["/cart/joint_states"] == 1
    later = START + 10**10
    robot.say("running", start=later)
    for k in range(6):
        robot.tick(k, later)
    robot.say("ended", 5, start=later)
    robot.wait(lambda: robot.segments, "log/segment")
    contract = schema.load("cartpole_swingup")
    assert len(read_episodes(robot.segments[0].path, contract)) == 1
    robot.say("discarded", 5, start=later)
    robot.wait(lambda: not read_episodes(robot.segments[0].path, contract), "the mark in the bag")
    assert Bag(robot.segments[0].path).counts["/cart/joint_states"] == 6


def test_a_folder_that_cannot_be_written_is_named(logger: Any, tmp_path: Path) -> None:
    (tmp_path / "bags").write_text("not a folder")
    process = logger()
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2 and "parameter directory" in errors and "Traceback" not in errors


def _recorded(robot: Robot, messages: int | None = None) -> bool:
    """Whether the newest diagnostics count all messages that were sent."""
    expected = 2 * len(robot.sent) + 1 if messages is None else messages
    newest = robot.diagnostics[-1]
    return any(v.key == "messages" and int(v.value) >= expected for v in newest.values)
