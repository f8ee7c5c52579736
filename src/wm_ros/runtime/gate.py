"""The last word before the hardware: passes good commands on, and in every other case says hold. No model, no ROS, no clock of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.assembler import Assembler, BadMessage
from wm_ros.contract.schema import Contract
from wm_ros.runtime.cameras import lockstep_lives_ns

COMMAND_TIMEOUT_PERIODS = 1.75
"""A missing command is noticed after this many control periods: with the watchdog's resolution, hold comes within two."""
WATCHDOG_PERIODS = 0.2
"""How often `tick` must be called."""
CATCH_UP_PERIODS = 2.0
"""Real time: a gate that has not looked for longer than a plan may be old holds for so long: what waited for it meanwhile comes first."""
REPEAT_AFTER_NS = 100_000_000
"""Lockstep: an observation that comes again after this time asks for an answer that was lost, as before discovery was complete."""

Source = Literal["mpc", "policy"]


@dataclass(frozen=True)
class Proposal:
    """A command as it came."""

    names: Sequence[str]
    values: Sequence[float]
    """In contract units, in the order of `names`."""
    stamp_ns: int
    """Stamp of the observation that it is the action for, and which it was computed from unless `age_ns` says otherwise."""
    controller: str = ""
    """Who computed it."""
    age_ns: int = 0
    """It is a row of an older plan: what it was computed from is older than `stamp_ns` by that."""
    malformed: str = ""
    """Not empty: another field than the contract's interface is filled, and the text says so."""


@dataclass(frozen=True)
class Outgoing:
    """A command for the hardware."""

    values: NDArray[np.float64]
    """[A] in the contract's order and units; finite and within the limits."""
    stamp_ns: int
    controller: str
    """The proposal's, or `hold:REASON`."""
    reason: str
    """Why this is hold; empty for a proposal that was passed on."""


