"""The last good plan is followed while inference is slow: a command that would come half a period late is that plan's row for the tick."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wm_ros.runtime.answer import Answer
from wm_ros.runtime.control_ticks import Tick
from wm_ros.runtime.controller import ControllerOutput, ControllerSession

PATIENCE_PERIODS = 1.5
"""So long after the last command a row goes out for a tick that has no answer yet: the gate, which waits 1.75, must not have to hold."""
LOOK_PERIODS = 0.25
"""How often a tick is looked for that began later than that."""

TOLERANCE_NS = 1_000_000
"""Of a plan's age, for the jitter of stamps."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Actions for the ticks after an answer."""

    session: ControllerSession
    resets: int
    """Of the tick that it was made for: it ends with the episode."""
    stamp_ns: int
    """Of the observation that it was computed from."""
    actions: NDArray[np.float32]
    """[H, A], the first for the tick itself."""
    row_ns: int
    """Time between its rows."""
    made_ns: int
    """When it was, on the steady clock."""

    @classmethod
    def of(cls, answer: Answer, now_ns: int) -> Plan | None:
        """The plan of an answer to its own tick; None where there is none, or nobody knows when its rows are due."""
        period_s, actions = answer.session.metadata.plan_period_s, answer.output.plan_action
        if period_s is None or actions is None:
            return None
        tick = answer.tick
        return cls(answer.session, tick.resets, tick.observation.stamp_ns, actions, round(1e9 * period_s), now_ns)

    def at(self, tick: Tick, period_ns: int) -> Answer | None:
        """The row for another tick; None past the plan's end, in another episode, or before it."""
        age_ns = tick.observation.stamp_ns - self.stamp_ns
        # Ticks are counted, since stamps jitter; the middle of a tick lies in the row that is due in it.
        row = (round(age_ns / period_ns) * period_ns + period_ns // 2) // self.row_ns
        if tick.resets != self.resets or age_ns < 0 or row >= len(self.actions):
            return None
        return Answer(self.session, tick, ControllerOutput(self.actions[row].copy(), True, "", {}), age_ns)


class PlanFollower:
    """Sends answers; and in place of those that are late, rows of the last plan.

    A row goes out for a tick that comes while another is still thought about, and for one that has no answer `PATIENCE_PERIODS` after the
    last command. It goes out once for each tick, and only where the observation behind the plan is at most `max_age_ns` old when the next
    tick comes, which is how long the row drives the robot.
    An answer that comes when newer ticks are there is sent as its own plan's row for the newest, and not at all where it cannot be and
    a row of an older plan has gone out for a newer tick: stamps of commands never run backwards.

    Where answers come without plans, this costs nothing but a lock.

    Args:
        period_ns: of control.
        max_age_ns: the contract's `safety.max_plan_age_s`; 0: no plan is kept.
        clock: the steady clock, in nanoseconds.
        send: publishes the command of an answer.
        follow: publishes the command of a row that stands in for an answer; called in several threads, one at a time.
    """

    def __init__(
        self, period_ns: int, max_age_ns: int, clock: Callable[[], int], send: Callable[[Answer], None], follow: Callable[[Answer], None]
    ) -> None:
        self._period_ns, self._max_age_ns = period_ns, max_age_ns
        self._clock, self._send, self._follow = clock, send, follow
        self._changed = threading.Condition()
        self._plan: Plan | None = None
        self._newest: Tick | None = None
        self._thinking: Tick | None = None
        self._sent_ns = 0
        self._followed_ns: set[int] = set()
        """Stamps of ticks that got a row and are not done with."""
        self._row_tick: Tick | None = None
        """The last one that did."""
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="plan follower", daemon=True)

    def start(self) -> None:
        """Starts the thread that notices late answers."""
        if self._max_age_ns:
            self._thread.start()

    def close(self) -> None:
        """Nothing is followed any longer."""
        with self._changed:
            self._closed, self._plan = True, None
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    # ---- told by the control loop -----------------------------------------------------------------------------------

    def come(self, tick: Tick) -> None:
        """A tick has come, whoever is still thinking."""
        with self._changed:
            self._newest = tick
            if self._thinking is not None:
                self._send_row()

    def thinks(self, tick: Tick) -> None:
        """The controller begins with this tick."""
        with self._changed:
            self._thinking = tick

    def answers(self, answer: Answer, followable: bool) -> None:
        """The controller's answer to the tick that it thought about; it is sent.

        Args:
            answer: to its own tick.
            followable: its plan may be followed.
        """
        with self._changed:
            self._thinking = None
            plan = Plan.of(answer, self._clock()) if followable and self._max_age_ns else None
            newest = self._newest
            late = newest is not None and newest is not answer.tick
            row = plan.at(newest, self._period_ns) if late and plan is not None and newest is not None else None
            if row is not None or not self._overtaken(answer.tick):
                self._send(row or answer)
                self._sent_ns = self._clock()
            if self._plan is None and plan is not None:
                self._changed.notify_all()
            self._plan = plan

    def forget(self) -> None:
        """The last plan is worth nothing: another controller serves, an output was refused, an episode begins."""
        with self._changed:
            self._thinking = self._plan = None

    def take_followed(self, tick: Tick) -> bool:
        """Whether a row went out for the tick; to be asked once, when the tick is done with."""
        with self._changed:
            stamp = tick.observation.stamp_ns
            found = stamp in self._followed_ns
            self._followed_ns.discard(stamp)
            return found

    # ---- the lock is held -------------------------------------------------------------------------------------------

    def _overtaken(self, tick: Tick) -> bool:
        last = self._row_tick
        return last is not None and last.resets == tick.resets and last.observation.stamp_ns > tick.observation.stamp_ns

    def _send_row(self) -> None:
        tick, plan = self._newest, self._plan
        if tick is None or plan is None or tick.observation.stamp_ns in self._followed_ns:
            return
        row = plan.at(tick, self._period_ns)
        if row is not None and row.age_ns + self._period_ns <= self._max_age_ns + TOLERANCE_NS:
            self._followed_ns.add(tick.observation.stamp_ns)
            self._row_tick = tick
            self._follow(row)
            self._sent_ns = self._clock()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                plan, now = self._plan, self._clock()
                if plan is None:
                    self._changed.wait()
                    continue
                left_ns = self._sent_ns + round(PATIENCE_PERIODS * self._period_ns) - now
                if left_ns <= 0:
                    if self._thinking is not None:
                        self._send_row()
                    if now - plan.made_ns > self._max_age_ns + self._period_ns:
                        self._plan = None  # nobody needs to look any more
                        continue
                    left_ns = round(LOOK_PERIODS * self._period_ns)
                # Nobody wakes this up in the hot path: a command that has gone out meanwhile only moves the time at which to look again.
                self._changed.wait(1e-9 * left_ns)
