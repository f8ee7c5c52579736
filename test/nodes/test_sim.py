"""The simulated robot as the process that users run."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from peer import Peer, Process, contract_file, running
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool, Trigger

from wm_ros.contract import schema
from wm_ros.contract.assembler import Assembler, BadMessage, stamp_ns
from wm_ros.contract.errors import UserError
from wm_ros.contract.resources import share_directory
from wm_ros.data.episode import Episode
from wm_ros.nodes.base import COMMAND_QOS, ERROR, LOCKSTEP_QOS, OK, sensor_qos
from wm_ros.nodes.messages import CommandForm, time_message
from wm_ros.sim.episode import run_episode
from wm_ros.sim.render import render_frames
from wm_ros.sim.simulator import Simulator

CONTRACT = schema.load("cartpole_swingup")
PERIOD = CONTRACT.control.period_ns


class Robot(Peer):
    """Hears the sensors of one simulator and commands it."""

    def __init__(self, name: str, mode: str) -> None:
        super().__init__(name)
        self.heard: list[JointState] = []
        self.answer: Callable[[JointState], None] = lambda message: None
        self.commands = self.node.create_publisher(JointState, "command", COMMAND_QOS)
        qos = LOCKSTEP_QOS if mode == "lockstep" else sensor_qos(mode)
        self.node.create_subscription(JointState, "joint_states", self._on_sensor, qos)

    def _on_sensor(self, message: JointState) -> None:
        self.heard.append(message)
        self.answer(message)

    def reset(self) -> int:
        """Resets the simulator, hears nothing older, and gives the stamp of the first observation."""
        self.wait(lambda: self.commands.get_subscription_count(), "the simulator")
        self.wait(lambda: self.node.count_publishers("joint_states"), "the simulator's sensors")
        response = self.call(Trigger, "sim/reset")
        assert response.success
        start = json.loads(response.message)["stamp_ns"]
        self.heard = [m for m in self.heard if stamp_ns(m.header.stamp) >= start]
        return int(start)

    def command(self, stamp: int, force: float = 3.0) -> None:
        self.commands.publish(CommandForm(CONTRACT).fill([force], stamp, "test"))

    def hear(self, count: int) -> list[JointState]:
        """The first so many messages since the last reset."""
        self.wait(lambda: len(self.heard) >= count, f"message {count}")
        return self.heard[:count]

    def news(self, condition: Callable[[JointState], bool], what: str) -> JointState:
        """A message from now on that meets a condition."""
        self.heard = []
        return next(m for m in [*self.wait(lambda: [m for m in self.heard if condition(m)], what)])


@pytest.fixture(scope="module")
def lockstep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    robot = Robot("sim_lockstep", "lockstep")
    try:
        with running("sim", robot.namespace, tmp_path_factory.mktemp("sim") / "log", mode="lockstep", seed=5):
            yield robot
    finally:
        robot.close()


@pytest.fixture(scope="module")
def realtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    robot = Robot("sim_realtime", "realtime")
    try:
        with running("sim", robot.namespace, tmp_path_factory.mktemp("sim") / "log", publish_clock=True):
            yield robot
    finally:
        robot.close()


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in ("lockstep", "realtime"):
        if name in request.fixturenames:
            robot = request.getfixturevalue(name)
            robot.answer = lambda message: None
            assert all(r.successful for r in robot.set("sim", fault="none"))


def stamps(messages: list[JointState]) -> list[int]:
    return [stamp_ns(m.header.stamp) for m in messages]


def slider_effort(message: JointState) -> float:
    return float(message.effort[list(message.name).index("slider")])


# ---- lockstep ---------------------------------------------------------------------------------------------------------


def test_no_episode_begins_before_those_who_must_hear_it_listen(tmp_path: Path) -> None:
    robot = Robot("sim_awaits", "lockstep")
    try:
        with running("sim", robot.namespace, tmp_path / "log", mode="lockstep", awaits="recorder, peer"):
            robot.wait(lambda: robot.node.count_publishers("joint_states"), "the simulator's sensors")
            refused = robot.call(Trigger, "sim/reset")
            assert not refused.success and "recorder" in refused.message and "joint_states" in refused.message
            # As messages that nobody may miss are subscribed to, and as those are that take what comes.
            for reliability in (ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT):
                late = rclpy.create_node("recorder", namespace=robot.namespace, context=robot.context)
                late.create_subscription(JointState, "joint_states", lambda m: None, QoSProfile(depth=5, reliability=reliability))
                robot.wait(lambda: robot.call(Trigger, "sim/reset").success, "the simulator to begin")
                late.destroy_node()
                robot.wait(lambda: not robot.call(Trigger, "sim/reset").success, "the simulator to miss the recorder")
    finally:
        robot.close()


def test_an_episode_through_the_node_equals_the_headless_one_bit_for_bit(lockstep: Robot) -> None:
    ticks = 200
    forces = np.random.default_rng(0).uniform(-10, 10, ticks).astype(np.float32)
    assembler = Assembler(CONTRACT)
    vectors: list[np.ndarray] = []

    def answer(message: JointState) -> None:
        assembler.update("joints", message, 0)
        observation = assembler.observe()
        assert observation is not None
        if lockstep.heard[:-1] and stamps(lockstep.heard[-2:-1]) == [observation.stamp_ns]:
            return  # a reminder
        vectors.append(observation.vector)
        if len(vectors) <= ticks:
            lockstep.command(observation.stamp_ns, float(forces[len(vectors) - 1]))

    lockstep.answer = answer
    start = lockstep.reset()
    lockstep.wait(lambda: len(vectors) > ticks, "the end of the episode")
    resets = int(lockstep.fresh_health("sim", lambda level, message, values: True, "diagnostics")[2]["resets"])
    script = iter(forces)
    headless: Episode = run_episode(Simulator(CONTRACT), lambda observation: np.array([next(script)]), ticks, seed=5, resets=resets)
    np.testing.assert_array_equal(np.stack(vectors), headless.observation)
    np.testing.assert_array_equal(np.unique(stamps(lockstep.heard)) - start, headless.stamp - headless.stamp[0])


def test_each_reset_starts_anew_at_least_a_second_ahead(lockstep: Robot) -> None:
    first = lockstep.reset()
    before = lockstep.hear(1)[0]
    lockstep.command(first)
    assert stamps(lockstep.hear(2)) == [first, first + PERIOD]
    second = lockstep.reset()
    assert second >= first + PERIOD + 1_000_000_000
    after = lockstep.hear(1)[0]
    assert stamp_ns(after.header.stamp) == second
    assert list(after.position) != list(before.position)
    assert (second - 1_000_000_000) % 20_000_000_000 == 0  # a whole slot, whatever the number of ticks before


def test_only_the_command_that_answers_the_observation_makes_a_step(lockstep: Robot) -> None:
    start = lockstep.reset()
    lockstep.hear(1)
    counted = lockstep.fresh_health("sim", lambda level, message, values: values["waiting_for"] == "command", "waiting_for command")[2]
    wrong = CommandForm(CONTRACT).fill([9.0], start, "test")
    wrong.name = ["wheel"]
    bad = [
        CommandForm(CONTRACT).fill([9.0], start - PERIOD, "old"),
        CommandForm(CONTRACT).fill([9.0], start + PERIOD, "ahead"),
        CommandForm(CONTRACT).fill([math.nan], start, "nan"),
        CommandForm(CONTRACT).fill([], start, "empty"),
        wrong,
    ]
    sent = itertools.cycle(bad)

    def more(key: str) -> int:
        return int(lockstep.health["sim"][2][key]) - int(counted[key])

    def refused() -> bool:
        # The topic keeps only the newest, so each kind is sent many times over.
        lockstep.commands.publish(next(sent))
        return more("stale_commands") > 10 and more("refused_commands") > 10

    lockstep.wait(refused, "the commands to be refused")
    assert set(stamps(lockstep.heard)) == {start}
    lockstep.command(start, 3.0)
    lockstep.wait(lambda: len(set(stamps(lockstep.heard))) > 1, "the step")
    assert stamps(lockstep.heard)[-1] == start + PERIOD
    assert slider_effort(lockstep.heard[-1]) == pytest.approx(3.0)


def test_an_unanswered_observation_is_published_again(lockstep: Robot) -> None:
    start = lockstep.reset()
    assert stamps(lockstep.hear(2)) == [start, start]


def test_a_pause_keeps_the_answer_for_later(lockstep: Robot) -> None:
    start = lockstep.reset()
    lockstep.hear(1)
    assert lockstep.call(SetBool, "sim/pause", SetBool.Request(data=True)).success
    known = int(lockstep.fresh_health("sim", lambda level, message, values: values["paused"] == "True", "the pause")[2]["commands"])
    lockstep.command(start)
    lockstep.fresh_health("sim", lambda level, message, values: int(values["commands"]) > known, "the command to be counted")
    assert set(stamps(lockstep.heard)) == {start}
    lockstep.call(SetBool, "sim/pause", SetBool.Request(data=False))
    lockstep.wait(lambda: stamps(lockstep.heard)[-1] == start + PERIOD, "the step")


def test_step_makes_one_tick_with_the_last_command(lockstep: Robot) -> None:
    start = lockstep.reset()
    lockstep.hear(1)
    lockstep.command(start, 4.0)
    lockstep.hear(2)
    for _ in range(4):
        assert lockstep.call(Trigger, "sim/step").success
    heard = lockstep.hear(6)
    assert stamps(heard) == [start + k * PERIOD for k in range(6)]
    assert [slider_effort(m) for m in heard[1:]] == pytest.approx([4.0] * 5)


def test_faults_that_lockstep_would_wait_for_are_refused(lockstep: Robot) -> None:
    (result,) = lockstep.set("sim", fault="dropout")
    assert not result.successful and "needs mode realtime" in result.reason
    (result,) = lockstep.set("sim", fault="earthquake")
    assert not result.successful and "none of" in result.reason


# ---- real time --------------------------------------------------------------------------------------------------------


def test_real_time_stamps_follow_the_system_clock_and_clock_says_the_same(realtime: Robot) -> None:
    clocks: list[int] = []
    subscription = realtime.node.create_subscription(Clock, "clock", lambda m: clocks.append(stamp_ns(m.clock)), 100)
    realtime.wait(lambda: len(clocks) > 3, "/clock")
    now = time.time_ns()
    message = realtime.news(lambda m: True, "a sensor message")
    assert abs(stamp_ns(message.header.stamp) - now) < 30e9
    realtime.wait(lambda: len(realtime.heard) > 20 and len(clocks) > 20, "twenty ticks")
    realtime.node.destroy_subscription(subscription)
    assert set(np.diff(clocks)) == {PERIOD}
    assert (np.diff(stamps(realtime.heard)) % PERIOD == 0).all()
    assert set(stamps(realtime.heard)) & set(clocks)


def test_a_command_is_applied_when_it_comes_and_runs_out(realtime: Robot) -> None:
    realtime.reset()
    holds = int(realtime.fresh_health("sim", lambda level, message, values: True, "diagnostics")[2]["holds"])
    realtime.answer = lambda message: realtime.command(stamp_ns(message.header.stamp), 3.0)
    realtime.news(lambda m: slider_effort(m) == pytest.approx(3.0), "the command's force")
    realtime.answer = lambda message: None
    realtime.news(lambda m: slider_effort(m) == 0.0, "hold")
    realtime.fresh_health("sim", lambda level, message, values: int(values["holds"]) > holds, "a hold to be counted")


def test_a_command_from_before_the_reset_is_ignored(realtime: Robot) -> None:
    old = realtime.reset()
    new = realtime.reset()
    assert new - old >= 1_000_000_000
    stale = int(realtime.fresh_health("sim", lambda level, message, values: True, "diagnostics")[2]["stale_commands"])
    realtime.answer = lambda message: realtime.command(old, 9.0)
    realtime.fresh_health("sim", lambda level, message, values: int(values["stale_commands"]) > stale + 3, "stale commands")
    assert all(slider_effort(m) == 0.0 for m in realtime.heard)


def test_a_pause_stops_time_and_step_is_for_lockstep_only(realtime: Robot) -> None:
    realtime.reset()
    realtime.hear(1)
    assert realtime.call(SetBool, "sim/pause", SetBool.Request(data=True)).success
    ticks = realtime.fresh_health("sim", lambda level, message, values: values["paused"] == "True", "the pause")[2]["ticks"]
    assert realtime.fresh_health("sim", lambda level, message, values: True, "diagnostics")[2]["ticks"] == ticks
    response = realtime.call(Trigger, "sim/step")
    assert not response.success and "lockstep" in response.message
    realtime.call(SetBool, "sim/pause", SetBool.Request(data=False))
    realtime.news(lambda m: True, "a message after the pause")


def test_over_a_deactivation_stamps_go_on_rising(realtime: Robot) -> None:
    last = stamps([realtime.news(lambda m: True, "a message")])[0]
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
        assert realtime.call(ChangeState, "sim/change_state", ChangeState.Request(transition=Transition(id=transition))).success
    realtime.news(lambda m: stamp_ns(m.header.stamp) >= last + 1_000_000_000, "a message after the gap")
    assert min(stamps(realtime.heard)) > last


@pytest.mark.parametrize(
    ("fault", "reason"), [("nan", "non_finite"), ("missing_joint", "missing_joint"), ("wrong_size", "size"), ("backwards", "backwards")]
)
def test_a_fault_comes_and_goes_while_the_robot_runs(realtime: Robot, fault: str, reason: str) -> None:
    reasons: list[str] = []
    assembler = Assembler(CONTRACT)

    def read(message: JointState) -> None:
        try:
            assembler.update("joints", message, 0)
            reasons.append("")
        except BadMessage as error:
            reasons.append(error.reason)

    realtime.answer = read
    realtime.wait(lambda: reasons[-2:] == ["", ""], "sound messages")
    assert realtime.set("sim", fault=fault)[0].successful
    realtime.wait(lambda: reasons[-1] == reason, reason)
    assert realtime.set("sim", fault="none")[0].successful
    realtime.wait(lambda: reasons[-1] == "", "sound messages again")


def test_lost_commands_end_in_hold(realtime: Robot) -> None:
    realtime.reset()
    realtime.answer = lambda message: realtime.command(stamp_ns(message.header.stamp), 3.0)
    realtime.news(lambda m: slider_effort(m) == pytest.approx(3.0), "the command's force")
    assert realtime.set("sim", fault="command_loss")[0].successful
    realtime.news(lambda m: slider_effort(m) == 0.0, "hold")


def test_the_real_time_factor_can_change_while_the_robot_runs(realtime: Robot) -> None:
    assert realtime.set("sim", real_time_factor=4.0)[0].successful
    try:
        realtime.fresh_health("sim", lambda level, message, values: float(values["real_time_factor"]) > 1.5, "a faster robot")
        assert not realtime.set("sim", real_time_factor=1000.0)[0].successful
    finally:
        realtime.set("sim", real_time_factor=1.0)


def test_a_second_clock_is_refused_by_name(realtime: Robot, tmp_path: Path) -> None:
    realtime.news(lambda m: True, "the first simulator")
    second = Process("sim", realtime.namespace, tmp_path / "log", publish_clock=True)
    try:
        assert second.process.wait(40) == 2
    finally:
        second.process.kill()
    lines = [line for line in second.output.splitlines() if "/clock" in line]
    assert len(lines) == 1 and "publishes it already" in lines[0] and "/sim" in lines[0]
    assert "Traceback" not in second.output


def test_two_clocks_at_once_are_an_error_in_the_diagnostics(realtime: Robot) -> None:
    other = realtime.node.create_publisher(Clock, "clock", 10)
    try:
        _, message, _ = realtime.fresh_health("sim", lambda level, message, values: level == ERROR, "the error")
        assert "another publisher" in message
    finally:
        realtime.node.destroy_publisher(other)


# ---- what a user gets wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"contract": "no_such_contract"}, "no_such_contract"),
        ({"mode": "lockstep", "fault": "delay"}, "fault"),
    ],
)
def test_a_wrong_parameter_ends_with_one_line(tmp_path: Path, parameters: dict[str, object], words: str) -> None:
    process = Process("sim", f"sim_wrong_{id(parameters)}", tmp_path / "log", **parameters)
    assert process.process.wait(40) == 2, process.output
    lines = [line for line in process.output.splitlines() if line.strip()]
    assert len(lines) == 1 and words in lines[0], process.output


def test_a_contract_that_the_simulator_cannot_serve_ends_with_one_line(tmp_path: Path) -> None:
    path = contract_file(tmp_path, control={"rate_hz": 70})
    process = Process("sim", "sim_rate", tmp_path / "log", contract=path)
    assert process.process.wait(40) == 2
    assert process.output.count("\n") == 1 and "control.rate_hz" in process.output


def test_an_unstable_simulation_is_reported_and_a_reset_mends_it(tmp_path: Path) -> None:
    path = contract_file(tmp_path)
    strong = (share_directory() / "sim/cartpole.xml").read_text().replace('gear="10"', 'gear="1e13"')
    (tmp_path / "cartpole.xml").write_text(strong)
    robot = Robot("sim_unstable", "realtime")
    try:
        with running("sim", robot.namespace, tmp_path / "log", contract=path):
            robot.reset()
            robot.answer = lambda message: robot.command(stamp_ns(message.header.stamp), 1.0)
            robot.hear(1)
            _, message, _ = robot.fresh_health("sim", lambda level, message, values: level == ERROR, "the error")
            assert "unstable" in message
            robot.answer = lambda message: None
            start = robot.reset()
            ticks = [(stamp - start) / PERIOD for stamp in stamps(robot.hear(3))]  # on a busy machine not all of them arrive
            assert ticks == sorted(set(ticks)) and all(tick >= 0 and tick == int(tick) for tick in ticks)
            robot.fresh_health("sim", lambda level, message, values: level == OK, "a sound robot")
    finally:
        robot.close()


def test_time_message_is_the_inverse_of_stamp_ns() -> None:
    assert stamp_ns(time_message(1_795_380_877_676_934_298)) == 1_795_380_877_676_934_298


def test_a_camera_shows_the_robot_where_there_is_gl(tmp_path: Path) -> None:
    try:
        render_frames(CONTRACT, {"slider": np.zeros(1)}, width=32, height=32)
    except UserError as error:
        pytest.skip(str(error))
    robot = Robot("sim_camera", "realtime")
    pictures: list[Image] = []
    robot.node.create_subscription(Image, "camera/image_raw", pictures.append, sensor_qos("realtime"))
    try:
        with running("sim", robot.namespace, tmp_path / "log", headless=False):
            robot.wait(lambda: len(pictures) >= 2, "pictures")
    finally:
        robot.close()
    first = pictures[0]
    assert (first.height, first.width, first.encoding, first.step, len(first.data)) == (240, 320, "rgb8", 960, 240 * 960)
    assert stamp_ns(pictures[1].header.stamp) > stamp_ns(first.header.stamp)
    assert np.ptp(np.asarray(first.data)) > 100
