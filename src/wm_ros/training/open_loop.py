"""Open-loop prediction error and calibration against the horizon: the first thing to ask of a dynamics model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_PARTICLES = 20
_STARTS = 50

EpisodeColumns = tuple[NDArray[np.float32], NDArray[np.float32]]
"""`observation [T+1, O]` and `action [T, A]`."""


class Predictor(Protocol):
    """What is asked of a model here; see `models.dynamics.ObservationDynamics`."""

    stride: int
    members: int

    @property
    def prediction_noise(self) -> int: ...

    def predict(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Tensor: ...


@dataclass(frozen=True)
class Windows:
    """B stretches of recorded episodes, each H model steps long."""

    start: NDArray[np.float32]
    """`[B, O]`"""
    actions: NDArray[np.float32]
    """`[H, B, stride, A]`"""
    truth: NDArray[np.float32]
    """`[H, B, O]`, the observations after each model step."""
    place: NDArray[np.int64]
    """`[B, 2]`, number of the episode, and tick in it, of each start."""


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


def windows(
    episodes: list[EpisodeColumns], steps: int, stride: int, per_episode: int, context: int = 0, first: int = 0
) -> Windows | None:
    """Stretches that begin evenly spread over each episode; None where no episode is long enough.

    Args:
        episodes: what is cut.
        steps: model steps (H).
        stride: ticks of one.
        per_episode: stretches of each episode, at most.
        context: ticks of the episode that lie before each start.
        first: number of the first episode.
    """
    starts, futures, actions, places = [], [], [], []
    for number, (observation, action) in enumerate(episodes, first):
        last = len(action) - steps * stride
        if last < context:
            continue
        for start in np.unique(np.linspace(context, last, per_episode).astype(int)):
            places.append((number, start))
            starts.append(observation[start])
            futures.append(observation[start + stride : start + steps * stride + 1 : stride])
            actions.append(action[start : start + steps * stride].reshape(steps, stride, -1))
    if not starts:
        return None
    return Windows(np.stack(starts), np.stack(actions, axis=1), np.stack(futures, axis=1), np.array(places, np.int64))


def imagine(model: Predictor, given: Windows, particles: int, generator: torch.Generator) -> NDArray[np.float32]:
    """What the model makes of the windows' starts and actions: `[H, members x particles, B, O]`.

    Every member carries its own particles (TSinf), drawn from its predictions; a model without noise needs one of each.
    """
    members, rows, width = model.members, len(given.start), model.prediction_noise
    particles = particles if width else 1
    actions = torch.from_numpy(given.actions)
    ticks = actions.shape[2:]
    state = torch.from_numpy(given.start).expand(members, particles, rows, -1).reshape(members, particles * rows, -1)
    imagined = []
    with torch.no_grad():
        for held in actions:
            held = held.expand(members, particles, rows, *ticks).reshape(members, particles * rows, *ticks)
            noise = torch.randn(members, particles * rows, width, generator=generator) if width else None
            state = model.predict(state, held, noise)
            imagined.append(state.reshape(members * particles, rows, -1).numpy())
    return np.stack(imagined)


def open_loop(
    model: Predictor,
    episodes: list[EpisodeColumns],
    steps: int,
    period_s: float,
    names: tuple[str, ...],
    seed: int,
) -> OpenLoop | None:
    """Rolls the model out under recorded actions from many starts and compares.

    Args:
        model: the ensemble.
        episodes: best ones that the model has not seen.
        steps: model steps to look ahead (H).
        period_s: control period.
        names: observation columns.
        seed: of the particles.

    Returns:
        None where no episode is as long as the horizon.
    """
    given = windows(episodes, steps, model.stride, _STARTS)
    if given is None:
        return None
    particles = imagine(model, given, _PARTICLES, torch.Generator().manual_seed(seed))
    rmse = np.sqrt(((particles.mean(axis=1) - given.truth) ** 2).mean(axis=1))  # [H, O]
    scale = scale_of(episodes)
    low, high = np.quantile(particles, [0.05, 0.95], axis=1)
    inside = ((given.truth >= low) & (given.truth <= high)).mean(axis=(1, 2))
    return OpenLoop(
        horizon_s=horizon_s(steps, model.stride, period_s),
        columns=list(names),
        rmse=rmse.astype(float).tolist(),
        normalized_rmse=np.sqrt(((rmse / scale) ** 2).mean(axis=1)).astype(float).tolist(),
        coverage_90=inside.astype(float).tolist(),
    )


def scale_of(episodes: list[EpisodeColumns]) -> NDArray[np.float32]:
    """Standard deviation `[O]` of the recorded columns, above zero."""
    return np.maximum(np.concatenate([o for o, _ in episodes]).std(axis=0), 1e-6)


def horizon_s(steps: int, stride: int, period_s: float) -> list[float]:
    """Times of the model steps 1 to H after the start."""
    return [round((h + 1) * stride * period_s, 9) for h in range(steps)]
