"""An ensemble of networks over observations as a world model, with the contract's own reward and termination."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wm_ros.contract.functions import reward_function, termination_function
from wm_ros.contract.schema import Contract
from wm_ros.models.ensemble import EnsembleConfig, GaussianEnsemble
from wm_ros.models.world_model import Imagined, Step


@dataclass(frozen=True)
class LimitCost:
    """What a plan pays for coming near the ends of the ranges that the contract gives for observations, such as joint limits.

    A robot should stay off its stops, and a learned model is worst there. The recorded reward has no such term.
    """

    weight: float = 5.0
    """Reward taken off per tick at the very end of a range; grows linearly from the margin on."""
    margin: float = 0.15
    """Share of the half range, counted from its end, in which the cost begins."""

    def __post_init__(self) -> None:
        if self.weight < 0 or not 0 < self.margin <= 1:
            raise ValueError(f"weight {self.weight} must not be negative, margin {self.margin} must be above 0 and at most 1")


Propagation = Literal["TSinf", "TS1"]
"""Trajectory sampling of PETS (Chua et al. 2018, section 5.1): `TSinf` keeps a particle on its member for the whole rollout, so that what
members do not know stays apart from noise; `TS1` draws a member anew for every step."""


class ObservationDynamics(nn.Module):
    """Predicts the observation `stride` ticks ahead from an observation and the actions of those ticks.

    One network call covers several control ticks, so a long horizon costs few calls and compounds few errors. Targets are changes of the
    observation, normalized; sin/cos pairs are brought back onto the unit circle after every step. There is one particle per member and
    candidate.
    """

    def __init__(
        self,
        contract: Contract,
        config: EnsembleConfig,
        stride: int,
        members: int | None = None,
        sample: bool = False,
        limits: LimitCost | None = None,
        propagation: Propagation = "TSinf",
    ) -> None:
        """Builds untrained networks.

        Args:
            contract: sizes, names, reward and termination.
            config: of the ensemble.
            stride: ticks per step, at least 1.
            members: overrides `config.members`, for instance with the number of elites.
            sample: rollouts draw from the predicted Gaussians; False propagates each member's mean.
            limits: what imagined observations near the ends of the contract's ranges cost; None for nothing.
            propagation: how particles and members meet.
        """
        super().__init__()
        if stride < 1:
            raise ValueError(f"stride {stride} must be at least 1")
        if propagation not in ("TSinf", "TS1"):
            raise ValueError(f"propagation {propagation!r} must be TSinf or TS1")
        self.stride, self.sample, self.propagation = stride, sample, propagation
        size = contract.observation_size
        self.observation_size, self.action_size = size, contract.action_size
        self.network = GaussianEnsemble(config, size + stride * self.action_size, size, members)
        self.members = self.network.members
        self._reward, self._termination = reward_function(contract), termination_function(contract)
        low = torch.tensor([j.low for j in contract.action.joints])
        high = torch.tensor([j.high for j in contract.action.joints])
        self.register_buffer("action_mean", (low + high) / 2)
        self.register_buffer("action_std", (high - low) / 2)
        for name, value in (("observation_mean", 0.0), ("observation_std", 1.0), ("target_mean", 0.0), ("target_std", 1.0)):
            self.register_buffer(name, torch.full((size,), value))
        self._limits = limits if limits is not None and limits.weight > 0 else None
        middle, inverse_half = _ranges(contract)
        self.register_buffer("_range_middle", middle, persistent=False)
        self.register_buffer("_range_inverse_half", inverse_half, persistent=False)
        pairs, offset = _circle_sums(contract.observation_names)
        self._has_pairs = bool(pairs.any())
        self.register_buffer("_pairs", pairs, persistent=False)
        self.register_buffer("_offset", offset, persistent=False)

    def inputs(self, observation: Tensor, actions: Tensor) -> Tensor:
        """Normalized network inputs `[..., I]` from `observation [..., O]` and the actions of the ticks `[..., stride, A]`."""
        scaled = (actions - self.action_mean) / self.action_std
        return torch.cat([(observation - self.observation_mean) / self.observation_std, scaled.flatten(-2)], dim=-1)

    def predict(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Tensor:
        """The observation `stride` ticks later.

        Args:
            observation: `[M, B, O]`.
            actions: `[M, B, stride, A]`, one for each tick.
            noise: standard normal `[M, B, O]`, or None for the mean.
        """
        mean, log_variance = self.network(self.inputs(observation, actions))
        change = mean if noise is None else mean + torch.exp(0.5 * log_variance) * noise
        return self._on_circle(observation + change * self.target_std + self.target_mean)

    def noise_shape(self, horizon: int) -> tuple[int, ...] | None:
        """See `WorldModel.noise_shape`: `[H, M, 1, W]`, the same for all candidates so that their ranking is not a matter of luck.

        W counts the observation's columns where rollouts sample, and one more, which draws the member, for TS1.
        """
        width = (self.observation_size if self.sample else 0) + (self.propagation == "TS1")
        return (horizon, self.members, 1, width) if width else None

    def rollout(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Imagined:
        """See `WorldModel.rollout`.

        Equal to `predict` step by step, but normalizers and the held action's columns are folded into the first and last layer, and
        rewards are computed for all steps at once: a third of the nodes of the exported graph.
        """
        horizon, candidates = actions.shape[0], actions.shape[1]
        weights, biases, size = list(self.network.weights), list(self.network.biases), self.observation_size
        first = weights[0]
        from_state = first[:, :size] / self.observation_std.unsqueeze(-1)
        from_action = first[:, size:].unflatten(1, (self.stride, self.action_size)).sum(dim=1) / self.action_std.unsqueeze(-1)
        centre = torch.matmul(self.observation_mean, from_state) + torch.matmul(self.action_mean, from_action)  # [M, width]
        driven = torch.matmul(actions.unsqueeze(1), from_action) + (biases[0] - centre.unsqueeze(1))  # [H, M, N, width]
        last_weight = weights[-1][..., :size] * self.target_std
        last_bias = biases[-1][..., :size] * self.target_std + self.target_mean
        state = observation.expand(self.members, candidates, size)
        states = [state]
        for h, push in enumerate(driven.unbind(0)):
            if self.propagation == "TS1" and noise is not None and h > 0:  # all start at the same observation
                state = state.index_select(0, self._drawn_members(noise[h, :, 0, -1]))
            hidden = nn.functional.silu(torch.matmul(state, from_state) + push)
            for weight, offset in zip(weights[1:-1], biases[1:-1], strict=True):
                hidden = nn.functional.silu(torch.matmul(hidden, weight) + offset)
            following = state + (torch.matmul(hidden, last_weight) + last_bias)
            if self.sample and noise is not None:
                log_variance = self.network.bounded(torch.matmul(hidden, weights[-1][..., size:]) + biases[-1][..., size:])
                following = following + torch.exp(0.5 * log_variance) * self.target_std * noise[h, ..., :size]
            state = self._on_circle(following)
            states.append(state)
        before, after = torch.stack(states[:-1]), torch.stack(states[1:])
        held = actions.unsqueeze(1).expand(horizon, self.members, candidates, self.action_size)
        reward = self.stride * self._reward(before, held, after)
        if self._limits is not None:
            reward = reward - self._limit_cost(after)
        if self._termination is None:
            return Imagined(after, reward, None)
        return Imagined(after, reward, torch.cumprod(1.0 - self._termination(before, held, after).to(reward.dtype), dim=0))

    def step(self, observation: Tensor, action: Tensor) -> Step:
        """See `WorldModel.step`."""
        rows = observation.shape[0]
        held = action.unsqueeze(1).expand(self.members, rows, self.stride, self.action_size)
        after = self.predict(observation.expand(self.members, rows, self.observation_size), held, None)
        following = self._on_circle(after.mean(dim=0))
        reward = self.stride * self._reward(observation, action, following) - self._limit_cost(following)
        if self._termination is None:
            return Step(following, reward, None)
        return Step(following, reward, 1.0 - self._termination(observation, action, following).to(reward.dtype))

    def _limit_cost(self, observation: Tensor) -> Tensor:
        """What a model step pays `[...]` for ending at `observation [..., O]`, near the ends of the contract's ranges."""
        if self._limits is None:
            return observation.new_zeros(observation.shape[:-1])
        beyond = torch.abs((observation - self._range_middle) * self._range_inverse_half) - (1.0 - self._limits.margin)
        return self.stride * self._limits.weight / self._limits.margin * torch.relu(beyond).sum(dim=-1)

    def _drawn_members(self, normal: Tensor) -> Tensor:
        """Members `[M]`, each equally likely, from standard normal numbers `[M]`: for each member, whose particles it takes over."""
        uniform = 0.5 * (1.0 + torch.erf(normal / math.sqrt(2.0)))
        return torch.clamp(torch.floor(uniform * self.members), 0.0, self.members - 1.0).to(torch.int64)

    def _on_circle(self, observation: Tensor) -> Tensor:
        if not self._has_pairs:
            return observation
        return observation / torch.sqrt(torch.matmul(observation * observation, self._pairs) + self._offset)


def _ranges(contract: Contract) -> tuple[Tensor, Tensor]:
    """Middle `[O]` and inverse of the half range `[O]` of the observations that have a range in the contract; zeros for the others."""
    features = [f for c in contract.observation for f in c.features for _ in f.columns]
    middle, inverse_half = torch.zeros(len(features)), torch.zeros(len(features))
    for i, feature in enumerate(features):
        if feature.encoding == "identity" and feature.low is not None and feature.high is not None:
            middle[i] = (feature.high + feature.low) / 2.0
            inverse_half[i] = 2.0 / (feature.high - feature.low)
    return middle, inverse_half


def _circle_sums(names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """`P [O, O]` and `e [O]` such that `sqrt(x² @ P + e)` is the radius for columns of a sin/cos pair and 1 for all others."""
    pairs, offset = torch.zeros(len(names), len(names)), torch.ones(len(names))
    for i, name in enumerate(names[:-1]):
        if name.endswith(".sin") and names[i + 1] == name[:-4] + ".cos":
            pairs[i : i + 2, i : i + 2] = 1.0
            offset[i : i + 2] = 1e-8
    return pairs, offset
