"""Percentiles against numpy's, counts exact, memory bounded."""

from __future__ import annotations

import numpy as np
import pytest

from wm_ros.runtime.statistics import Durations, Periods, Summary


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_agree_with_numpy_to_one_percent(seed: int) -> None:
    samples_ms = np.random.default_rng(seed).lognormal(1.0, 1.5, 10_000)
    durations = Durations()
    for ms in samples_ms:
        durations.add_ns(round(ms * 1e6))
    summary = durations.summary()
    assert summary.count == 10_000 and summary.max_ms == pytest.approx(samples_ms.max(), rel=1e-6)
    for got, percent in ((summary.p50_ms, 50), (summary.p99_ms, 99)):
        exact = np.percentile(samples_ms, percent, method="inverted_cdf")
        assert exact <= got * (1 + 1e-9) and got <= exact * 1.0101


def test_one_sample_is_its_own_percentile_and_none_is_zero() -> None:
    durations = Durations()
    assert durations.summary() == Summary(0, 0.0, 0.0, 0.0)
    durations.add_ns(5_000_000)
    assert durations.summary() == Summary(1, 5.0, 5.0, 5.0)


@pytest.mark.parametrize("duration_ns", [-5, 0, 1, 10**18])
def test_extremes_are_counted(duration_ns: int) -> None:
    durations = Durations()
    durations.add_ns(duration_ns)
    summary = durations.summary()
    assert summary.count == 1 and summary.max_ms == pytest.approx(max(duration_ns, 0) * 1e-6)
    assert 0 <= summary.p99_ms <= summary.max_ms


def test_rate_and_jitter_of_periods() -> None:
    periods = Periods(20_000_000)
    assert periods.rate_hz(0) == 0.0
    for at_ms in (0, 20, 42, 60, 80):
        periods.event(at_ms * 1_000_000)
    assert periods.rate_hz(100_000_000) == pytest.approx(50.0)
    assert periods.jitter.summary().max_ms == pytest.approx(2.0)
    periods.pause()
    periods.event(10**12)
    assert periods.jitter.summary().max_ms == pytest.approx(2.0)
