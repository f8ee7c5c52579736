"""A controller that looks at a camera, through all nodes: what it saw is what the bag holds, bit for bit."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_controller
import yaml
from gl import pictures_or_skip
from nav_msgs.msg import Path as NavPath
from peer import Peer, Process, running
from sensor_msgs.msg import Image, JointState

from wm_ros.bringup.monitored import MonitoredSystem
from wm_ros.bringup.system import SystemOptions, describe
from wm_ros.cli.record import Record
from wm_ros.contract import resources, schema
from wm_ros.contract.assembler import stamp_ns
from wm_ros.data.align import read_episodes
from wm_ros.nodes.base import SENSOR_QOS, WARN
from wm_ros.nodes.messages import time_message
from wm_ros.runtime.controller import ControllerSession
from wm_ros.sim.episode import run_episode
from wm_ros.sim.simulator import Simulator

TICKS = 30


def task(folder: Path, every: int = 1) -> Path:
    """The shipped example with small pictures and short episodes."""
    data = yaml.safe_load((resources.share_directory() / "config/contracts/cartpole_balance_pixels.yaml").read_text())
    data["episode"]["duration_s"] = TICKS * 0.02
    data["observation"][1]["image"] = {"height": 24, "width": 32, "encoding": "rgb8"}
    data["simulator"]["cameras"]["front"]["every"] = every
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.usefixtures("domain")
def test_an_episode_from_pixels_in_lockstep_is_recorded_as_it_was_seen(tmp_path: Path) -> None:
    pictures_or_skip()
    path = task(tmp_path, every=3)
    contract = schema.load(path)
    controller = tiny_controller.looking(tmp_path / "tiny.onnx", contract)
    options = SystemOptions(
        contract=str(path), controller=str(controller), agent="sac", mode="lockstep", evaluate=1, run_directory=str(tmp_path)
    )
    record = Record("evaluate", 1)
    with MonitoredSystem(describe(options), tmp_path / "logs", patience_s=60.0) as system:
        for event in system.events(record.awaited):
            record.take(event)
            if record.episodes_done:
                break
    (episode,) = read_episodes(Path(record.bags[0]), contract)
    shown = np.asarray(episode.images["front"])
    assert len(episode) == TICKS and shown.shape == (TICKS + 1, 24, 32, 3)
    # What the controller says to the bag is what it said to the robot ...
    twin = ControllerSession.load(controller, contract)
    twin.reset(0)
    said = np.stack([twin.act(o, {"front": picture}).action for o, picture in zip(episode.observation[:-1], shown, strict=False)])
    assert said.clip(-10.0, 10.0).tobytes() == episode.action.tobytes() and len({p.tobytes() for p in shown}) > 5
    # ... and the pictures are those of the same actions without ROS.
    script = iter(episode.action)
    alone = run_episode(Simulator(contract), lambda observation: next(script), TICKS, resets=1)
    assert np.asarray(alone.images["front"]).tobytes() == shown.tobytes()
    assert alone.observation.tobytes() == episode.observation.tobytes()


class Eye(Peer):
    """The robot of a policy that looks at a camera, in real time."""

    def __init__(self) -> None:
        super().__init__("eye")
        self.answers: list[JointState] = []
        self.stamp = 10**9
        self.seen = 0
        """Stamp of the last good picture."""
        self.joints = self.node.create_publisher(JointState, "joint_states", SENSOR_QOS)
        self.pictures = self.node.create_publisher(Image, "front/image_raw", SENSOR_QOS)
        self.node.create_subscription(JointState, "policy/command", self.answers.append, 10)

    def picture(self, encoding: str = "rgb8", rows: int = 24, value: int = 51) -> None:
        image = Image(height=24, width=32, encoding=encoding, step=96, data=bytes([value]) * (96 * rows))
        image.header.stamp = time_message(self.stamp)
        self.seen = self.stamp if (encoding, rows) == ("rgb8", 24) else self.seen
        self.pictures.publish(image)

    def tick(self) -> None:
        self.stamp += 20_000_000
        message = JointState(name=["slider", "hinge_1"], position=[0.0, 0.0], velocity=[0.0, 0.0])
        message.header.stamp = time_message(self.stamp)
        self.joints.publish(message)

    def told(self, *words: str) -> None:
        """Ticks go on, and no command follows, until the diagnostics name the fault."""
        del self.answers[:]

        def named() -> bool:
            self.tick()
            level, message, _ = self.health.get("policy_server", (WARN, "", {}))
            return level == WARN and all(word in message for word in words)

        self.wait(named, f"{words} in the diagnostics")
        late = [a for a in self.answers if stamp_ns(a.header.stamp) > self.seen + 100_000_000]
        assert not late, "a command that nothing was seen for"


def test_while_the_camera_fails_there_is_no_command_and_its_channel_is_named(tmp_path: Path) -> None:
    path = task(tmp_path)
    controller = tiny_controller.looking(tmp_path / "tiny.onnx", schema.load(path))
    eye = Eye()
    try:
        with running("policy_server", eye.namespace, tmp_path / "log", contract=str(path), controller=str(controller)):
            eye.wait(lambda: eye.joints.get_subscription_count() and eye.pictures.get_subscription_count(), "the node")
            eye.told("no front yet on front/image_raw")
            for damage, said in (({"encoding": "yuv422"}, "encoding 'yuv422' is not read"), ({"rows": 23}, "data have 2208 bytes")):
                eye.picture(**damage)
                eye.told("front/image_raw", said)

            def seen() -> bool:
                eye.picture()
                eye.tick()
                return any(a.effort[0] == np.float32(0.2) for a in eye.answers)

            eye.wait(seen, "a command")
            eye.told("image of channel front is", "s old, at most 0.1 s are allowed: check front/image_raw")
    finally:
        eye.close()


def test_each_tick_is_answered_with_the_picture_that_was_taken_with_it(tmp_path: Path) -> None:
    """Which comes after the vector; where it does not come, the one before is good for a while."""
    path = task(tmp_path)
    controller = tiny_controller.looking(tmp_path / "tiny.onnx", schema.load(path))
    eye = Eye()
    shades: dict[int, int] = {}

    def answered() -> bool:
        eye.tick()
        shades[eye.stamp] = 51 * (len(shades) % 3)
        time.sleep(0.004)
        if len(shades) % 10:
            eye.picture(value=shades[eye.stamp])
        time.sleep(0.016)
        return len([a for a in eye.answers if stamp_ns(a.header.stamp) in shades]) >= 60

    try:
        serving = {"contract": str(path), "controller": str(controller), "picture_wait_periods": 1.0}
        with running("policy_server", eye.namespace, tmp_path / "log", **serving):
            eye.wait(lambda: eye.joints.get_subscription_count() and eye.pictures.get_subscription_count(), "the node")
            eye.wait(answered, "sixty answers")
    finally:
        eye.close()
    said = {stamp_ns(a.header.stamp): float(a.effort[0]) for a in eye.answers if stamp_ns(a.header.stamp) in shades}
    # The controller adds the number of its ticks.
    right = [abs((effort - shades[stamp] / 255.0 + 0.5) % 1.0 - 0.5) < 1e-4 for stamp, effort in said.items()]
    # Every tenth has no picture of its own, and a busy machine may be late for some more.
    assert 0.5 < np.mean(right) < 1.0


def test_what_the_policy_imagines_is_shown_beside_the_camera(tmp_path: Path) -> None:
    path = task(tmp_path)
    controller = tiny_controller.looking(tmp_path / "tiny.onnx", schema.load(path), dreams=True)
    eye = Eye()
    films: list[Image] = []
    tall: list[Image] = []
    paths: list[NavPath] = []
    eye.node.create_subscription(Image, "imagined/front", films.append, 10)
    eye.node.create_subscription(Image, "policy/imagined/front", tall.append, 10)
    eye.node.create_subscription(NavPath, "plan_path", paths.append, 10)

    def shown() -> bool:
        eye.picture()
        eye.tick()
        return bool(tall and films and any(len(p.poses) == tiny_controller.HORIZON + 1 for p in paths))

    try:
        server = running("policy_server", eye.namespace, tmp_path / "server", contract=str(path), controller=str(controller))
        with server, running("visualizer", eye.namespace, tmp_path / "visualizer", contract=str(path)):
            eye.wait(shown, "the film and the way of the plan")
    finally:
        eye.close()
    raw, film = tall[-1], films[-1]
    horizon = tiny_controller.HORIZON
    assert (raw.height, raw.width, raw.encoding, raw.header.frame_id[:7]) == (horizon * 24, 32, "rgb8", "tiny:1:")
    shades = np.asarray(raw.data, np.uint8).reshape(horizon, 24, 32, 3)
    assert shades[:, 0, 0, 0].tolist() == [51 >> h for h in range(horizon)]
    assert film.height == 144 and np.asarray(film.data, np.uint8).reshape(144, -1, 3)[0, 0].tolist() == [51, 51, 51]


def test_without_gl_the_simulator_says_what_to_install_before_anything_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python" / "OpenGL"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('no OpenGL on this machine')")
    monkeypatch.setenv("PYTHONPATH", f"{broken.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    process = Process("sim", f"blind_{os.getpid()}", tmp_path / "log", contract=str(task(tmp_path)))
    try:
        assert process.process.wait(60) == 2
    finally:
        process.stop()
    assert "observation.front: no pictures of cartpole.xml" in process.output and "install libegl1" in process.output
    assert "Traceback" not in process.output


def test_in_real_time_pictures_show_ticks_of_the_robot(tmp_path: Path) -> None:
    pictures_or_skip()
    peer = Peer("seeing")
    shown: list[Image] = []
    joints: dict[int, JointState] = {}
    peer.node.create_subscription(Image, "front/image_raw", shown.append, SENSOR_QOS)
    peer.node.create_subscription(JointState, "joint_states", lambda m: joints.update({stamp_ns(m.header.stamp): m}), SENSOR_QOS)
    try:
        with running("sim", peer.namespace, tmp_path / "log", contract=str(task(tmp_path, every=2))):
            peer.wait(lambda: len([s for s in shown if stamp_ns(s.header.stamp) in joints]) >= 3, "pictures of heard ticks")
    finally:
        peer.close()
    assert {(s.height, s.width, s.encoding, s.step, s.header.frame_id) for s in shown} == {(24, 32, "rgb8", 96, "front")}
    stamps = [stamp_ns(s.header.stamp) for s in shown]
    assert all((later - earlier) % 40_000_000 == 0 and later > earlier for earlier, later in itertools.pairwise(stamps))
    assert np.ptp(np.asarray(shown[0].data)) > 50
