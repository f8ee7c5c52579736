"""While inference is slow the last good plan is followed, as long as the contract allows, and no longer."""

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
from wm_ros.runtime.calibrated_level import Level
from wm_ros.runtime.control_loop import ControlLoop
from wm_ros.runtime.controller import ControllerOutput, ControllerSession
from wm_ros.runtime.plan_age import age_ns, source_name

MS = 1_000_000
PERIOD = 20 * MS
TIMEOUT_S = 60
OLDEST_ROW = 4
"""It drives for a period: then its plan is as old as `safety.max_plan_age_s` of the contract."""


class Slow:
    """A loop whose controller answers when the test lets it, on a clock that the test turns."""

    def __init__(self, session: ControllerSession, lockstep: bool = False) -> None:
        self.now = 10**12
        self.begun: queue.Queue[None] = queue.Queue()
        self.may_answer = threading.Semaphore(0)
        self.sent: queue.Queue[Answer] = queue.Queue()
        self.done: queue.Queue[Answer] = queue.Queue()
        self.ready: list[ControllerSession] = [session]
        self.served = threading.Semaphore(0)
        self.slow(session)
        self.loop = ControlLoop(
            tiny.contract(),
            5,
            lockstep,
            lambda: self.now,
            self.sent.put,
            self.done.put,
            lambda: self.ready.pop() if self.ready else None,
            lambda session: self.served.release(),
        )
        self.loop.start()
        assert self.served.acquire(timeout=TIMEOUT_S)
        self.stamp = 0

    def slow(self, session: ControllerSession) -> None:
        act = session.act
        session.warm_up_ms = 1e3 * TIMEOUT_S

        def slow_act(*inputs: Any) -> ControllerOutput:
            self.begun.put(None)
            assert self.may_answer.acquire(timeout=TIMEOUT_S)
            return act(*inputs)

        session.act = slow_act  # type: ignore[method-assign]

    def come(self, periods: int = 1) -> None:
        """Observations, a period from each other; the controller does not answer."""
        for _ in range(periods):
            self.stamp += PERIOD
            self.now += PERIOD
            self.loop.offer(Observation(np.full(5, 0.5, np.float32), self.stamp, self.now), self.now)

    def begin(self) -> None:
        """One more observation, and the controller thinks about it."""
        self.come()
        self.begun.get(timeout=TIMEOUT_S)

    def answer(self) -> None:
        """The controller answers to the oldest tick that it has begun with."""
        self.begun.get(timeout=TIMEOUT_S)
        self.may_answer.release()

    def tick(self) -> Answer:
        """A tick in time; gives what was sent."""
        self.come()
        self.answer()
        self.done.get(timeout=TIMEOUT_S)
        return self.next()

    def next(self) -> Answer:
        return self.sent.get(timeout=TIMEOUT_S)

    def close(self) -> None:
        """What is begun is answered, and everything sent is in `sent`."""
        self.may_answer.release(1000)
        self.loop.close()


def row(number: int) -> float:
    return tiny.FIRST_ROW + tiny.ROW_STEP * number


def told(answer: Answer) -> tuple[float, int, int]:
    """The action, and how many periods its observation is old; the stamp in periods."""
    return float(answer.output.action[0]), round(answer.age_ns / PERIOD), answer.tick.observation.stamp_ns // PERIOD


@pytest.fixture
def session(tmp_path: Path) -> ControllerSession:
    return ControllerSession.load(tiny.hesitating(tmp_path / "c.onnx", rounds=1), tiny.contract())


@pytest.fixture
def slow(session: ControllerSession) -> Iterator[Slow]:
    made = Slow(session)
    yield made
    made.close()


def thinking_about_the_second(slow: Slow) -> None:
    slow.tick()
    slow.begin()


def test_a_command_says_how_old_its_plan_is_and_is_never_younger_than_that() -> None:
    assert source_name("pets:3:1f2e3d4c", 0) == "pets:3:1f2e3d4c" and age_ns("pets:3:1f2e3d4c") == 0
    assert source_name("pets:3:1f2e3d4c", 40 * MS + 1) == "pets:3:1f2e3d4c+41ms"
    assert age_ns("pets:3:1f2e3d4c+41ms") == 41 * MS


def test_ticks_that_come_while_the_controller_thinks_get_the_rows_of_the_last_plan_up_to_the_contracts_age(slow: Slow) -> None:
    thinking_about_the_second(slow)
    slow.come(10)
    rows = [told(slow.next()) for _ in range(OLDEST_ROW - 1)]
    assert rows == [(row(k), k, k + 1) for k in range(2, OLDEST_ROW + 1)]
    assert slow.sent.empty() and slow.loop.counts.followed == OLDEST_ROW - 1


def test_a_tick_half_a_period_late_gets_its_row_before_the_next_one_comes(slow: Slow) -> None:
    thinking_about_the_second(slow)
    assert slow.sent.empty()
    slow.now += PERIOD // 2  # one and a half since the last command
    assert told(slow.next()) == (row(1), 1, 2)


