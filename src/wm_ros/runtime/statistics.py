"""Latencies and periods of a control loop, in bounded memory and with exact counts."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np

_LOWEST_MS = 1e-3
_BUCKETS_PER_E = 100  # neighbouring buckets differ by 1 %, which is also the error of a percentile
_BUCKETS = math.ceil(math.log(1e6 / _LOWEST_MS) * _BUCKETS_PER_E) + 1  # 1 us to 1000 s


@dataclass(frozen=True)
class Summary:
    """Of all samples since the start; zeros where there are none."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Durations:
    """Distribution of durations: percentiles to 1 %, count and maximum exact, 17 kB however long it runs. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self._counts = np.zeros(_BUCKETS, np.int64)
            self._count = 0
            self._max_ms = 0.0

    def add_ns(self, duration_ns: int) -> None:
        """Takes in one duration; a negative one counts as zero."""
        ms = max(duration_ns, 0) * 1e-6
        bucket = min(math.ceil(math.log(ms / _LOWEST_MS) * _BUCKETS_PER_E), _BUCKETS - 1) if ms > _LOWEST_MS else 0
        with self._lock:
            self._counts[bucket] += 1
            self._count += 1
            self._max_ms = max(self._max_ms, ms)

    def summary(self) -> Summary:
        with self._lock:
            counts, count, max_ms = self._counts.copy(), self._count, self._max_ms
        if not count:
            return Summary(0, 0.0, 0.0, 0.0)
        below = np.cumsum(counts)

        def percentile(fraction: float) -> float:
            bucket = int(np.searchsorted(below, math.ceil(fraction * count)))
            return min(_LOWEST_MS * math.exp(bucket / _BUCKETS_PER_E), max_ms)

        return Summary(count, percentile(0.5), percentile(0.99), max_ms)


class Periods:
    """How regular events are: the rate since the last look, and the distribution of |interval - period|. Threads may share it."""

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self._last_ns: int | None = None
        self._seen = 0
        self._looked_ns: int | None = None
        self._lock = threading.Lock()
        self.jitter = Durations()

    def event(self, now_ns: int) -> None:
        """Something that should come once per period has come, at this steady time."""
        with self._lock:
            last, self._last_ns = self._last_ns, now_ns
            self._seen += 1
        if last is not None:
            self.jitter.add_ns(abs(now_ns - last - self._period_ns))

    def pause(self) -> None:
        """The interval up to the next event says nothing, for instance between two episodes."""
        with self._lock:
            self._last_ns = None

    def rate_hz(self, now_ns: int) -> float:
        """Events per second since the last call."""
        with self._lock:
            seen, self._seen = self._seen, 0
            since, self._looked_ns = self._looked_ns, now_ns
        return 0.0 if since is None or now_ns <= since else seen / ((now_ns - since) * 1e-9)
