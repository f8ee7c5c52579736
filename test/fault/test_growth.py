"""A long soak's straight lines: they see a leak and a drifting clock, and nothing where there is none."""

from __future__ import annotations

import numpy as np
from fault.growth import LEAK_MB, drift_ms, growth

SECONDS = list(np.arange(0.0, 600.0))


def test_a_process_that_loads_its_libraries_and_then_stands_still_does_not_leak() -> None:
    noise = np.random.default_rng(0).normal(0.0, 0.5, len(SECONDS))
    found = growth("mpc", SECONDS, [min(200.0, 20.0 * s) + n for s, n in zip(SECONDS, noise, strict=True)])
    assert found is not None and not found.leaks and abs(found.grown_mb) < 0.5 and 6.5 < found.minutes < 6.8


def test_a_kilobyte_lost_in_every_tick_is_a_leak() -> None:
    found = growth("mpc", SECONDS, [100.0 + 50 * s / 1024 for s in SECONDS])
    assert found is not None and found.leaks and found.grown_mb > 2 * LEAK_MB
    assert abs(found.mb_per_hour - 3600 * 50 / 1024) < 1e-6


def test_a_short_life_is_not_judged() -> None:
    assert growth("mpc", SECONDS[:100], SECONDS[:100]) is None


def test_a_clock_that_drifts_is_seen_through_lateness_and_one_that_does_not_is_left_alone() -> None:
    late = np.random.default_rng(1).exponential(0.01, 120)
    late[30] = 1.0  # an old stamp
    moments = 5.0 * np.arange(120)
    assert abs(drift_ms([(t, 0.001 + x) for t, x in zip(moments, late, strict=True)])) < 2.0
    drifting = drift_ms([(t, 0.001 + x + 1e-4 * t) for t, x in zip(moments, late, strict=True)])
    assert 30.0 < drifting < 60.0
