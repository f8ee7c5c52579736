"""Stamps of a simulated robot: they never run backwards, and a reset leaves a gap that everybody sees."""

from __future__ import annotations

SECOND_NS = 1_000_000_000
GAP_NS = SECOND_NS
"""A reset moves time at least this far ahead."""


class Timeline:
    """The robot's clock, in ticks of one control period."""

    def __init__(self, period_ns: int, origin_ns: int, slot_ns: int | None = None) -> None:
        """Starts the clock.

        Args:
            period_ns: control period.
            origin_ns: the first stamp.
            slot_ns: if given, every reset starts at `origin_ns` plus a whole number of slots. A lockstep simulation that steps a few ticks
                more or less before it is paused then has the same stamps in its next episode all the same.
        """
        self._period_ns = period_ns
        self._origin_ns = origin_ns
        self._slot_ns = slot_ns
        self._started = False
        self.now_ns = origin_ns
        """Stamp of the present tick."""
        self.start_ns = origin_ns
        """Stamp of the first tick since the last reset."""

    def tick(self) -> None:
        """One control period passes."""
        self._started = True
        self.now_ns += self._period_ns

    def reset(self, wall_ns: int | None = None) -> None:
        """A new episode begins: time moves at least a second ahead, unless nothing was stamped yet.

        Args:
            wall_ns: if given, time moves on to this clock where that is further ahead.
        """
        if self._started:
            earliest = self.now_ns + GAP_NS
            if wall_ns is not None:
                earliest = max(earliest, wall_ns)
            grid = self._period_ns if self._slot_ns is None else self._slot_ns
            self.now_ns = self._origin_ns + -(-(earliest - self._origin_ns) // grid) * grid
        self._started = True
        self.start_ns = self.now_ns
