"""Observations in, commands out: a quick policy answers where the observation arrives, others in a thread where the newest one wins."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from wm_ros.contract.assembler import Observation
from wm_ros.contract.schema import Contract
from wm_ros.runtime.answer import Answer
from wm_ros.runtime.cameras import PictureWatch
from wm_ros.runtime.control_ticks import ControlTicks, Tick
from wm_ros.runtime.controller import ControllerOutput, ControllerSession
from wm_ros.runtime.disagreement import Watch
from wm_ros.runtime.plan_following import PlanFollower
from wm_ros.runtime.statistics import Durations, Periods


@dataclass
class Counts:
    """Of one control loop since it began to serve."""

    deadlines: int = 0
    """Control ticks that had a command due. None in lockstep, where time waits."""
    deadline_misses: int = 0
    """Ticks without a command within one control period of the observation: the sum of the four causes below, without lockstep."""
    skipped: int = 0
    """Ticks for which no observation came."""
    overruns: int = 0
    """Observations that were replaced by a newer one before they were acted on."""
    late: int = 0
    """Commands that went out more than one period after their observation had come."""
    refused: int = 0
    """Outputs that were not ok."""
    followed: int = 0
    """Ticks whose answer was late, and which got a row of the last plan in its place: no misses, though inference overran."""


REPEAT_AFTER_NS = 100_000_000
"""Lockstep: an observation that comes again after this time asks for an answer that was lost."""


SHORT_PERIODS = 0.1
"""A policy whose inference takes at most this part of a control period answers in the thread that brings the observation: the hand-over to
another costs 0.4 ms of 2 at 100 Hz (docs/reliability.md). A longer one would keep observations waiting; and while a planner thinks, they
must come, for its last plan is followed then."""
HELD_UP_PERIODS = 0.5
"""One that once took longer than this is not trusted with that thread for a while: of what queues up, only the newest counts."""
DISTRUSTED_TICKS = 1000


class ControlLoop:
    """Runs a controller on every control tick.

    Args:
        contract: gives the period and the longest gap in observations.
        seed: of the controller's noise; episode n after the start draws from `SeedSequence([seed, n])`.
        lockstep: every new stamp is a tick, and there are no deadlines.
        clock: the steady clock, in nanoseconds.
        send: publishes the command of an answer that is ok, or of a row of the last plan; called in several threads, one at a time.
        show: publishes what is for people, after the command; called in the loop's thread, or where `offer` is.
        take: gives a controller that is ready to serve from now on, or None; asked between two ticks.
        served: told when another controller begins to serve.
        fallback: told that the policy is to drive (True), or not any longer, by the contract's `safety.on_disagreement`.
    """

    def __init__(
        self,
        contract: Contract,
        seed: int,
        lockstep: bool,
        clock: Callable[[], int],
        send: Callable[[Answer], None],
        show: Callable[[Answer], None],
        take: Callable[[], ControllerSession | None],
        served: Callable[[ControllerSession], None],
        fallback: Callable[[bool], None] = lambda to_policy: None,
    ) -> None:
        self.period_ns = contract.control.period_ns
        self.counts = Counts()
        self.latency = Durations()
        """From the arrival of an observation to its command."""
        self.periods = Periods(self.period_ns)
        self.reason = ""
        """Why the last tick gave no command; empty where it did."""
        self._seed = seed
        self._lockstep = lockstep
        self._clock = clock
        self._send, self._show, self._take, self._served = send, show, take, served
        max_age_ns = 0 if lockstep else round(1e9 * contract.safety.max_plan_age_s)
        self._follower = PlanFollower(self.period_ns, max_age_ns, clock, self._answer, self._follow)
        self.disagreement = Watch(contract)
        """Of the plans that were acted on."""
        self._fallback = fallback
        self._pictures = PictureWatch(contract)
        self._ticks = ControlTicks(self.period_ns, round(1e9 * contract.safety.max_observation_age_s), every=lockstep)
        self._condition = threading.Condition()
        self._acting = threading.Lock()
        """Held by who uses the session, or changes it."""
        self._distrusted = 0
        self._pending: Tick | None = None
        self._answered: Answer | None = None
        self._again = False
        self._wake = False
        self._closed = False
        self._session: ControllerSession | None = None
        self._resets = -1
        self._began_ns: int | None = None
        self._with_policy = False
        self._thread = threading.Thread(target=self._work, name="control loop", daemon=True)

    def start(self) -> None:
        """Starts the thread; a controller that `take` gives serves from the first tick on."""
        self._follower.start()
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; an inference in progress is finished first."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._follower.close()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Looks for a new controller now, also while no observations come."""
        with self._condition:
            self._wake = True
            self._condition.notify_all()

    def slow(self, now_ns: int) -> str:
        """What people are told about an inference that has been going on for longer than a control period; empty where none has."""
        began = self._began_ns
        if began is None or self._lockstep or now_ns - began <= self.period_ns:
            return ""
        return f"inference has been going on for {1e-6 * (now_ns - began):.0f} ms, a control period has {1e-6 * self.period_ns:g} ms"

    @property
    def session(self) -> ControllerSession | None:
        """The controller that serves now."""
        return self._session

    def offer(self, observation: Observation, arrived_ns: int) -> None:
        """The newest observation; from one thread only. Returns at once, or after an inference that is short beside the period."""
        if self._lockstep and self._pictures.incomplete(observation):
            return
        tick = self._ticks.offer(observation, arrived_ns)
        if tick is None:
            if self._was_lost(observation, arrived_ns):
                with self._condition:
                    self._again = True
                    self._condition.notify_all()
            return
        self._follower.come(tick)
        if self._acted_at_once(tick):
            return
        with self._condition:
            replaced, self._pending = self._pending, tick
            self._count_due(tick, replaced)
            self._condition.notify_all()

    def _acted_at_once(self, tick: Tick) -> bool:
        """Whether this thread has acted on the tick itself, since that is short and the other one rests."""
        session = self._session
        if session is None or session.plans or 1e6 * session.warm_up_ms > SHORT_PERIODS * self.period_ns:
            return False
        if self._distrusted:
            self._distrusted -= 1
            return False
        if not self._acting.acquire(blocking=False):
            return False
        try:
            if self._pending is not None or self._again or session is not self._session:
                return False
            self._count_due(tick, None)
            began = self._clock()
            self._act(session, tick)
            if self._clock() - began > HELD_UP_PERIODS * self.period_ns:
                self._distrusted = DISTRUSTED_TICKS
            return True
        finally:
            self._acting.release()

    def _count_due(self, tick: Tick, replaced: Tick | None) -> None:
        if self._session is None or self._lockstep:
            return
        self.counts.deadlines += 1 + tick.skipped
        self.counts.deadline_misses += tick.skipped
        self.counts.skipped += tick.skipped
        if replaced is not None and not self._follower.take_followed(replaced):
            self.counts.overruns += 1
            self.counts.deadline_misses += 1

    def _was_lost(self, observation: Observation, arrived_ns: int) -> bool:
        """Lockstep: the simulator asks again, since its answer has not come, for instance before discovery was complete."""
        last = self._answered
        if not self._lockstep or last is None or last.tick.observation.stamp_ns != observation.stamp_ns:
            return False
        return arrived_ns - last.tick.arrived_ns > REPEAT_AFTER_NS

    def _work(self) -> None:
        while True:
            with self._acting:
                session = self._take()
                if session is not None:
                    self._session = session
                    self._resets, self._distrusted = -1, 0
                    self.disagreement.begin(session.disagreement_level)
                    self._follower.forget()
                    self._served(session)
            with self._condition:
                self._condition.wait_for(lambda: self._closed or self._wake or self._again or self._pending is not None)
                if self._closed:
                    return
                woken, self._wake = self._wake, False
                if woken:
                    continue
            with self._acting:
                with self._condition:
                    again, self._again = self._again, False
                    tick, self._pending = self._pending, None
                if again and tick is None and self._answered is not None:
                    self._send(self._answered)
                if tick is not None and self._session is not None:
                    self._act(self._session, tick)

    def _act(self, session: ControllerSession, tick: Tick) -> None:
        self._began_ns = self._clock()
        if tick.resets != self._resets:
            self._resets = tick.resets
            session.reset([self._seed, tick.resets])
            self._leave_to_policy(False)
            self.disagreement.reset()
            self.periods.pause()
            self._follower.forget()
        self._follower.thinks(tick)
        output = self.disagreement.judge(self._output(session, tick.observation), tick.observation.vector)
        self._leave_to_policy(self.disagreement.above)
        answer = Answer(session, tick, output)
        self.reason = output.reason
        self._answered = answer if output.ok else None
        if output.ok:
            self._follower.answers(answer, self.disagreement.calm)
            now = self._clock()
            self.latency.add_ns(now - tick.arrived_ns)
        else:
            self._follower.forget()
        followed = self._follower.take_followed(tick)
        with self._condition:
            self.counts.refused += not output.ok
            late = output.ok and not (self._lockstep or followed) and self._clock() - tick.arrived_ns > self.period_ns
            self.counts.late += late
            self.counts.deadline_misses += late or not (output.ok or self._lockstep)
        if output.ok:
            self._show(answer)
        session.prepare()
        self._began_ns = None

    def _answer(self, answer: Answer) -> None:
        self._send(answer)
        self.periods.event(self._clock())

    def _follow(self, row: Answer) -> None:
        self._answer(row)
        self.counts.followed += 1

    def _output(self, session: ControllerSession, observation: Observation) -> ControllerOutput:
        fault = self._pictures.fault(observation, session.cameras)
        return session.refuse(fault) if fault else session.act(observation.vector, observation.images)

    def _leave_to_policy(self, above: bool) -> None:
        if self.disagreement.action == "policy" and above != self._with_policy:
            self._with_policy = above
            self._fallback(above)
