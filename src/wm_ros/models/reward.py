"""A learned reward, for contracts that have no function for it."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_ros.models.ensemble import EnsembleConfig
from wm_ros.models.member_mlp import MemberMLP


class RewardNetwork(MemberMLP):
    """Mean reward per control tick of a model step, from normalized (observation, actions, next observation)."""

    def __init__(self, config: EnsembleConfig, inputs: int, members: int | None = None) -> None:
        """Args: size; I; M if not the configuration's."""
        super().__init__(config.members if members is None else members, inputs, config.layers, config.width, 1)
        self.register_buffer("reward_mean", torch.zeros(()))
        self.register_buffer("reward_std", torch.ones(()))

    def normalize(self, reward: Tensor) -> None:
        """Bakes mean and deviation of `reward [B]` in, computed in float64."""
        exact = reward.double()
        self.reward_mean.copy_(exact.mean())
        self.reward_std.copy_(exact.std(correction=0).clamp(min=1e-6))

    def forward(self, inputs: Tensor) -> Tensor:
        """Reward `[..., M, B]`, the contract's units, for `inputs [..., M, B, I]`."""
        return self.raw(inputs).squeeze(-1) * self.reward_std + self.reward_mean

    def errors(self, inputs: Tensor, reward: Tensor) -> Tensor:
        """Mean squared error `[M]` in units of the rewards' variance; summed over members it is the loss."""
        return ((self.raw(inputs).squeeze(-1) - (reward - self.reward_mean) / self.reward_std) ** 2).mean(dim=1)
