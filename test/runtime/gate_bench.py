"""A gate with hands on its inputs and a steady clock that the test turns."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from wm_ros.contract import schema
from wm_ros.contract.schema import Contract
from wm_ros.runtime.gate import Gate, Outgoing, Proposal, Source

MS = 1_000_000


def cartpole() -> Contract:
    return schema.load("cartpole_swingup")


def arm_contract(hold: Any = "last_position", rate_limit: float | None = 2.0) -> Contract:
    """Two joints under position control at 100 Hz, seen through two channels."""
    data = json.loads(cartpole().canonical_json())
    data |= {"name": "arm_reach", "robot": "arm", "control": {"rate_hz": 100}, "simulator": None}
    kind = "sensor_msgs/msg/JointState"
    elbow, wrist = ({"field": "position", "units": "rad", "joint": joint} for joint in ("elbow", "wrist"))
    data["observation"] = [
        {"name": "near", "topic": "near", "type": kind, "max_age_s": 0.05, "features": [elbow]},
        {"name": "far", "topic": "far", "type": kind, "max_age_s": 0.1, "features": [wrist]},
    ]
    joint = {"low": -1.0, "high": 1.0, "units": "rad", "rate_limit": rate_limit}
    data["action"] |= {"interface": "position", "joints": [{**joint, "name": "wrist"}, {**joint, "name": "elbow", "low": -0.5}]}
    data["safety"] |= {"hold": hold, "max_observation_age_s": 0.1, "max_plan_age_s": 0.1}
    return schema.parse(data, "test")


def joint_state(stamp_ns: int, **positions: float) -> Any:
    """Anything with the fields of a JointState."""
    header = SimpleNamespace(stamp=SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id="")
    zeros = [0.0] * len(positions)
    return SimpleNamespace(header=header, name=list(positions), position=list(positions.values()), velocity=zeros, effort=zeros)


class Bench:
    """Turns the clock, feeds the gate, keeps what it sends."""

    def __init__(self, contract: Contract, lockstep: bool = False, blend_s: float = 0.0) -> None:
        self.contract = contract
        self.gate = Gate(contract, lockstep, lockstep_timeout_s=5.0, blend_s=blend_s)
        self.now = 10**12
        self.stamp = 10**9
        self.positions = {str(f.joint): 0.0 for c in contract.observation for f in c.features}
        self.sent: list[Outgoing] = []
        self.sent_at: list[int] = []

    def _keep(self, outgoing: Outgoing | None) -> Outgoing | None:
        if outgoing is not None:
            self.sent.append(outgoing)
            self.sent_at.append(self.now)
        return outgoing

    def wait(self, ms: float, watchdog: bool = True) -> None:
        """Lets time pass; the watchdog looks every fifth of a period."""
        end = self.now + int(ms * MS)
        step = self.contract.control.period_ns // 5
        while self.now < end:
            self.now = min(self.now + step, end)
            if watchdog:
                self._keep(self.gate.tick(self.now))

    def observe(self, stamp: int | None = None, channels: tuple[str, ...] | None = None, **positions: float) -> Outgoing | None:
        """One message on each channel; by default one control period newer than the last."""
        self.positions |= positions
        self.stamp = self.stamp + self.contract.control.period_ns if stamp is None else stamp
        answer = None
        for channel in self.contract.observation:
            if channels is None or channel.name in channels:
                named = {str(f.joint): self.positions[str(f.joint)] for f in channel.features}
                answer = self._keep(self.gate.sensor(channel.name, joint_state(self.stamp, **named), self.now)) or answer
        return answer

    def command(
        self, *values: float, stamp: int | None = None, source: Source = "mpc", publishers: int = 1, **changes: Any
    ) -> Outgoing | None:
        """By default a good one, computed from the newest observation."""
        stamp_ns = self.stamp if stamp is None else stamp
        fields = {"names": self.contract.action.names, "values": values, "stamp_ns": stamp_ns, "controller": "c", **changes}
        return self._keep(self.gate.command(source, Proposal(**fields), self.now, publishers))

    def estop(self, pressed: bool) -> Outgoing | None:
        return self._keep(self.gate.estop(pressed, self.now))

    def disarm(self) -> Outgoing | None:
        return self._keep(self.gate.disarm(self.now))

    def run(self, periods: int, *values: float, source: Source = "mpc") -> None:
        """The robot at work: an observation and a command each control period."""
        for _ in range(periods):
            self.wait(self.contract.control.period_s * 1e3)
            self.observe()
            self.command(*values, source=source)

    @property
    def last(self) -> Outgoing:
        return self.sent[-1]


def working(contract: Contract | None = None, lockstep: bool = False, blend_s: float = 0.0) -> Bench:
    """An armed gate that has just passed a command on."""
    bench = Bench(contract or cartpole(), lockstep, blend_s)
    assert bench.gate.arm() == ""
    bench.run(3, *[0.1] * bench.contract.action_size)
    assert bench.last.reason == ""
    return bench
