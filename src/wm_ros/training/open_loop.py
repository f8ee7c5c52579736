"""Open-loop prediction error and calibration against the horizon: the first thing to ask of a dynamics model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wm_ros.models.dynamics import ObservationDynamics

_PARTICLES = 20
_STARTS = 50


@dataclass(frozen=True)
class OpenLoop:
    """Errors of imagined against recorded observations, over many starts within episodes."""

    horizon_s: list[float]
    """H times after the start."""
    columns: list[str]
    """O observation columns."""
    rmse: list[list[float]]
    """`[H][O]`, of the mean prediction, contract units."""
    normalized_rmse: list[float]
    """`[H]`, root mean square over columns of rmse beside the column's standard deviation in the episodes."""
    coverage_90: list[float]
    """`[H]`, share of recorded values inside the central 90 % of the particles; 0.9 is calibrated."""

    def as_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


def open_loop(
    model: ObservationDynamics,
    episodes: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
    steps: int,
    period_s: float,
    names: tuple[str, ...],
    seed: int,
) -> OpenLoop | None:
    """Rolls the model out under recorded actions from many starts and compares.

    Args:
        model: the ensemble; every member carries its own particles (TSinf).
        episodes: `observation [T+1, O]` and `action [T, A]` each; best ones that the model has not seen.
        steps: model steps to look ahead (H).
        period_s: control period.
        names: observation columns.
        seed: of the particles.

    Returns:
        None where no episode is as long as the horizon.
    """
    stride = model.stride
    starts, futures, actions = [], [], []
    for observation, action in episodes:
        last = len(action) - steps * stride
        if last < 0:
            continue
        for start in np.unique(np.linspace(0, last, _STARTS).astype(int)):
            starts.append(observation[start])
            futures.append(observation[start + stride : start + steps * stride + 1 : stride])
            actions.append(action[start : start + steps * stride].reshape(steps, stride, -1))
    if not starts:
        return None
    truth = np.stack(futures, axis=1)  # [H, B, O]
    given = torch.from_numpy(np.stack(actions, axis=1))  # [H, B, stride, A]
    rows = len(starts)
    generator = torch.Generator().manual_seed(seed)
    state = torch.from_numpy(np.stack(starts)).expand(model.members, _PARTICLES, rows, -1).reshape(model.members, _PARTICLES * rows, -1)
    imagined = []
    with torch.no_grad():
        for h in range(steps):
            held = given[h].expand(model.members, _PARTICLES, rows, stride, -1).reshape(model.members, _PARTICLES * rows, stride, -1)
            noise = torch.randn(state.shape, generator=generator)
            state = model.predict(state, held, noise)
            imagined.append(state.reshape(model.members * _PARTICLES, rows, -1).numpy())
    particles = np.stack(imagined)  # [H, M P, B, O]
    rmse = np.sqrt(((particles.mean(axis=1) - truth) ** 2).mean(axis=1))  # [H, O]
    scale = np.maximum(np.concatenate([o for o, _ in episodes]).std(axis=0), 1e-6)
    low, high = np.quantile(particles, [0.05, 0.95], axis=1)
    inside = ((truth >= low) & (truth <= high)).mean(axis=(1, 2))
    return OpenLoop(
        horizon_s=[round((h + 1) * stride * period_s, 9) for h in range(steps)],
        columns=list(names),
        rmse=rmse.astype(float).tolist(),
        normalized_rmse=np.sqrt(((rmse / scale) ** 2).mean(axis=1)).astype(float).tolist(),
        coverage_90=inside.astype(float).tolist(),
    )
