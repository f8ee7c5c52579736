"""Deadlines on the steady clock, without drift."""

from __future__ import annotations

SLIP_NS = 250_000_000
"""Further behind than this the pacer gives the lost time up: a laptop that slept must not replay its night."""


class Pacer:
    """Gives the deadline of every frame from one origin, so that no error adds up."""

    def __init__(self, frame_s: float) -> None:
        self._frame_s = frame_s
        self._factor = 1.0
        self._origin_ns = 0
        self._frame = 0
        self.overruns = 0
        """Frames that began more than one frame after their deadline."""
        self.slips = 0
        """How often time was given up."""

    @property
    def frame_ns(self) -> float:
        """Steady time of one frame at the present real-time factor."""
        return self._frame_s * 1e9 / self._factor

    def start(self, now_ns: int, factor: float) -> None:
        """The next frame is due now.

        Args:
            now_ns: steady clock.
            factor: simulated seconds per steady second.
        """
        self._origin_ns, self._frame, self._factor = now_ns, 0, factor

    def set_factor(self, factor: float) -> None:
        """Changes the real-time factor from the next frame on."""
        if factor != self._factor:
            self.start(self.deadline_ns, factor)

    @property
    def deadline_ns(self) -> int:
        """When the next frame is due, on the steady clock."""
        return self._origin_ns + round(self._frame * self.frame_ns)

    def begin(self, now_ns: int) -> None:
        """A frame begins: counts its lateness and moves the deadline on."""
        late = now_ns - self.deadline_ns
        if late > self.frame_ns:
            self.overruns += 1
        if late > max(SLIP_NS, 2 * self.frame_ns):
            self.slips += 1
            self.start(now_ns, self._factor)
        self._frame += 1
