"""How much an ensemble disagrees about what was recorded: the level beside which a robot judges its plans."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wm_ros.models.dynamics import ObservationDynamics
from wm_ros.training.open_loop import EpisodeColumns, Windows, windows

QUANTILE = 0.99
PER_EPISODE = 50
"""Starts in each episode."""


def disagreements(model: ObservationDynamics, given: Windows) -> NDArray[np.float64]:
    """For each of B recorded stretches, what `runtime.disagreement` computes for a plan: members roll out the recorded actions `[B]`.

    The members' means, as the shipped planner propagates them by default.
    """
    state = torch.from_numpy(given.start).expand(model.members, *given.start.shape)
    scale = model.observation_std
    squares = []
    with torch.no_grad():
        for actions in torch.from_numpy(given.actions):
            state = model.predict(state, actions.expand(model.members, *actions.shape), None)
            if model.propagation == "mean":
                state = state.mean(dim=0, keepdim=True).expand_as(state)
            squares.append(((state.std(dim=0, correction=0) / scale) ** 2).mean(dim=1))
    return torch.stack(squares).mean(dim=0).sqrt().double().numpy()


def calibrate(model: ObservationDynamics, episodes: list[EpisodeColumns], steps: int, held_out: bool) -> dict[str, Any]:
    """The entry `disagreement` of an artifact's `calibration`; empty where nothing can be said.

    Args:
        model: the members that plan.
        episodes: what was recorded.
        steps: of a plan (H).
        held_out: whether the model has not learned from them.
    """
    given = windows(episodes, steps, model.stride, PER_EPISODE) if model.members > 1 else None
    if given is None:
        return {}
    found = disagreements(model, given)
    level = float(np.quantile(found[np.isfinite(found)], QUANTILE)) if np.isfinite(found).any() else 0.0
    if level <= 0.0:
        return {}
    return {
        "level": level,
        "quantile": QUANTILE,
        "scale": model.observation_std.double().tolist(),
        "windows": len(found),
        "data": "held_out" if held_out else "training",
    }
