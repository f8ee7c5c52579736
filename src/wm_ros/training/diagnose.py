"""How well a model imagines recorded episodes: error, calibration, growth of the error, disagreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wm_ros.training.disagreement import Disagreement
from wm_ros.training.error_growth import Growth, fit_growth
from wm_ros.training.foresight import Foresight, ObservationForesight, PictureError
from wm_ros.training.open_loop import EpisodeColumns, Predictor, Windows, horizon_s, scale_of, windows

INTERVALS = (50, 90, 95)
"""Central intervals of the prediction, in percent."""
_AT_ONCE = 100
"""Starts that are imagined together, which bounds the memory."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found, over B starts within the episodes and H model steps from each."""

    horizon_s: list[float]
    """H times after the start."""
    columns: list[str]
    """O observation columns."""
    scale: list[float]
    """`[O]`, standard deviation of the recorded columns."""
    starts: int
    """B."""
    rmse: list[list[float]]
    """`[H][O]`, of the mean prediction, contract units."""
    normalized_rmse: list[float]
    """`[H]`, root mean square over columns of rmse / scale."""
    unchanged: list[float]
    """`[H]`, normalized error of the prediction that nothing changes: what a model must beat to be of use."""
    coverage: dict[str, list[list[float]]]
    """"50", "90", "95" → `[H][O]`, share of recorded values inside the predicted central interval of so many percent."""
    growth: Growth
    """Of the normalized error."""
    growth_of: dict[str, Growth]
    """Of each column's error."""
    by_group: dict[str, list[float]]
    """Group (bag) → its normalized error `[H]`, for those with an episode as long as the horizon."""
    disagreement: Disagreement | None
    """None for a model of one member."""
    pictures: dict[str, PictureError]
    """Camera → its pictures; empty for a model without any."""

    def as_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


def diagnose(
    model: Predictor | Foresight,
    groups: Sequence[tuple[str, list[EpisodeColumns]]],
    steps: int,
    period_s: float,
    names: tuple[str, ...],
    *,
    seed: int = 0,
    starts: int = 1000,
    particles: int = 20,
) -> Diagnosis | None:
    """Rolls the model out under recorded actions and compares.

    Args:
        model: what imagines; every member of an ensemble carries its own particles.
        groups: name (such as the bag) and episodes of each.
        steps: model steps to look ahead (H).
        period_s: control period.
        names: of the columns of the episodes' observations.
        seed: of the particles.
        starts: about how many in all, spread evenly over the episodes that are long enough.
        particles: of each member and start.

    Returns:
        None where no episode is long enough.
    """
    if steps < 1 or starts < 1 or particles < 1:
        raise ValueError(f"steps {steps}, starts {starts} and particles {particles} must be at least 1")
    ahead = model if isinstance(model, Foresight) else ObservationForesight(model)
    episodes = [episode for _, of in groups for episode in of]
    fitting = sum(len(action) >= ahead.context + steps * ahead.stride for _, action in episodes)
    each, first, given = max(1, starts // max(1, fitting)), 0, []
    for name, of in groups:
        cut = windows(of, steps, ahead.stride, each, ahead.context, first)
        first += len(of)
        if cut is not None:
            given.append((name, cut))
    if not given:
        return None
    scale = scale_of(episodes).astype(np.float64)
    every = _joined([w for _, w in given])
    generator = torch.Generator().manual_seed(seed)
    squared: list[NDArray[np.float64]] = []
    inside: dict[int, list[NDArray[np.bool_]]] = {percent: [] for percent in INTERVALS}
    for first in range(0, len(every.start), _AT_ONCE):
        part = _slice(every, slice(first, first + _AT_ONCE))
        imagined = ahead.imagine(part, particles, generator)
        squared.append((imagined.mean(axis=1, dtype=np.float64) - part.truth) ** 2)
        for percent in INTERVALS:
            tail = (1.0 - percent / 100.0) / 2.0
            low, high = np.quantile(imagined, [tail, 1.0 - tail], axis=1)
            inside[percent].append((part.truth >= low) & (part.truth <= high))
    errors = np.concatenate(squared, axis=1)  # [H, B, O]
    rmse = np.sqrt(errors.mean(axis=1))
    normalized = _normalized(errors, scale)
    still = (every.truth.astype(np.float64) - every.start) ** 2
    ends = np.cumsum([len(w.start) for _, w in given])
    return Diagnosis(
        horizon_s=horizon_s(steps, ahead.stride, period_s),
        columns=list(names),
        scale=scale.tolist(),
        starts=len(every.start),
        rmse=rmse.tolist(),
        normalized_rmse=normalized.tolist(),
        unchanged=_normalized(still, scale).tolist(),
        coverage={str(p): np.concatenate(inside[p], axis=1).mean(axis=1).tolist() for p in INTERVALS},
        growth=fit_growth(normalized),
        growth_of={name: fit_growth(rmse[:, i]) for i, name in enumerate(names)},
        by_group={
            name: _normalized(part, scale).tolist() for (name, _), part in zip(given, np.split(errors, ends[:-1], axis=1), strict=True)
        },
        disagreement=ahead.disagreement(every, names, scale),
        pictures=ahead.pictures(every, generator),
    )


def _normalized(squared: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[H]` of squared errors `[H, B, O]`."""
    return np.asarray(np.sqrt((squared.mean(axis=1) / scale**2).mean(axis=1)))


def _joined(parts: list[Windows]) -> Windows:
    return Windows(
        np.concatenate([p.start for p in parts]),
        np.concatenate([p.actions for p in parts], axis=1),
        np.concatenate([p.truth for p in parts], axis=1),
        np.concatenate([p.place for p in parts]),
    )


def _slice(whole: Windows, rows: slice) -> Windows:
    return Windows(whole.start[rows], whole.actions[:, rows], whole.truth[:, rows], whole.place[rows])
