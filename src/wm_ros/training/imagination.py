"""Short rollouts of a learned model that branch off from recorded states (MBPO, Janner et al. 2019, algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wm_ros.agents.sac import SacNetworks
from wm_ros.models.dynamics import ObservationDynamics

FARTHEST = 1e4
"""Deviations from the recorded observations' mean beyond which a state counts as lost: the critics would learn from nothing else."""


@dataclass(frozen=True, eq=False)
class Imagined:
    """N imagined transitions, those without a finite end left out."""

    columns: dict[str, NDArray[Any]]
    """`observation` [N, O], `action` [N, A], `reward` [N], `next_observation` [N, O], `terminated` [N]."""
    dropped: int
    """Ticks that were left out."""
    spread: float
    """Mean of `ObservationDynamics.spread`; 0 where it has no weight and was not computed."""

    def __len__(self) -> int:
        return len(self.columns["reward"])

    @property
    def drop_rate(self) -> float:
        """Share of all imagined ticks that were left out."""
        return self.dropped / max(1, len(self) + self.dropped)


@torch.inference_mode()
def imagine(
    model: ObservationDynamics,
    networks: SacNetworks,
    start: NDArray[np.float32],
    length: int,
    rng: np.random.Generator,
    *,
    sample: bool = True,
    weight: float = 0.0,
) -> Imagined:
    """Rollouts of a policy in a model.

    Args:
        model: of one control tick.
        networks: the policy, which draws its actions.
        start: states to branch off from, [B, O].
        length: ticks of each rollout, fewer where it terminates.
        rng: draws actions, members, predictions and terminations.
        sample: draw from the predicted distributions.
        weight: of the spread over members, added to the reward.
    """
    found: list[tuple[Tensor, ...]] = []
    state, spreads, asked = torch.from_numpy(start), 0.0, 0
    for _ in range(length):
        if not len(state):
            break
        action = drawn_actions(networks, state, rng)
        following, reward, ended = _tick(model, state, action, rng, sample)
        asked += len(state)
        if weight:
            spread = model.spread(state, action)
            reward = reward + weight * spread
            spreads += float(spread.nan_to_num(0.0, 0.0).sum())
        # NaN and infinity compare false.
        away = ((following - model.observation_mean) / model.observation_std).abs().amax(dim=1)
        sound = (away < FARTHEST) & torch.isfinite(reward)
        found.append(tuple(c[sound] for c in (state, action, reward, following, ended)))
        state = following[sound & ~ended]
    columns = [torch.cat(parts).numpy() for parts in zip(*found, strict=True)]
    names = ("observation", "action", "reward", "next_observation", "terminated")
    return Imagined(dict(zip(names, columns, strict=True)), asked - len(columns[2]), spreads / max(1, asked))


def drawn_actions(networks: SacNetworks, observation: Tensor, rng: np.random.Generator) -> Tensor:
    """Actions `[B, A]` of the policy at `observation [B, O]`, in contract units."""
    mean, log_std = networks.gaussian(networks.normalized(observation))
    noise = torch.from_numpy(rng.standard_normal(mean.shape, dtype=np.float32))
    return networks.action_middle + networks.action_half * torch.tanh(mean + log_std.exp() * noise)


def _tick(
    model: ObservationDynamics, state: Tensor, action: Tensor, rng: np.random.Generator, sample: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """One tick of B rows, each with a member of its own: observations `[B, O]`, rewards `[B]`, whether it terminates `[B]`.

    Members get equal shares of the rows, at random; that costs one pass over each row, where drawing from all members' answers costs M.
    """
    rows = len(state)
    order = rng.permutation(rows)
    place = torch.from_numpy(np.resize(order, -(-rows // model.members) * model.members))
    here, held = (t[place].unflatten(0, (model.members, -1)) for t in (state, action))
    noise = None
    if sample and model.prediction_noise:
        noise = torch.from_numpy(rng.standard_normal((*here.shape[:2], model.prediction_noise), dtype=np.float32))
    after, reward, probability = model.transition(here, held, noise)
    back = torch.from_numpy(np.argsort(order))
    following, gained = after.flatten(0, 1)[:rows][back], reward.flatten()[:rows][back]
    if probability is None:
        return following, gained, torch.zeros(rows, dtype=torch.bool)
    chance = torch.from_numpy(rng.random(rows, dtype=np.float32))
    return following, gained, chance < probability.flatten()[:rows][back]
