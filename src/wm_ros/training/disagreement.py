"""Where in state space the members of an ensemble disagree, and whether it errs there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from wm_ros.training.open_loop import Predictor, Windows

BINS = 16
_TOP = 0.1
"""Share of the states that count as those of most disagreement."""


@dataclass(frozen=True)
class Map:
    """Mean disagreement over a plane of the state space."""

    axes: tuple[str, str]
    """What the plane is spanned by."""
    edges: tuple[list[float], list[float]]
    """`[BINS + 1]` each."""
    mean: list[list[float | None]]
    """`[BINS][BINS]`, first axis first; None where no state was."""
    count: list[list[int]]


@dataclass(frozen=True)
class Disagreement:
    """One-step predictions of the members, from recorded states and actions; deviations beside those of the recorded columns."""

    median: float
    """Of the disagreement: root mean square over columns of the standard deviation over members."""
    columns: dict[str, float]
    """Root mean square over states, column by column."""
    knows_its_error: float
    """Spearman's rank correlation of disagreement and true one-step error: 1 if the ensemble knows where it errs, 0 if it does not."""
    most: dict[str, tuple[float, float]]
    """Column → its median in the tenth of the states with most disagreement, and in all; contract units."""
    principal: Map
    """Over the two principal components of the normalized observations."""
    principal_share: tuple[float, float]
    """Of the observations' variance."""
    principal_axes: list[dict[str, float]]
    """Two: column → its share in the component, in deviations."""
    plain: Map
    """Over the two columns with most disagreement."""


def disagreement(model: Predictor, given: Windows, names: tuple[str, ...], scale: NDArray[np.floating]) -> Disagreement:
    """Asks every member for the step after each window's start.

    Args:
        model: an ensemble of at least two members.
        given: recorded states, what was done, and what came.
        names: observation columns.
        scale: standard deviations `[O]` of the recorded columns.
    """
    start, actions = torch.from_numpy(given.start), torch.from_numpy(given.actions[0])
    with torch.no_grad():
        each = model.predict(start.expand(model.members, -1, -1), actions.expand(model.members, -1, -1, -1), None).numpy()
    apart = each.std(axis=0) / scale  # [B, O]
    level = np.sqrt((apart**2).mean(axis=1))
    error = np.sqrt((((each.mean(axis=0) - given.truth[0]) / scale) ** 2).mean(axis=1))
    top = level >= np.quantile(level, 1.0 - _TOP)
    centred = (given.start - given.start.mean(axis=0)) / np.maximum(given.start.std(axis=0), 1e-9)
    _, singular, directions = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    share = singular**2 / max(float((singular**2).sum()), 1e-30)
    directions = directions[:2] if len(directions) > 1 else np.vstack([directions, np.zeros_like(directions)])
    by_column = np.sqrt((apart**2).mean(axis=0))
    first, second = (np.argsort(-by_column, kind="stable").tolist() * 2)[:2]
    return Disagreement(
        median=float(np.median(level)),
        columns={name: float(value) for name, value in zip(names, by_column, strict=True)},
        knows_its_error=_rank_correlation(level, error),
        most={
            name: (float(np.median(given.start[top, i])), float(np.median(given.start[:, i]))) for i, name in enumerate(names)
        },
        principal=_map(centred @ directions.T, level, ("principal component 1", "principal component 2")),
        principal_share=(float(share[0]), float(share[1]) if len(share) > 1 else 0.0),
        principal_axes=[{name: float(v) for name, v in zip(names, direction, strict=True)} for direction in directions],
        plain=_map(given.start[:, [first, second]], level, (names[first], names[second])),
    )


def _map(points: NDArray[np.floating], level: NDArray[np.floating], axes: tuple[str, str]) -> Map:
    x, y = points[:, 0].astype(np.float64), points[:, 1].astype(np.float64)
    edges = [np.linspace(v.min(), max(float(v.max()), float(v.min()) + 1e-9), BINS + 1) for v in (x, y)]
    count, *_ = np.histogram2d(x, y, bins=edges)
    total, *_ = np.histogram2d(x, y, bins=edges, weights=level)
    mean = [[float(t / c) if c else None for t, c in zip(*row, strict=True)] for row in zip(total, count, strict=True)]
    return Map(axes, (edges[0].tolist(), edges[1].tolist()), mean, count.astype(int).tolist())


def _rank_correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    ranks = [np.argsort(np.argsort(v, kind="stable")).astype(np.float64) for v in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
