"""The episode manager as the process that users run; the test plays robot, gate and simulator."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peer import Peer, Process, contract_file, running
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import SetBool, Trigger

from wm_ros.contract import announcements, schema
from wm_ros.contract.announcements import ControllerNotice, EpisodeState
from wm_ros.contract.assembler import encode
from wm_ros.contract.functions import reward_function
from wm_ros.nodes.base import COMMAND_QOS, LATCHED_QOS, LOCKSTEP_QOS, OK, WARN
from wm_ros.nodes.messages import CommandForm, time_message
from wm_ros.runtime.episode_tracker import PATIENCE

TICKS = 10
PERIOD = 20_000_000
START = 5_000_000_000
NUMBER = itertools.count()
"""Of worlds: each has a namespace of its own, for some live side by side."""


class World(Peer):
    """Gate, simulator and robot in one; it writes down in which order it is called."""

    def __init__(self, contract: schema.Contract, sim: bool = True, gate: bool = True) -> None:
        super().__init__(f"manager_{next(NUMBER)}")
        self.contract = contract
        self.process: Process | None = None
        self.calls: list[str] = []
        self.states: list[EpisodeState] = []
        self.steps: list[list[float]] = []
        self.start = START
        self.refuse = ""
        self.during_reset: Callable[[], None] = lambda: None
        self.sensors = self.node.create_publisher(JointState, "joint_states", LOCKSTEP_QOS)
        self.commands = self.node.create_publisher(JointState, "command", COMMAND_QOS)
        self.controller = self.node.create_publisher(String, "mpc/controller", LATCHED_QOS)
        self.node.create_subscription(String, "episode", self._on_episode, LATCHED_QOS)
        self.node.create_subscription(Float64MultiArray, "step", lambda m: self.steps.append(list(m.data)), LOCKSTEP_QOS)
        if gate:
            self.offer_gate()
        if sim:
            self.node.create_service(Trigger, "sim/reset", self._on_reset)
            self.node.create_service(SetBool, "sim/pause", lambda q, a: self._answer(f"pause {q.data}", a))

    def offer_gate(self) -> None:
        self.node.create_service(SetBool, "command_gate/arm", lambda q, a: self._answer(f"arm {q.data}", a))

    def _answer(self, call: str, answer: Any) -> Any:
        self.calls.append(call)
        answer.success, answer.message = not self.refuse, self.refuse
        return answer

    def _on_reset(self, request: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        self.during_reset()
        answer.message = json.dumps({"stamp_ns": self.start, "reset": 1})
        self.calls.append("reset")
        answer.success = True
        return answer

    def _on_episode(self, message: String) -> None:
        state = announcements.read(EpisodeState, message.data, "episode")
        self.states.append(state)
        self.calls.append(state.state)

    def announce(self, version: int, contract_hash: str = "") -> None:
        notice = ControllerNotice(
            path="/x", sha256=f"{version % 10}" * 64, contract_hash=contract_hash or self.contract.hash, agent="pets", version=version
        )
        self.controller.publish(String(data=notice.to_json()))

    def observe(self, stamp: int) -> None:
        position, velocity = pose(stamp)
        message = JointState(name=["slider", "hinge_1"], position=position, velocity=velocity)
        message.header.stamp = time_message(stamp)
        self.sensors.publish(message)

    def command(self, stamp: int) -> None:
        self.commands.publish(CommandForm(self.contract).fill([force(stamp)], stamp, "test"))

    def heard(self, state: str, episode: int = 0) -> EpisodeState:
        """Waits for a state of an episode."""
        def found() -> list[EpisodeState]:
            return [s for s in self.states if s.state == state and s.episode == episode]

        return self.wait(found, f"{state} of episode {episode}")[0]  # type: ignore[no-any-return]

    def drive(self, first: int = 0, last: int = TICKS) -> None:
        """Observations and commands of the ticks first..last, each after the manager has taken in the one before."""
        for k in range(first, last + 1):
            self.observe(self.start + k * PERIOD)
            self.command(self.start + k * PERIOD)
            if k == 0:
                self.wait(lambda: self.states and self.states[-1].state == "running", "running")
            else:
                known = self.steps[-1:]
                self.wait(lambda known=known: self.steps[-1:] != known, f"step {k - 1}")

    def begin(self) -> int:
        """Starts an episode by hand, a minute after the last one, and gives its number."""
        self.start += 60_000_000_000
        self.wait(lambda: not self.calls or self.calls[-1] == "pause True", "the end of the last episode")
        for notes in (self.calls, self.steps, self.states):
            notes.clear()
        # The simulator's side of the last pause comes before the manager's: until then it says that an episode is on.
        response = self.wait(lambda: (r := self.call(Trigger, "episode_manager/start")).success and r, "the start of an episode")
        self.wait(lambda: "reset" in self.calls, "reset")
        return int(response.message.split()[-1])

    def calm(self) -> None:
        """Until the manager hears everything this world says."""
        for publisher in (self.sensors, self.commands, self.controller):
            self.wait(publisher.get_subscription_count, "the manager")


def pose(stamp: int) -> tuple[list[float], list[float]]:
    t = stamp * 1e-9
    return [0.1 * np.sin(t), np.pi + t], [0.1 * np.cos(t), 1.0]


def force(stamp: int) -> float:
    return float(np.float32(8.0 * np.sin(stamp * 1e-7)))


@contextmanager
def world(
    folder: Path, sim: bool = True, gate: bool = True, changes: dict[str, Any] | None = None, **parameters: Any
) -> Iterator[World]:
    path = contract_file(folder, episode={"duration_s": TICKS * PERIOD * 1e-9}, **(changes or {}))
    there = World(schema.load(path), sim, gate)
    settings = {"contract": path, "mode": "lockstep", "has_sim": sim, **parameters}
    try:
        with running("episode_manager", there.namespace, folder / "log", **settings) as there.process:
            there.calm()
            yield there
    finally:
        there.close()


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("manager"), wait_for_model=False) as w:
        yield w


def test_a_series_of_training_and_evaluation_keeps_to_the_protocol(tmp_path: Path) -> None:
    with world(tmp_path, auto=2, evaluate=1, seed=7) as w:
        # Training episode k waits for version k, evaluation for as many versions as there were training episodes.
        for episode, purpose in enumerate(["train", "train", "evaluate"]):
            missing = f"mpc/controller version {episode}"
            w.fresh_health("episode_manager", lambda level, message, v, m=missing: m in v["waiting_for"], f"the wait for {missing}")
            w.calls.clear()
            w.start = START + episode * 30_000_000_000
            w.announce(episode)
            starting = w.heard("starting", episode)
            assert (starting.purpose, starting.seed, starting.controller_version) == (purpose, 7, episode)
            assert starting.controller_sha256 == f"{episode}" * 64
            w.wait(lambda: "reset" in w.calls, "reset")
            w.drive()
            ended = w.heard("ended", episode)
            w.wait(lambda: w.calls[-1] == "pause True", "the pause")
            assert w.calls == ["starting", "arm True", "reset", "running", "ended", "arm False", "pause True"]
            assert (ended.start_stamp_ns, ended.end_stamp_ns) == (w.start, w.start + TICKS * PERIOD)
            assert (ended.ticks, ended.outcome, ended.finished) == (TICKS, "truncated", episode == 2)
        level, _, values = w.fresh_health("episode_manager", lambda level, message, v: v["state"] == "ended", "the end")
        assert level == OK and values["trained"] == "2" and values["evaluated"] == "1"
        assert [s for s in w.states if s.finished] == w.states[-1:]


def test_a_controller_for_another_contract_does_not_count_and_a_missing_or_refusing_gate_is_named(tmp_path: Path) -> None:
    with world(tmp_path, gate=False, auto=1) as w:
        w.announce(3, "f" * 64)
        _, message, _ = w.fresh_health("episode_manager", lambda level, message, v: level == WARN, "the refusal")
        assert "ffffffff" in message and w.contract.hash[:8] in message
        assert not w.states
        w.announce(3)
        w.heard("starting")

        _, message, values = w.fresh_health("episode_manager", lambda level, message, v: "arm" in v["waiting_for"], "the missing gate")
        assert "command_gate/arm" in values["waiting_for"] and "no node offers it" in message
        w.refuse = "the e-stop is still pressed: release it first"
        w.offer_gate()
        _, message, _ = w.fresh_health("episode_manager", lambda level, message, v: "e-stop" in message, "the refusal")
        assert "the e-stop is still pressed" in message and "command_gate/arm" in message
        assert "reset" not in w.calls
        w.refuse = ""
        w.wait(lambda: "reset" in w.calls, "the episode to go on")


def test_on_a_real_robot_the_next_observation_begins_and_silence_ends_the_episode(tmp_path: Path) -> None:
    with world(tmp_path, sim=False, mode="realtime", auto=1, wait_for_model=False, observation_timeout_s=0.3) as w:
        w.wait(lambda: "arm True" in w.calls, "the gate to be armed")
        ticks = iter(range(1000))

        def robot_runs() -> bool:
            # More than one: best effort may lose some.
            stamp = START + next(ticks) * PERIOD
            w.observe(stamp)
            w.command(stamp)
            return bool(w.states and w.states[-1].state == "running")

        w.wait(robot_runs, "running")
        ended = w.heard("ended")
        w.wait(lambda: "arm False" in w.calls, "the gate to be disarmed")
        assert ended.outcome == "stopped" and ended.ticks < TICKS
        assert not {"reset", "pause True"} & set(w.calls)
        assert not ended.finished  # a stopped training episode is run again
        w.heard("starting", 1)


def test_a_discarded_training_episode_is_run_again_and_ctrl_c_ends_an_episode_safely(tmp_path: Path) -> None:
    with world(tmp_path, auto=1, wait_for_model=False) as w:
        w.wait(lambda: "reset" in w.calls, "reset")
        w.drive(0, 3)
        w.start += 60_000_000_000
        assert w.call(Trigger, "episode_manager/discard").success
        discarded = w.heard("discarded", 0)
        assert (discarded.ticks, discarded.outcome, discarded.finished) == (3, "discarded", False)
        w.wait(lambda: w.calls.count("reset") == 2, "the second reset")
        assert w.calls[w.calls.index("discarded") :][:5] == ["discarded", "arm False", "pause True", "starting", "arm True"]
        w.drive(0, 2)
        assert w.process is not None
        w.process.process.send_signal(signal.SIGINT)
        ended = w.heard("ended", 1)
        assert (ended.outcome, ended.finished, ended.end_stamp_ns) == ("stopped", True, w.start + 2 * PERIOD)
        w.wait(lambda: w.calls[-1] == "arm False", "the gate to be disarmed")


# ---- episodes by hand, one after the other in one process -------------------------------------------------------------------


def test_steps_carry_the_contracts_reward_of_each_tick(by_hand: World) -> None:
    w = by_hand
    episode = w.begin()
    w.drive()
    ended = w.heard("ended", episode)
    stamps = w.start + PERIOD * np.arange(TICKS + 1)
    raw = np.array([[*pose(s)[0], *pose(s)[1]] for s in stamps])
    vectors, actions = encode(w.contract, raw), np.array([[force(s)] for s in stamps[:-1]], dtype=np.float32)
    rewards = reward_function(w.contract)(vectors[:-1], actions, vectors[1:])
    steps = np.array(w.steps)
    assert steps.shape == (TICKS, 5)
    np.testing.assert_allclose(steps[:, 0], stamps[:-1] * 1e-9)
    np.testing.assert_allclose(steps[:, 1], rewards, rtol=1e-6)
    assert steps[:, 2].tolist() == [0.0] * TICKS and steps[:, 3].tolist() == [0.0] * (TICKS - 1) + [1.0]
    np.testing.assert_allclose(steps[:, 4], np.cumsum(rewards), rtol=1e-6)
    assert ended.total_reward == pytest.approx(float(rewards.sum()), rel=1e-6)


def test_where_the_reward_is_learned_the_steps_are_left_to_whoever_knows_it(tmp_path: Path) -> None:
    with world(tmp_path, changes={"reward": "learned"}, wait_for_model=False) as w:
        number = w.begin()
        w.observe(w.start)
        w.heard("running", number)
        # Without commands a tick counts once enough observations have come after it.
        for k in range(1, TICKS + 2 + PATIENCE):
            w.observe(w.start + k * PERIOD)
        ended = w.heard("ended", number)
        assert (ended.ticks, ended.outcome, ended.total_reward) == (TICKS, "truncated", 0.0)
        assert w.steps == []


def test_only_observations_from_the_reset_on_count_also_those_that_overtake_its_answer(by_hand: World) -> None:
    w = by_hand

    def run_on() -> None:
        # What a lockstep simulator does: the robot runs on while the answer is under way.
        for stamp in (w.start - 3_000_000_000, *(w.start + k * PERIOD for k in range(4))):
            w.observe(stamp)
            w.command(stamp)

    w.during_reset = run_on
    episode = w.begin()
    w.during_reset = lambda: None
    assert w.heard("running", episode).start_stamp_ns == w.start
    # Three more than the episode has, since a command may be lost: their topic keeps only the newest.
    for k in range(4, TICKS + 4):
        w.observe(w.start + k * PERIOD)
        w.command(w.start + k * PERIOD)
    ended = w.heard("ended", episode)
    assert (ended.ticks, ended.end_stamp_ns) == (TICKS, w.start + TICKS * PERIOD)


def test_a_jump_of_time_ends_the_episode_at_the_last_observation_before_it(by_hand: World) -> None:
    w = by_hand
    episode = w.begin()
    w.drive(0, 4)
    w.observe(w.start + 20_000_000_000)
    ended = w.heard("ended", episode)
    assert (ended.outcome, ended.ticks, ended.end_stamp_ns) == ("stopped", 4, w.start + 4 * PERIOD)


def test_an_episode_can_be_stopped_and_then_be_discarded(by_hand: World) -> None:
    w = by_hand
    episode = w.begin()
    refused = w.call(Trigger, "episode_manager/start")
    assert not refused.success and "~/stop" in refused.message
    w.drive(0, 3)
    assert w.call(Trigger, "episode_manager/stop").success
    ended = w.heard("ended", episode)
    assert (ended.outcome, ended.ticks, ended.finished) == ("stopped", 3, True)
    w.wait(lambda: w.calls[-2:] == ["arm False", "pause True"], "the robot to be safe")
    assert w.call(Trigger, "episode_manager/discard").success
    assert w.heard("discarded", episode).outcome == "discarded"
    again = w.call(Trigger, "episode_manager/discard")
    assert not again.success and "no episode" in again.message
    w.calls.clear()