class Gate:
    """Armed, disarmed or stopped. All times are steady nanoseconds given by the caller; one thread at a time.

    Each input may give a command to send at once. `tick` must be called every `WATCHDOG_PERIODS` of a control period.

    Real time: a proposal is passed on when it comes. While something is wrong, hold goes out once per control period, the first at once or
    at the latest with the next `tick`.

    Lockstep: each observation gets exactly one answer with its stamp: the proposal computed from it; hold at once while something is wrong;
    hold after `lockstep_timeout_s` where no proposal comes; the same answer again where the observation is sent again. Freshness is judged
    by stamps, since simulated time stands still meanwhile.

    Where proposals take over from a hold that interrupted them, or from another source, the command moves from the last one sent to theirs
    over `blend_s`, within limits and rate limit. Hold is never blended: it is sent at once. Nor is the first proposal after `arm`, so an
    episode in which nothing switches is passed on bit for bit.
    """

    def __init__(self, contract: Contract, lockstep: bool = False, lockstep_timeout_s: float = 5.0, blend_s: float = 0.0) -> None:
        self.contract = contract
        self._blend_ns = round(1e9 * blend_s)
        self._blend_from: NDArray[np.float64] | None = None
        self._blend_began_ns = 0
        self._passed_source: Source | None = None
        self.lockstep = lockstep
        self.armed = False
        self.stopped = False
        """An e-stop came; latched until `arm`."""
        self.source: Source = "mpc"
        self.interventions: Counter[str] = Counter()
        """Refused commands, clips, rate limits, refused sensor messages, and each time that hold began, by reason."""
        self.passed = 0
        self.followed = 0
        """Of those that passed: rows of a plan that was made for an earlier tick."""
        self.held = 0
        self._period_ns = contract.control.period_ns
        self._timeout_ns = int(lockstep_timeout_s * 1e9) if lockstep else int(COMMAND_TIMEOUT_PERIODS * self._period_ns)
        self._estop_pressed = False
        self._publishers = 1
        # That pictures come is all the gate must know of them.
        self._assembler = Assembler(contract, images=False)
        self._dating = contract.dating_channels
        self._stamped = {c.name for c in contract.observation if c.clock == "header"}
        self._max_age_ns = {c.name: round(1e9 * min(c.max_age_s, contract.safety.max_observation_age_s)) for c in contract.observation}
        self._picture_lives_ns = lockstep_lives_ns(contract) if lockstep else {}
        self._stamps: dict[str, int] = {}
        self._fresh_ns: dict[str, int] = {}
        self._low = np.array([j.low for j in contract.action.joints])
        self._high = np.array([j.high for j in contract.action.joints])
        self._rate = np.array([j.rate_limit or np.inf for j in contract.action.joints])
        self._last_command_stamp: int | None = None
        self._last_passed_ns: int | None = None
        self._armed_stamp: int | None = None
        self._max_plan_age_ns = round(1e9 * contract.safety.max_plan_age_s)
        self._looked_ns: int | None = None
        self._woke_ns: int | None = None
        self._last_sent: NDArray[np.float64] | None = None
        self._last_sent_ns = 0
        self._last_sent_stamp = 0
        self._last: Outgoing | None = None
        self._holding = ""
        self._refusal = ""
        self._set_back: set[str] = set()
        self._hold: NDArray[np.float64] | None = None
        # Lockstep: the observation that waits for its answer, since when; and a proposal that overtook its observation.
        self._pending_stamp: int | None = None
        self._pending_ns = 0
        self._answered_stamp = -1
        self._early: Proposal | None = None

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def sensor(self, channel: str, message: Any, now_ns: int) -> Outgoing | None:
        """A sensor message of the contract's `channel`. One that cannot be used is counted and otherwise ignored; then age tells."""
        self._look(now_ns)
        try:
            sample = self._assembler.update(channel, message, now_ns)
        except BadMessage as bad:
            self.interventions[f"sensor_{bad.reason}"] += 1
            if bad.reason != "backwards":
                return None
            if not self.lockstep:
                self._set_back.add(channel)
                return None
            self._restart()  # the simulator began anew
            sample = self._assembler.update(channel, message, now_ns)
        self._set_back.discard(channel)
        if sample.stamp_ns - self._stamps.get(channel, sample.stamp_ns) > self._max_age_ns[channel]:
            self._hold = None  # after a jump in time the robot may be elsewhere: a held position is measured again
        again = sample.stamp_ns == self._stamps.get(channel)
        # A driver that repeats its last sample forever is as dead as a silent one: only a newer stamp is news.
        if sample.stamp_ns > self._stamps.get(channel, -1):
            self._fresh_ns[channel] = now_ns
        self._stamps[channel] = sample.stamp_ns
        if not self.lockstep or self._assembler.missing:
            return None
        stamp = self._observation_stamp()
        if any(stamp - self._stamps[name] >= life for name, life in self._picture_lives_ns.items()):
            return None  # a picture of this tick is under way
        if stamp == self._answered_stamp and again and self._last is not None and now_ns - self._last_sent_ns > REPEAT_AFTER_NS:
            return self._repeated(self._last, now_ns)
        if stamp <= self._answered_stamp or stamp == self._pending_stamp:
            return None
        self._pending_stamp, self._pending_ns = stamp, now_ns
        if self._fault(now_ns):
            return self.tick(now_ns)
        early, self._early = self._early, None
        return self._judge(early, now_ns) if early is not None and early.stamp_ns == stamp else None

    def command(self, source: Source, proposal: Proposal, now_ns: int, publishers: int = 1) -> Outgoing | None:
        """A command of a controller, and how many publishers its topic has."""
        self._look(now_ns)
        if source != self.source:
            return None
        self.publishers(publishers)
        if not self.armed or self.stopped:
            return self.tick(now_ns)
        return self._judge(proposal, now_ns)

    def publishers(self, count: int) -> None:
        """How many publishers the selected command topic has: more than one is a fault while it lasts."""
        self._publishers = count

    def estop(self, pressed: bool, now_ns: int) -> Outgoing | None:
        """The e-stop's state; pressed is latched."""
        self._estop_pressed = pressed
        if not pressed:
            return None
        self.stopped = True
        self.armed = False
        return self._send_hold("estop", now_ns)

    def arm(self) -> str:
        """Lets proposals through from the next one on, and clears an e-stop. Returns why not, or nothing.

        Where the robot's clock was set back, this is also what lets its sensors be heard again.
        """
        if self._estop_pressed:
            return "the e-stop is still pressed: release it first"
        if self.armed:
            return ""
        self.stopped = False
        self.armed = True
        if self._set_back:
            self._restart()
        self._last_command_stamp = None
        self._last_passed_ns = None
        self._armed_stamp = None if self._assembler.missing else self._observation_stamp()
        self._passed_source = self._blend_from = None
        self._refusal = ""
        self._hold = None
        return ""

    def disarm(self, now_ns: int) -> Outgoing | None:
        """Holds from now on."""
        self.armed = False
        return self._send_hold("disarmed", now_ns)

    def select(self, source: Source) -> None:
        """Which controller is listened to."""
        if source != self.source:
            self.source = source
            self._publishers = 1
            self._last_command_stamp = None
            self._early = None

    def tick(self, now_ns: int) -> Outgoing | None:
        """The watchdog."""
        self._look(now_ns)
        fault = self._fault(now_ns) or self._missing_command(now_ns)
        if not fault:
            return None
        if self.lockstep:
            return self._send_hold(fault, now_ns) if self._pending_stamp is not None else None
        if self._holding and now_ns - self._last_sent_ns < self._period_ns:
            return None
        return self._send_hold(fault, now_ns)

    # ---- for diagnostics ----------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        return "stopped" if self.stopped else "armed" if self.armed else "disarmed"

    def reason(self, now_ns: int) -> str:
        """Why the gate holds now; empty while it passes commands on."""
        return self._fault(now_ns) or self._missing_command(now_ns)

    @property
    def holding(self) -> str:
        """Why the last thing sent was hold; empty where it was a proposal."""
        return self._holding

    @property
    def observation_stamp_ns(self) -> int | None:
        """Stamp of the newest complete observation."""
        return None if self._assembler.missing else self._observation_stamp()

    def lacking(self, now_ns: int) -> list[str]:
        """Names of the channels that have no sample, or none that is fresh enough."""
        return self._assembler.missing or list(self._stale(now_ns))

    def observation_age_ns(self, now_ns: int) -> int | None:
        """Steady time since the oldest channel had news; None before the first observation."""
        return None if self._assembler.missing else now_ns - min(self._fresh_ns.values())

    def _look(self, now_ns: int) -> None:
        """Notes when this process was kept from looking, by the machine or a debugger: what waited for it is old, and does not say so."""
        if self._looked_ns is not None and now_ns - self._looked_ns > self._max_plan_age_ns:
            self._woke_ns = now_ns
        self._looked_ns = now_ns

    # ---- judgement ----------------------------------------------------------------------------------------------------

    def _observation_stamp(self) -> int:
        return min(self._stamps[name] for name in self._dating)

    def _fault(self, now_ns: int) -> str:
        """What forbids any proposal now."""
        if self.stopped:
            return "estop"
        if not self.armed:
            return "disarmed"
        if self._publishers > 1:
            return "two_publishers"
        if self._assembler.missing:
            return "no_observation"
        if next(self._stale(now_ns), ""):
            return "stale_observation"
        catching_up = self._woke_ns is not None and now_ns - self._woke_ns < CATCH_UP_PERIODS * self._period_ns
        return "gate_late" if catching_up and not self.lockstep else ""

    def _stale(self, now_ns: int) -> Iterator[str]:
        """Channels whose newest sample is too old; none may be missing."""
        # Times of reception are on another clock than stamps.
        newest = max((self._stamps[name] for name in self._stamped), default=0)
        for channel, limit in self._max_age_ns.items():
            lags = channel in self._stamped and newest - self._stamps[channel] > limit
            if lags or (not self.lockstep and now_ns - self._fresh_ns[channel] > limit):
                yield channel

    def _missing_command(self, now_ns: int) -> str:
        if self.lockstep:
            late = self._pending_stamp is not None and now_ns - self._pending_ns > self._timeout_ns
            return "command_timeout" if late else ""
        if self._last_passed_ns is None:
            return self._refusal or "no_command"
        # Since hold went out for a refused command, that is the reason until a good one comes.
        return self._refusal or ("command_timeout" if now_ns - self._last_passed_ns > self._timeout_ns else "")

    def _judge(self, proposal: Proposal, now_ns: int) -> Outgoing | None:
        fault = self._fault(now_ns)
        if self.lockstep and fault in ("", "no_observation", "stale_observation"):
            # The messages of one tick come in any order: where one of them is still under way, the tick is judged when it is whole.
            if self._pending_stamp is None or proposal.stamp_ns > self._pending_stamp:
                self._early = proposal
                return None
            if proposal.stamp_ns < self._pending_stamp:
                self.interventions["late_command"] += 1
                return None
        values = None
        if not fault:
            values, fault = self._ordered(proposal)
        fault = fault or self._stamp_fault(proposal.stamp_ns, proposal.age_ns, now_ns)
        if fault:
            self.interventions[f"refused_{fault}"] += 1
            self._refusal = fault
            return self._send_hold(fault, now_ns)
        assert values is not None
        clipped = np.clip(values, self._low, self._high)
        self.interventions["clipped"] += bool((clipped != values).any())
        blended = self._blended(clipped, proposal.stamp_ns if self.lockstep else now_ns)
        self._last_command_stamp = proposal.stamp_ns
        self._last_passed_ns = now_ns
        self._holding, self._hold, self._refusal = "", None, ""
        self._passed_source = self.source
        self.passed += 1
        self.followed += proposal.age_ns > 0
        return self._send(self._limited(blended, proposal.stamp_ns, now_ns), proposal.stamp_ns, proposal.controller, "", now_ns)

    def _ordered(self, proposal: Proposal) -> tuple[NDArray[np.float64] | None, str]:
        """The values [A] in the contract's order, or what is wrong with them."""
        if proposal.malformed:
            return None, "wrong_interface"
        names = list(proposal.names)
        if len(proposal.values) != len(names):
            return None, "wrong_size"
        if len(names) != len(set(names)) or set(names) != set(self.contract.action.names):
            return None, "wrong_names"
        by_name = dict(zip(names, proposal.values, strict=True))
        values = np.array([by_name[name] for name in self.contract.action.names], dtype=np.float64)
        # Before limiting: min and max let NaN through.
        return (values, "") if np.isfinite(values).all() else (None, "not_finite")

    def _stamp_fault(self, stamp_ns: int, age_ns: int, now_ns: int) -> str:
        if self._last_command_stamp is not None and stamp_ns < self._last_command_stamp:
            return "time_backwards"
        ahead = stamp_ns - self._observation_stamp()
        # On a busy machine the newest observation may not be here yet; then the time since the last one tells.
        waited = 0 if self.lockstep else now_ns - max(self._fresh_ns[name] for name in self._dating)
        if age_ns - ahead + waited > self._max_plan_age_ns:
            return "stale_plan"
        # What was planned before a stop is not gone on with after it.
        if age_ns and self._armed_stamp is not None and stamp_ns - age_ns < self._armed_stamp:
            return "stale_plan"
        # The proposal may have overtaken its observation on the way here, but by no more than an observation's life.
        if ahead > 1e9 * self.contract.safety.max_observation_age_s:
            return "time_ahead"
        return ""

    def _blended(self, values: NDArray[np.float64], time_ns: int) -> NDArray[np.float64]:
        """On the way from what was sent before a switch to the proposals [A]; the proposal itself where nothing has switched lately."""
        interrupted = bool(self._holding) or self._passed_source != self.source
        if self._passed_source is not None and interrupted and self._blend_ns > self._period_ns:
            self._blend_from, self._blend_began_ns = self._last_sent, time_ns
            self.interventions["blended"] += 1
        if self._blend_from is None:
            return values
        # The first command is one period on the way.
        share = (time_ns - self._blend_began_ns + self._period_ns) / self._blend_ns
        if share >= 1.0:
            self._blend_from = None
            return values
        between: NDArray[np.float64] = (1.0 - share) * self._blend_from + share * values
        return between

    def _limited(self, clipped: NDArray[np.float64], stamp_ns: int, now_ns: int) -> NDArray[np.float64]:
        if self._last_sent is None:
            start, elapsed = self._start(), self._period_ns
        else:
            start, elapsed = self._last_sent, stamp_ns - self._last_sent_stamp if self.lockstep else now_ns - self._last_sent_ns
        # A pause earns no larger step than two periods do. At least 1 ns: no limit (infinity) times nothing would be NaN.
        step = self._rate * 1e-9 * min(max(elapsed, 1), 2 * self._period_ns)
        limited = np.clip(clipped, start - step, start + step)
        self.interventions["rate_limited"] += bool((limited != clipped).any())
        return limited

    # ---- sending ------------------------------------------------------------------------------------------------------

    def _send_hold(self, reason: str, now_ns: int) -> Outgoing | None:
        """Hold, stamped with the newest observation; None where there is nothing to hold, or no question to answer."""
        if self.lockstep and self._pending_stamp is None:
            return None
        if self._assembler.missing and self._last_sent is None:
            return None  # nothing was ever moved
        if reason != self._holding:
            self.interventions[f"hold_{reason}"] += 1
        if not self._holding or self._hold is None:
            self._hold = self._safe_action()
        self._holding = reason
        if self._hold is None:
            return None
        self.held += 1
        stamp = self._pending_stamp if self._pending_stamp is not None else self._newest_stamp()
        return self._send(self._hold, stamp, f"hold:{reason}", reason, now_ns)

    def _repeated(self, answer: Outgoing, now_ns: int) -> Outgoing | None:
        """The answer once more; hold, where it was a proposal that must not pass any longer."""
        fault = self._fault(now_ns)
        if not fault or answer.reason:
            return answer
        self._pending_stamp = answer.stamp_ns
        return self._send_hold(fault, now_ns)

    def _newest_stamp(self) -> int:
        return self._last_sent_stamp if self._assembler.missing else self._observation_stamp()

    def _safe_action(self) -> NDArray[np.float64] | None:
        """The contract's hold [A]: where it is the measured position, the one at the moment when hold begins, so that it does not creep."""
        hold = self.contract.safety.hold
        if hold == "zero":
            return np.zeros(self.contract.action_size)
        if isinstance(hold, dict):
            return np.array([hold[name] for name in self.contract.action.names])
        if self._assembler.missing:
            return self._last_sent
        measured = self._measured()
        return self._within(np.array([measured[name] for name in self.contract.action.names]))

    def _start(self) -> NDArray[np.float64]:
        """What the joints [A] do before the first command: where they are under position control, else the safe action."""
        hold = self.contract.safety.hold
        known = dict(hold) if isinstance(hold, dict) else {}
        if self.contract.action.interface == "position":
            known |= self._measured()
        return self._within(np.array([known.get(name, 0.0) for name in self.contract.action.names]))

    def _measured(self) -> dict[str, float]:
        features = [f for c in self.contract.observation for f in c.features]
        return {str(f.joint): float(v) for f, v in zip(features, self._assembler.raw(), strict=True) if f.field == "position"}

    def _within(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        limited: NDArray[np.float64] = np.clip(values, self._low, self._high)
        return limited

    def _send(self, values: NDArray[np.float64], stamp_ns: int, controller: str, reason: str, now_ns: int) -> Outgoing:
        self._last_sent, self._last_sent_ns, self._last_sent_stamp = values, now_ns, stamp_ns
        if self.lockstep:
            self._answered_stamp, self._pending_stamp = stamp_ns, None
        self._last = Outgoing(values, stamp_ns, controller, reason)
        return self._last

    def _restart(self) -> None:
        self._assembler.reset()
        self._stamps.clear()
        self._fresh_ns.clear()
        self._set_back.clear()
        self._passed_source = self._blend_from = None
        self._last_command_stamp = self._armed_stamp = None
        self._pending_stamp = None
        self._answered_stamp = -1
        self._last = None
        self._early = None
