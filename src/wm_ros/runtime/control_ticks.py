"""Which observations the controller acts on: the first one at or after each tick of the control period."""

from __future__ import annotations

from dataclasses import dataclass

from wm_ros.contract.assembler import Observation


@dataclass(frozen=True)
class Tick:
    """One observation to act on."""

    observation: Observation
    arrived_ns: int
    """Steady time at which the observation was complete."""
    resets: int
    """Gaps in time so far; a higher number than before starts the carry and the noise anew."""
    skipped: int
    """Ticks since the last one that had no observation."""


class ControlTicks:
    """Counts ticks by observation stamps, so that they are the robot's and not this process's.

    Args:
        period_ns: of control.
        max_gap_ns: a longer gap between stamps starts a new count, and a new episode for the controller.
        every: every new stamp is a tick (lockstep, where the simulator waits for each answer).
    """

    def __init__(self, period_ns: int, max_gap_ns: int, every: bool = False) -> None:
        self._period_ns = period_ns
        self._max_gap_ns = max_gap_ns
        self._every = every
        self._last_ns: int | None = None
        self._due_ns = 0
        self._interval_ns = period_ns
        self.resets = 0

    def offer(self, observation: Observation, arrived_ns: int) -> Tick | None:
        """A tick, or None where this observation is between two ticks or no newer than the last."""
        stamp = observation.stamp_ns
        last = self._last_ns
        if last is not None and stamp == last:
            return None
        self._last_ns = stamp
        if last is None or stamp < last or stamp - last > self._max_gap_ns:
            # The first episode's number is 0: being the first is no reset.
            self.resets += last is not None
            self._due_ns = stamp + self._period_ns
            return Tick(observation, arrived_ns, self.resets, 0)
        self._interval_ns = min(stamp - last, self._period_ns)
        # Half a sensor period of tolerance, as in bags: a sensor at the control rate, a little early by its jitter, is no lost tick.
        if not self._every and stamp < self._due_ns - self._interval_ns // 2:
            return None
        skipped = max(0, round((stamp - self._due_ns) / self._period_ns))
        self._due_ns += (skipped + 1) * self._period_ns
        if self._every:
            self._due_ns = stamp + self._period_ns
        return Tick(observation, arrived_ns, self.resets, skipped)
