"""Faults of a sensor, put into the simulated robot's samples on request."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

import numpy as np

from wm_ros.contract.assembler import stamp_ns
from wm_ros.sim.sensors import JointSample, header

Samples = dict[str, JointSample]
"""Channel name → sample."""

SENSOR_FAULTS = ("none", "dropout", "delay", "freeze", "stall", "nan", "missing_joint", "wrong_size", "permute", "backwards")
"""What `SensorFaults` can do:

dropout: messages are lost; delay: they come late; freeze: values stand still while stamps go on; stall: the last message is repeated,
stamp and all; nan: the first position is NaN; missing_joint: the first joint is not there; wrong_size: a velocity is missing;
permute: joints in another order (no fault of the sensor: nothing must happen); backwards: stamps ten seconds in the past.
"""
SILENT = ("dropout", "delay")
"""Faults that keep messages back, which a lockstep simulation would wait for."""

BACKWARDS_NS = 10_000_000_000
"""After so long stamps have caught up with those before the fault, and it ends by itself: not while somebody still looks."""


class SensorFaults:
    """Passes samples through, changed by one fault at a time."""

    def __init__(self, seed: np.random.SeedSequence) -> None:
        self._random = np.random.default_rng(seed)
        self._late: deque[Samples] = deque()
        self._last: Samples | None = None
        self._kind = "none"

    def apply(self, kind: str, samples: Samples, *, probability: float = 1.0, delay_s: float = 0.1) -> list[Samples]:
        """What comes out of the sensors at this tick, oldest first.

        Args:
            kind: one of `SENSOR_FAULTS`.
            samples: what the sensors measured.
            probability: of losing a message, for dropout.
            delay_s: how late messages come, for delay.
        """
        if kind != self._kind:
            self._kind = kind
            self._late.clear()
        if kind in ("freeze", "stall") and self._last is not None:
            frozen = self._last
            if kind == "stall":
                return [frozen]
            return [{name: replace(frozen[name], header=sample.header) for name, sample in samples.items()}]
        self._last = samples
        if kind == "dropout":
            return [] if self._random.random() < probability else [samples]
        if kind == "delay":
            return self._delay(samples, delay_s)
        return [{name: _damage(kind, sample) for name, sample in samples.items()}]

    def _delay(self, samples: Samples, delay_s: float) -> list[Samples]:
        self._late.append(samples)
        now = max(stamp_ns(s.header.stamp) for s in samples.values())
        out = []
        while self._late and now - max(stamp_ns(s.header.stamp) for s in self._late[0].values()) >= round(delay_s * 1e9):
            out.append(self._late.popleft())
        return out


def _damage(kind: str, sample: JointSample) -> JointSample:
    if kind == "nan":
        return replace(sample, position=[math.nan, *sample.position[1:]])
    if kind == "missing_joint":
        return replace(
            sample, name=sample.name[1:], position=sample.position[1:], velocity=sample.velocity[1:], effort=sample.effort[1:]
        )
    if kind == "wrong_size":
        return replace(sample, velocity=sample.velocity[1:])
    if kind == "permute":
        return replace(
            sample, name=sample.name[::-1], position=sample.position[::-1], velocity=sample.velocity[::-1], effort=sample.effort[::-1]
        )
    if kind == "backwards":
        return replace(sample, header=header(stamp_ns(sample.header.stamp) - BACKWARDS_NS, sample.header.frame_id))
    return sample
