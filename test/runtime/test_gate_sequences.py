"""No sequence of inputs yields an unsafe command: random ones, judged by a second, simpler account of the rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from runtime.gate_bench import MS, Bench, arm_contract, cartpole, joint_state

from wm_ros.runtime.gate import Outgoing

DEFECTS = ("none", "nan", "inf", "permuted", "stranger", "size", "stamp", "publishers")


class AnySequence(RuleBasedStateMachine):
    """Holds the robot's truth beside the gate, and checks everything that the gate sends against it."""

    @initialize(arm=st.booleans(), lockstep=st.booleans(), blend_s=st.sampled_from([0.0, 0.1, 1.0]))
    def begin(self, arm: bool, lockstep: bool, blend_s: float) -> None:
        self.contract = arm_contract() if arm else cartpole()
        self.lockstep = lockstep
        self.period = self.contract.control.period_ns
        self.bench = Bench(self.contract, lockstep, blend_s)
        self.armed = self.stopped = self.pressed = False
        self.publishers = 1
        self.fresh = dict.fromkeys([c.name for c in self.contract.observation], -(10**18))
        self.newest = dict.fromkeys(self.fresh, 0)
        self.set_back = False
        self.allowed_since: int | None = None
        self.checked = 0
        self.last: Outgoing | None = None
        self.last_at = 0
        self.passed_stamp = 0
        self.asked_again = False
        self.answered: set[int] = set()
        self.offered: list[float] = []
        self.age_ms = 0
        self.the_robot_works(2, 0.5)
        assert self.bench.gate.passed

    def allowed(self) -> bool:
        """Whether any command may pass now, by the design's list."""
        fresh = all(
            (self.lockstep or self.bench.now - self.fresh[c.name] <= 1e9 * c.max_age_s)
            and max(self.newest.values()) - self.newest[c.name] <= 1e9 * c.max_age_s
            for c in self.contract.observation
        )
        return self.armed and not self.stopped and self.publishers == 1 and fresh

    def check(self) -> None:
        """Everything sent since the last look."""
        low, high = ([getattr(j, side) for j in self.contract.action.joints] for side in ("low", "high"))
        rate = np.array([j.rate_limit or np.inf for j in self.contract.action.joints])
        for at, sent in zip(self.bench.sent_at[self.checked :], self.bench.sent[self.checked :], strict=True):
            assert np.isfinite(sent.values).all() and sent.values.shape == (self.contract.action_size,)
            assert (low <= sent.values).all() and (sent.values <= high).all()
            if self.lockstep:
                assert sent.stamp_ns not in self.answered or self.asked_again, "an observation was answered twice"
                self.answered.add(sent.stamp_ns)
            if not sent.reason:
                assert sent.stamp_ns >= self.passed_stamp, "stamps of commands ran backwards"
                self.passed_stamp = sent.stamp_ns
                assert self.allowed(), "a command passed that must not"
                age = min(self.newest.values()) - sent.stamp_ns + self.age_ms * MS * (not self.lockstep)
                assert age <= 1e9 * self.contract.safety.max_plan_age_s, "it was computed from an observation that is too old"
                assert self.offered and np.isfinite(self.offered).all()
                if self.last is not None:
                    assert (np.abs(sent.values - self.last.values) <= rate * 2e-9 * self.period + 1e-9).all()
            self.last, self.last_at = sent, at
        self.checked = len(self.bench.sent)
        self.asked_again = False

    @rule(periods=st.integers(1, 5), value=st.floats(-1, 1))
    def the_robot_works(self, periods: int, value: float) -> None:
        """What happens most of the time."""
        names = list(self.contract.action.names)
        if not self.armed:
            self.the_estop_speaks(False)
            self.somebody_arms()
        for _ in range(periods):
            self.time_passes(self.period // MS)
            self.sensors_speak(None, self.period // MS)
            self.send([value] * len(names), names, 0, 1)

    @rule(ms=st.integers(1, 150))
    def time_passes(self, ms: int) -> None:
        forbidden_before = not self.allowed()
        began = self.bench.now
        self.bench.wait(ms)
        self.check()
        if self.lockstep or self.last is None or self.last.reason:
            return
        assert self.bench.now - self.last_at <= 2 * self.period, "a command went on for more than two periods"
        if forbidden_before:
            assert self.bench.now - began < 2 * self.period, "a fault went on for two periods without hold"

    @rule(data=st.data(), step_ms=st.sampled_from([10, 10, 10, 20, 20, 0, 40, 500]))
    def sensors_speak(self, data: st.DataObject | None, step_ms: int) -> None:
        names = [c.name for c in self.contract.observation]
        channels = names if data is None else data.draw(st.sampled_from([names, names, names, names[:1]]))
        stamp = max([*self.newest.values(), self.bench.stamp]) + step_ms * MS
        self.asked_again = step_ms == 0
        for name in channels:
            if stamp > self.newest[name]:
                self.fresh[name] = self.bench.now
            self.newest[name] = stamp
        self.bench.observe(stamp=stamp, channels=tuple(channels))
        self.check()

    @rule(back_ms=st.integers(1, 2000))
    def a_sensor_speaks_of_the_past(self, back_ms: int) -> None:
        if self.lockstep or min(self.newest.values()) == 0:
            return  # lockstep takes it for a simulator that began anew, which has its own test
        channel = self.contract.observation[0]
        positions = {str(f.joint): 0.0 for f in channel.features}
        message = joint_state(max(self.newest[channel.name] - back_ms * MS, 0), **positions)
        assert self.bench.gate.sensor(channel.name, message, self.bench.now) is None
        self.set_back = True

    @rule(defect=st.sampled_from(DEFECTS), number=st.floats(-30, 30), offset_ms=st.sampled_from([-3000, -101, -60, -10, 20, 101, 5000]))
    def a_command_comes(self, defect: str, number: float, offset_ms: int) -> None:
        names = list(self.contract.action.names)
        values = [number] * len(names)
        if defect in ("nan", "inf"):
            values[-1] = float(defect)
        elif defect == "permuted":
            names.reverse()
        elif defect == "stranger":
            names[0] = "stranger"
        elif defect == "size":
            values.append(number)
        self.send(values, names, offset_ms if defect == "stamp" else 0, 2 if defect == "publishers" else 1)

    def send(self, values: list[float], names: list[str], offset_ms: int, publishers: int, age_ms: int = 0) -> None:
        self.publishers = publishers
        self.age_ms = age_ms
        self.offered = values if set(names) == set(self.contract.action.names) else []
        stamp = max(self.newest.values()) + offset_ms * MS
        self.bench.command(*values, names=names, stamp=stamp, publishers=publishers, age_ns=age_ms * MS)
        self.check()
        if not self.lockstep:
            self.offered = []

    @rule(
        value=st.floats(-30, 30),
        late_ms=st.sampled_from([0, 0, 10, 60, 90, 110, 200]),
        age_ms=st.sampled_from([0, 0, 0, 20, 50, 100, 101, 999]),
    )
    def a_proper_command_comes(self, value: float, late_ms: int, age_ms: int) -> None:
        names = list(self.contract.action.names)
        self.send([value] * len(names), names, -late_ms, 1, age_ms)

    @rule(pressed=st.booleans())
    def the_estop_speaks(self, pressed: bool) -> None:
        self.bench.estop(pressed)
        self.pressed = pressed
        if pressed:
            self.stopped, self.armed = True, False
        self.check()

    @rule()
    def somebody_arms(self) -> None:
        was_armed = self.armed
        refused = self.bench.gate.arm()
        assert bool(refused) == self.pressed
        if not refused and not was_armed:
            self.armed, self.stopped = True, False
            self.passed_stamp = 0
            if self.set_back and not self.lockstep:
                self.fresh = dict.fromkeys(self.fresh, -(10**18))  # at worst everything was forgotten
                self.set_back = False
                self.forgotten()

    def forgotten(self) -> None:
        """After a clock was set back the gate may begin anew, from the next samples on."""
        if self.bench.gate.observation_stamp_ns is None:
            self.newest = dict.fromkeys(self.newest, 0)
        else:
            self.fresh = dict.fromkeys(self.fresh, self.bench.now)

    @rule()
    def somebody_disarms(self) -> None:
        self.bench.disarm()
        self.armed = False
        self.check()
        assert self.last is None or self.last.reason or self.lockstep

    @rule(source=st.sampled_from(["mpc", "policy"]))
    def somebody_selects(self, source: str) -> None:
        self.bench.gate.select(source)  # type: ignore[arg-type]
        self.bench.gate.select("mpc")
        self.passed_stamp = 0 if source == "policy" else self.passed_stamp
        self.publishers = 1 if source == "policy" else self.publishers


AnySequence.TestCase.settings = settings(
    max_examples=300, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
test_no_sequence_yields_an_unsafe_command = pytest.mark.filterwarnings("ignore")(AnySequence.TestCase)
