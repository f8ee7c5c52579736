"""Ticks, deadlines and swaps of the control loop, with real controllers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_controller as tiny

from wm_ros.contract.assembler import Observation
from wm_ros.runtime.answer import Answer
from wm_ros.runtime.control_loop import ControlLoop
from wm_ros.runtime.control_ticks import ControlTicks
from wm_ros.runtime.controller import ControllerOutput, ControllerSession

MS = 1_000_000
PERIOD = 20 * MS
TIMEOUT_S = 60


def observation(stamp_ns: int) -> Observation:
    return Observation(np.full(5, 0.5, np.float32), stamp_ns, stamp_ns)


class Bench:
    """A loop on a clock that the test turns; `shown` tells when a tick is done."""

    def __init__(self, session: ControllerSession | None, lockstep: bool = False) -> None:
        self.now = 0
        self.took_ms = 1
        self.sent: list[Answer] = []
        self.shown: queue.Queue[Answer] = queue.Queue()
        self.served: queue.Queue[ControllerSession] = queue.Queue()
        self.ready = session
        self.loop = ControlLoop(
            tiny.contract(), 5, lockstep, lambda: self.now, self._send, self.shown.put, self._take, self.served.put
        )
        self.loop.start()
        if session is not None:
            self.served.get(timeout=TIMEOUT_S)

    def _send(self, answer: Answer) -> None:
        self.now += self.took_ms * MS
        self.sent.append(answer)

    def _take(self) -> ControllerSession | None:
        ready, self.ready = self.ready, None
        return ready

    def tick(self, stamp_ns: int) -> Answer:
        self.loop.offer(observation(stamp_ns), self.now)
        return self.shown.get(timeout=TIMEOUT_S)


@pytest.fixture
def session(tmp_path: Path) -> ControllerSession:
    return ControllerSession.load(tiny.feedback(tmp_path / "c.onnx"), tiny.contract())


@pytest.fixture
def bench(session: ControllerSession) -> Iterator[Bench]:
    made = Bench(session)
    yield made
    made.loop.close()


# ---- which observations are ticks -----------------------------------------------------------------------------------


def ticks_of(stamps_ms: list[float], every: bool = False) -> list[float]:
    ticks = ControlTicks(PERIOD, 100 * MS, every)
    return [s for s in stamps_ms if ticks.offer(observation(round(s * MS)), 0) is not None]


def test_the_first_observation_at_or_after_each_tick_is_acted_on() -> None:
    assert ticks_of([0, 5, 10, 15, 20, 25, 30, 35, 40, 45]) == [0, 20, 40]
    assert ticks_of([0, 7, 14, 21, 28, 35, 42, 49, 56, 63]) == [0, 21, 42, 63]


def test_a_sensor_at_the_control_rate_loses_no_tick_to_its_jitter() -> None:
    stamps = [20 * k + jitter for k, jitter in enumerate([0, -1, 1, -2, 2, -1, 0, 1, -1, 0])]
    assert ticks_of(stamps) == stamps


def test_ticks_do_not_drift() -> None:
    rng = np.random.default_rng(0)
    stamps = [20.0 * k + rng.uniform(-3, 3) for k in range(1000)]
    assert ticks_of(stamps) == stamps


def test_lockstep_acts_on_every_new_stamp_and_never_twice_on_one() -> None:
    assert ticks_of([0, 5, 5, 20, 40, 40], every=True) == [0, 5, 20, 40]


def test_skipped_ticks_are_counted_and_gaps_start_anew() -> None:
    ticks = ControlTicks(PERIOD, 100 * MS)
    told = [ticks.offer(observation(s * MS), 0) for s in (0, 20, 80, 100, 1000, 1020)]
    assert [t and (t.skipped, t.resets) for t in told] == [(0, 0), (0, 0), (2, 0), (0, 0), (0, 1), (0, 1)]


# ---- the loop --------------------------------------------------------------------------------------------------------


def test_a_gap_in_time_resets_the_carry_and_draws_noise_from_the_seed_and_the_number_of_resets(
    bench: Bench, session: ControllerSession, tmp_path: Path
) -> None:
    first = [bench.tick(k * PERIOD).output.action[0] for k in range(3)]
    second = [bench.tick(10**9 + k * PERIOD).output.action[0] for k in range(3)]
    twin = ControllerSession.load(session.path, tiny.contract())
    for resets, actions in enumerate((first, second)):
        twin.reset([5, resets])
        assert actions == [twin.act(np.full(5, 0.5, np.float32)).action[0] for _ in range(3)]


def test_commands_in_time_are_no_misses_and_late_ones_are(bench: Bench) -> None:
    for k in range(5):
        bench.tick(k * PERIOD)
    assert (bench.loop.counts.deadlines, bench.loop.counts.deadline_misses) == (5, 0)
    bench.took_ms = 21
    bench.tick(5 * PERIOD)
    bench.tick(6 * PERIOD)
    bench.loop.close()
    assert (bench.loop.counts.deadlines, bench.loop.counts.deadline_misses, bench.loop.counts.late) == (7, 2, 2)
    assert bench.loop.latency.summary().max_ms == pytest.approx(21)


def test_skipped_ticks_are_misses(bench: Bench) -> None:
    bench.tick(0)
    bench.tick(4 * PERIOD)
    bench.loop.close()
    assert (bench.loop.counts.deadlines, bench.loop.counts.deadline_misses, bench.loop.counts.skipped) == (5, 3, 3)


def test_the_newest_observation_wins_while_the_controller_thinks(tmp_path: Path) -> None:
    thinking, go_on = threading.Event(), threading.Event()
    session = ControllerSession.load(tiny.constant(tmp_path / "c.onnx"), tiny.contract())
    act = session.act
    session.warm_up_ms = 1e3 * TIMEOUT_S

    def slow_act(*inputs: Any) -> ControllerOutput:
        thinking.set()
        assert go_on.wait(TIMEOUT_S)
        return act(*inputs)

    session.act = slow_act  # type: ignore[method-assign]
    bench = Bench(session)
    for k in range(4):
        bench.loop.offer(observation(k * PERIOD), 0)
        assert thinking.wait(TIMEOUT_S)
    go_on.set()
    stamps = [bench.shown.get(timeout=TIMEOUT_S).tick.observation.stamp_ns for _ in range(2)]
    bench.loop.close()
    assert stamps == [0, 3 * PERIOD]
    assert bench.loop.counts.overruns == 2 and bench.loop.counts.deadline_misses == 2


@pytest.mark.parametrize(("warm_up_ms", "plans", "here"), [(1.9, False, True), (2.1, False, False), (0.1, True, False)])
def test_a_quick_policy_answers_where_the_observation_arrives_and_a_slow_one_or_a_planner_elsewhere(
    tmp_path: Path, warm_up_ms: float, plans: bool, here: bool
) -> None:
    session = ControllerSession.load((tiny.feedback if plans else tiny.constant)(tmp_path / "c.onnx"), tiny.contract())
    session.warm_up_ms = warm_up_ms
    bench = Bench(session)
    threads: list[int] = []
    send = bench._send
    bench.loop._send = lambda answer: (threads.append(threading.get_ident()), send(answer))
    for k in range(3):
        bench.tick(k * PERIOD)
    bench.loop.close()
    assert [t == threading.get_ident() for t in threads] == [here] * 3
    assert (bench.loop.counts.deadlines, bench.loop.counts.deadline_misses) == (3, 0)


def test_after_a_quick_policy_was_held_up_observations_come_in_while_it_thinks_and_the_newest_wins(tmp_path: Path) -> None:
    session = ControllerSession.load(tiny.constant(tmp_path / "c.onnx"), tiny.contract())
    session.warm_up_ms = 0.1
    bench = Bench(session)
    bench.took_ms = 50
    bench.tick(0)
    bench.took_ms = 1
    act, thinking, go_on = session.act, threading.Event(), threading.Event()

    def slow_act(*inputs: Any) -> ControllerOutput:
        thinking.set()
        assert go_on.wait(TIMEOUT_S)
        return act(*inputs)

    session.act = slow_act  # type: ignore[method-assign]
    for k in (1, 2, 3):
        bench.loop.offer(observation(k * PERIOD), bench.now)
        assert thinking.wait(TIMEOUT_S)
    go_on.set()
    stamps = [bench.shown.get(timeout=TIMEOUT_S).tick.observation.stamp_ns for _ in range(2)]
    bench.loop.close()
    assert stamps == [PERIOD, 3 * PERIOD]


def test_an_output_that_is_not_ok_is_not_sent_and_is_a_miss(tmp_path: Path) -> None:
    bench = Bench(ControllerSession.load(tiny.not_finite(tmp_path / "nan.onnx"), tiny.contract()))
    bench.loop.offer(observation(0), 0)
    bench.ready = ControllerSession.load(tiny.constant(tmp_path / "c.onnx"), tiny.contract())
    bench.loop.wake()
    bench.served.get(timeout=TIMEOUT_S)
    bench.tick(PERIOD)
    bench.loop.close()
    assert [a.tick.observation.stamp_ns for a in bench.sent] == [PERIOD]
    assert bench.loop.counts.refused <= 1 and bench.loop.counts.deadlines == 2


def test_a_controller_that_is_ready_serves_from_the_next_tick_on_also_while_nothing_moves(bench: Bench, tmp_path: Path) -> None:
    assert bench.tick(0).session.metadata.version == 1
    bench.ready = ControllerSession.load(tiny.constant(tmp_path / "2.onnx", version=2), tiny.contract())
    bench.loop.wake()
    assert bench.served.get(timeout=TIMEOUT_S).metadata.version == 2
    assert bench.tick(PERIOD).session.metadata.version == 2


def test_without_a_controller_nothing_is_sent_and_nothing_is_missed() -> None:
    bench = Bench(None)
    for k in range(3):
        bench.loop.offer(observation(k * PERIOD), 0)
    bench.loop.close()
    assert bench.sent == [] and bench.loop.counts.deadlines == 0


def test_lockstep_has_no_deadlines(session: ControllerSession) -> None:
    bench = Bench(session, lockstep=True)
    bench.took_ms = 500
    bench.tick(0)
    bench.tick(PERIOD)
    bench.loop.close()
    assert (bench.loop.counts.deadlines, bench.loop.counts.deadline_misses) == (0, 0)


def test_in_lockstep_an_observation_that_is_sent_again_gets_the_same_answer_again(session: ControllerSession) -> None:
    bench = Bench(session, lockstep=True)
    try:
        first = bench.tick(PERIOD)
        bench.now += 500 * MS
        sent = threading.Event()
        bench.loop._send = lambda answer: (bench.sent.append(answer), sent.set())
        bench.loop.offer(observation(PERIOD), bench.now)
        assert sent.wait(TIMEOUT_S)
        assert bench.sent[-1] is first and len(bench.sent) == 2
    finally:
        bench.loop.close()
