"""How samples of any rate are brought onto the ticks of the control loop."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Policy = Literal["hold", "nearest", "linear"]


def choose(
    policy: Literal["hold", "nearest"], stamp: NDArray[np.int64], tick: NDArray[np.int64], max_age_ns: int, tolerance_ns: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which sample counts at each tick; see `sample` for the arguments.

    Returns:
        chosen [K] and valid [K]; what is chosen means nothing where it is not valid.
    """
    if not len(stamp):
        return np.zeros(len(tick), np.int64), np.zeros(len(tick), np.bool_)
    if policy == "hold":
        before = np.searchsorted(stamp, tick + tolerance_ns, side="right") - 1
        chosen = before.clip(0)
        return chosen, (before >= 0) & (tick - stamp[chosen] <= max_age_ns)
    before, after = _around(stamp, tick)
    left = before.clip(0)
    chosen = np.where((before < 0) | (np.abs(stamp[after] - tick) < tick - stamp[left]), after, left)
    return chosen, np.abs(stamp[chosen] - tick) <= max_age_ns


def sample(
    policy: Policy,
    stamp: NDArray[np.int64],
    raw: NDArray[np.float64],
    tick: NDArray[np.int64],
    max_age_ns: int,
    tolerance_ns: int,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values at the ticks.

    `hold`: the newest sample at or before the tick, as a live node has it. `nearest`: the closest one on either side. `linear`: between
    the samples on both sides.

    Args:
        policy: see above.
        stamp: [N] ns, not falling.
        raw: [N, F].
        tick: [K] ns.
        max_age_ns: a tick farther than this from the samples it would use is not valid.
        tolerance_ns: a sample up to this much after the tick still counts as at the tick, so that jitter of a stamp does not cost a
            whole period.

    Returns:
        values [K, F] and valid [K]; values are zero where they are not valid.
    """
    values = np.zeros((len(tick), raw.shape[1]))
    if policy != "linear" or not len(stamp):
        chosen, valid = choose("hold" if policy == "linear" else policy, stamp, tick, max_age_ns, tolerance_ns)
        values[valid] = raw[chosen[valid]]
        return values, valid
    before, after = _around(stamp, tick)
    left = before.clip(0)
    exact = (before >= 0) & (stamp[left] == tick)
    between = (before >= 0) & (after > before) & (tick - stamp[left] <= max_age_ns) & (stamp[after] - tick <= max_age_ns)
    span = np.where(between, stamp[after] - stamp[left], 1)
    weight = ((tick - stamp[left]) / span)[:, None]
    values = raw[left] + weight * (raw[after] - raw[left])
    values[exact] = raw[left[exact]]
    valid = exact | between
    values[~valid] = 0.0
    return values, valid


def _around(stamp: NDArray[np.int64], tick: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The samples before (or at) and after each tick: [K] each; -1 for none before. Of equal stamps the last counts, as it does live."""
    before = np.searchsorted(stamp, tick, side="right") - 1
    after = np.minimum(before + 1, len(stamp) - 1)
    return before, np.searchsorted(stamp, stamp[after], side="right") - 1