def test_a_late_answer_is_sent_as_its_own_plans_row_for_the_newest_tick(slow: Slow) -> None:
    thinking_about_the_second(slow)
    slow.come(3)
    assert [told(slow.next())[:2] for _ in range(3)] == [(row(2), 2), (row(3), 3), (row(4), 4)]
    slow.may_answer.release()
    assert told(slow.next()) == (row(3), 3, 5)
    slow.answer()
    assert told(slow.next()) == (row(0), 0, 5)


def test_an_inference_that_goes_on_for_longer_than_a_period_is_told(slow: Slow) -> None:
    thinking_about_the_second(slow)
    assert slow.loop.slow(slow.now + PERIOD) == ""
    told = slow.loop.slow(slow.now + 3 * PERIOD)
    assert told == "inference has been going on for 60 ms, a control period has 20 ms"


def test_followed_ticks_are_no_misses_and_are_counted_by_themselves(slow: Slow) -> None:
    thinking_about_the_second(slow)
    slow.come(2)
    slow.close()
    counts = slow.loop.counts
    # The second tick itself had nothing within its period; the two after it were followed, and one of them was replaced.
    assert (counts.followed, counts.overruns, counts.late, counts.deadline_misses, counts.deadlines) == (2, 0, 1, 1, 4)


def test_a_plan_is_not_followed_into_another_episode(slow: Slow) -> None:
    thinking_about_the_second(slow)
    slow.stamp += 10**9
    slow.come(2)
    assert slow.sent.empty() and slow.loop.counts.followed == 0


def test_a_plan_of_the_old_controller_is_not_followed_after_the_swap(slow: Slow, tmp_path: Path) -> None:
    slow.tick()
    new = ControllerSession.load(tiny.hesitating(tmp_path / "new.onnx", rounds=1), tiny.contract())
    slow.slow(new)
    slow.ready.append(new)
    slow.loop.wake()
    assert slow.served.acquire(timeout=TIMEOUT_S)
    slow.begin()
    slow.come(3)
    assert slow.sent.empty() and slow.loop.counts.followed == 0


def test_after_an_output_that_is_refused_the_plan_before_it_is_not_followed(slow: Slow, session: ControllerSession) -> None:
    slow.tick()
    act, prepare, prepared = session.act, session.prepare, threading.Semaphore(0)
    session.act = lambda *inputs: (act(*inputs), session.refuse("not finite"))[1]  # type: ignore[method-assign]
    session.prepare = lambda: (prepare(), prepared.release())[0]  # type: ignore[method-assign, func-returns-value]
    slow.come()
    slow.answer()
    for _ in ("by act itself", "at the end of the tick"):
        assert prepared.acquire(timeout=TIMEOUT_S)
    slow.begin()
    slow.come(3)
    assert slow.sent.empty() and slow.loop.counts.refused == 1


@pytest.mark.parametrize(("level", "followed"), [(0.1, 0), (10.0, 2)])
def test_a_plan_about_which_the_ensemble_disagrees_is_not_followed(tmp_path: Path, level: float, followed: int) -> None:
    session = ControllerSession.load(tiny.feedback(tmp_path / "c.onnx"), tiny.contract())
    session.disagreement_level = Level(level=level, quantile=0.99, scale=(1.0,) * 5, windows=1, data="held_out")
    slow = Slow(session)
    thinking_about_the_second(slow)
    slow.come(2)
    slow.close()
    assert slow.loop.counts.followed == followed


def test_a_policy_without_a_plan_has_nothing_to_follow(tmp_path: Path) -> None:
    slow = Slow(ControllerSession.load(tiny.constant(tmp_path / "c.onnx"), tiny.contract()))
    thinking_about_the_second(slow)
    slow.come(2)
    slow.close()
    assert slow.loop.counts.followed == 0 and all(a.age_ns == 0 for a in slow.sent.queue)


def test_in_lockstep_nothing_is_followed(session: ControllerSession) -> None:
    slow = Slow(session, lockstep=True)
    thinking_about_the_second(slow)
    slow.come(2)
    slow.close()
    assert slow.loop.counts.followed == 0 and all(a.age_ns == 0 for a in slow.sent.queue)


@pytest.mark.parametrize(("rows_per_tick", "expected"), [(1.0, [2, 3]), (0.5, [1, 1])])
def test_rows_last_as_long_as_the_plan_says(tmp_path: Path, rows_per_tick: float, expected: list[int]) -> None:
    path = tiny.hesitating(tmp_path / "c.onnx", rounds=1, plan_period_s=tiny.contract().control.period_s / rows_per_tick)
    slow = Slow(ControllerSession.load(path, tiny.contract()))
    thinking_about_the_second(slow)
    slow.come(2)
    assert [told(slow.next())[0] for _ in range(2)] == [row(k) for k in expected]
    slow.close()


def test_an_answer_that_a_row_for_a_newer_tick_has_overtaken_is_not_sent_so_that_stamps_never_run_backwards(slow: Slow) -> None:
    thinking_about_the_second(slow)
    slow.come()
    assert told(slow.next()) == (row(2), 2, 3)
    slow.loop.disagreement.above = True
    slow.may_answer.release()
    slow.answer()
    assert told(slow.next()) == (row(0), 0, 3)
