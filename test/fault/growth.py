"""Whether processes grow and clocks drift, from what was sampled while a soak ran."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import psutil

SETTLED = 1 / 3
"""Share of a process's life that does not count: libraries load, caches fill."""
LEAK_MB = 8.0
"""Growth over the counted time that is called a leak. A kilobyte lost per tick at 50 Hz is 20 MB in the counted part of ten minutes."""
SHORTEST_S = 120.0
"""A process that lived shorter is not judged."""


@dataclass(frozen=True)
class Growth:
    """Of one process's private memory, in the part of its life that counts."""

    node: str
    minutes: float
    mb: float
    """At the end."""
    grown_mb: float
    """Along the straight line."""

    @property
    def mb_per_hour(self) -> float:
        return 60.0 * self.grown_mb / self.minutes

    @property
    def leaks(self) -> bool:
        return self.grown_mb > LEAK_MB


def growth(node: str, seconds: Sequence[float], mb: Sequence[float]) -> Growth | None:
    """Of one life of a node's process; None where it was too short to judge."""
    t, m = np.asarray(seconds), np.asarray(mb)
    if len(t) < 8 or t[-1] - t[0] < SHORTEST_S:
        return None
    counted = t >= t[0] + SETTLED * (t[-1] - t[0])
    t, m = t[counted], m[counted]
    return Growth(node, float(t[-1] - t[0]) / 60.0, float(m[-1]), float(np.polyfit(t, m, 1)[0] * (t[-1] - t[0])))


class MemoryWatch:
    """Samples the private memory of processes that come and go.

    Args:
        processes: gives node → process id, at any time.
        every_s: between two samples.
    """

    def __init__(self, processes: Callable[[], Mapping[str, int]], every_s: float = 1.0) -> None:
        self._processes = processes
        self._lives: dict[tuple[str, int], tuple[list[float], list[float]]] = {}
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._stopping.wait(self._every_s):
            for node, pid in self._processes().items():
                try:
                    memory = psutil.Process(pid).memory_info()
                except psutil.NoSuchProcess:
                    continue
                if not memory.rss:
                    continue  # dead, and not collected yet
                seconds, mb = self._lives.setdefault((node, pid), ([], []))
                seconds.append(time.monotonic())
                mb.append((memory.rss - memory.shared) / 2**20)

    def close(self) -> list[Growth]:
        """The longest life of each node that lived long enough."""
        self._stopping.set()
        self._thread.join()
        longest: dict[str, Growth] = {}
        for (node, _), life in self._lives.items():
            found = growth(node, *life)
            if found is not None and (node not in longest or found.minutes > longest[node].minutes):
                longest[node] = found
        return [longest[node] for node in sorted(longest)]


def drift_ms(lateness: Sequence[tuple[float, float]]) -> float:
    """How far stamps have moved against the steady clock, from the first to the last quarter of a run.

    Args:
        lateness: (when something came, how much later than its stamp), in seconds. Only the earliest of each quarter counts: what is late
            on a busy machine, or bears an old stamp on purpose, says nothing about the clock.
    """
    points = np.asarray(lateness)
    quarter = len(points) // 4
    return 1e3 * float(points[-quarter:, 1].min() - points[:quarter, 1].min())
