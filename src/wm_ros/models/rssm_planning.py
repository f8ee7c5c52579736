"""The recurrent state-space model as planners see any world model: what they call an observation is a latent state."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor

from wm_ros.models.rssm import State
from wm_ros.models.rssm_world import RssmWorld
from wm_ros.models.world_model import Imagined, Step


class LatentModel:
    """Plans in the latent space, as PlaNet does (Hafner et al. 2019, arXiv 1811.04551). F below is D+S, the size of a state's features."""

    stride = members = 1

    def __init__(self, world: RssmWorld, half_ranges: Callable[[Tensor], Tensor]) -> None:
        """Args: the model, and what brings actions `[..., A]` from contract units into half ranges."""
        self._world, self._half_ranges = world, half_ranges
        self.observation_size = world.feature_size

    def noise_shape(self, horizon: int) -> tuple[int, ...]:
        """Of one rollout: [H, G], the same for every candidate, so that they differ by their actions alone."""
        return (horizon, self._world.rssm.latent.noise)

    def rollout(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Imagined:
        """See `WorldModel.rollout`; without noise every latent is its distribution's middle.

        Args:
            observation: [F], where to begin.
            actions: [H, N, A], contract units.
            noise: [H, G], standard normal.
        """
        horizon, candidates = actions.shape[:2]
        latent = self._world.rssm.latent
        noise = observation.new_zeros(horizon, latent.noise) if noise is None else noise
        draws = torch.special.ndtr(noise).clamp(max=1.0 - 1e-6) if latent.distribution == "uniform" else noise
        feature, features = observation.expand(candidates, -1), []
        for action, draw in zip(self._half_ranges(actions), draws, strict=True):
            feature = self._after(feature, action, draw.expand(candidates, -1))
            features.append(feature)
        reached = torch.stack(features)
        # Not cumprod: ONNX has no such operator.
        going_on = torch.stack(list(accumulate(self._world.going_on(reached).unbind(), torch.mul)))
        return Imagined(reached.unsqueeze(1), self._reward(reached).unsqueeze(1), going_on.unsqueeze(1))

    def step(self, observation: Tensor, action: Tensor) -> Step:
        """See `WorldModel.step`: from states `[B, F]` under actions `[B, A]`, each latent its distribution's middle."""
        latent = self._world.rssm.latent
        middle = 0.5 if latent.distribution == "uniform" else 0.0
        feature = self._after(observation, self._half_ranges(action), observation.new_full((len(observation), latent.noise), middle))
        return Step(feature, self._reward(feature), self._world.going_on(feature))

    def _reward(self, feature: Tensor) -> Tensor:
        # Not the mean over bins up to 5e8: it hangs on rounding until the head is sure, and so would which candidate is the best.
        return self._world.reward_kind.steady_mean(self._world.reward_head(feature))

    def _after(self, feature: Tensor, action: Tensor, draw: Tensor) -> Tensor:
        deter = self._world.rssm.config.deter
        return self._world.rssm.imagine_step(State(feature[..., :deter], feature[..., deter:]), action.clamp(-1.0, 1.0), draw).feature
