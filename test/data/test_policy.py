"""Each alignment policy against its definition, written as a loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_ros.data.policy import sample

STAMPS = st.lists(st.integers(0, 60), min_size=0, max_size=12).map(sorted)
TICKS = st.lists(st.integers(-10, 80), min_size=1, max_size=12)


def naive(policy: str, stamps: list[int], values: list[float], tick: int, max_age: int, tolerance: int) -> float | None:
    """The value at one tick, or None."""
    newest = {s: v for s, v in zip(stamps, values, strict=True)}  # of equal stamps the last one
    if policy == "hold":
        known = [s for s in newest if s <= tick + tolerance]
        return newest[max(known)] if known and tick - max(known) <= max_age else None
    if policy == "nearest":
        # Of two that are equally near, the older one: it is known at the tick.
        near = min(newest, key=lambda s: (abs(s - tick), s), default=None)
        return newest[near] if near is not None and abs(near - tick) <= max_age else None
    if tick in newest:
        return newest[tick]
    before, after = [s for s in newest if s < tick], [s for s in newest if s > tick]
    if not before or not after:
        return None
    a, b = max(before), min(after)
    if tick - a > max_age or b - tick > max_age:
        return None
    return newest[a] + (tick - a) / (b - a) * (newest[b] - newest[a])


@pytest.mark.parametrize("policy", ["hold", "nearest", "linear"])
@settings(deadline=None, max_examples=300)
@given(stamps=STAMPS, ticks=TICKS, max_age=st.integers(1, 30), tolerance=st.integers(0, 3), seed=st.integers(0, 1000))
def test_the_policy_does_what_it_says(policy: str, stamps: list[int], ticks: list[int], max_age: int, tolerance: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=len(stamps))
    got, valid = sample(
        policy, np.array(stamps, np.int64), values[:, None], np.array(ticks, np.int64), max_age, tolerance  # type: ignore[arg-type]
    )
    for i, tick in enumerate(ticks):
        expected = naive(policy, stamps, values.tolist(), tick, max_age, tolerance)
        assert bool(valid[i]) == (expected is not None)
        assert got[i, 0] == (pytest.approx(expected, rel=1e-12, abs=1e-12) if expected is not None else 0.0)
