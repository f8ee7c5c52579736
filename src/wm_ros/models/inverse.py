"""Inverse dynamics: which actions led from one observation to the next."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from wm_ros.contract.schema import Contract
from wm_ros.models.ensemble import EnsembleConfig
from wm_ros.models.family import ModelConfig, forward_network
from wm_ros.models.trainable import Rows
from wm_ros.models.transitions import Transitions


class InverseModel(nn.Module):
    """(observation, observation `stride` ticks later) → the actions of these ticks, within the contract's limits.

    The networks see the normalized observation and its normalized change, and predict actions in half ranges of the limits. What lies
    beyond is clipped in `predict` and not in the loss, where a saturated unit would stop learning at the very limits.
    """

    def __init__(
        self,
        contract: Contract,
        config: EnsembleConfig,
        stride: int,
        head: Literal["gaussian", "deterministic"] = "gaussian",
        members: int | None = None,
    ) -> None:
        """Args: sizes, names and limits; size of the networks; ticks between the observations; kind of prediction; M if not `config`'s."""
        super().__init__()
        if stride < 1:
            raise ValueError(f"stride {stride} must be at least 1")
        if head not in ("gaussian", "deterministic"):
            raise ValueError(f"head {head!r} must be gaussian or deterministic")
        size, self.stride, self.action_size = contract.observation_size, stride, contract.action_size
        self.network = forward_network(ModelConfig(head), config, 2 * size, stride * self.action_size, members)
        self.members = self.network.members
        low = torch.tensor([j.low for j in contract.action.joints])
        high = torch.tensor([j.high for j in contract.action.joints])
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        for name, value in (("observation_mean", 0.0), ("observation_std", 1.0), ("change_mean", 0.0), ("change_std", 1.0)):
            self.register_buffer(name, torch.full((size,), value))

    @property
    def prediction_noise(self) -> int:
        """Columns of noise that a draw takes; 0 for the deterministic head."""
        return self.network.noise_columns

    def predict(self, observation: Tensor, following: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions `[M, B, stride, A]` in the contract's units, within its limits.

        Args:
            observation: `[B, O]`, or `[M, B, O]`.
            following: the same shape, `stride` ticks later.
            noise: standard normal `[M, B, prediction_noise]` for a draw; None for the mean.
        """
        inputs = self._inputs(observation, following)
        scaled = self.network.predict(inputs.expand(self.members, *inputs.shape[-2:]), noise)
        middle, half_range = (self.low + self.high) / 2.0, (self.high - self.low) / 2.0
        return middle + half_range * scaled.unflatten(-1, (self.stride, self.action_size)).clamp(-1.0, 1.0)

    def initialize(self, generator: torch.Generator) -> None:
        """Random weights."""
        self.network.initialize(generator)

    def prepare(self, data: Transitions) -> Rows:
        """Sets the normalizers, in float64, and gives rows: inputs, and actions in half ranges."""
        change = data.following.astype(np.float64) - data.observation
        with torch.no_grad():
            for name, values in (("observation", data.observation.astype(np.float64)), ("change", change)):
                getattr(self, f"{name}_mean").copy_(torch.from_numpy(values.mean(axis=0)))
                getattr(self, f"{name}_std").copy_(torch.from_numpy(np.maximum(values.std(axis=0), 1e-6)))
        actions = (torch.from_numpy(data.actions) - (self.low + self.high) / 2.0) / ((self.high - self.low) / 2.0)
        return self._inputs(torch.from_numpy(data.observation), torch.from_numpy(data.following)), actions.flatten(-2)

    def loss(self, rows: Rows) -> Tensor:
        """Gaussian likelihood or squared error, as the head is."""
        return self.network.loss(*rows)

    def errors(self, rows: Rows) -> Tensor:
        """Mean squared error `[M]` in half ranges."""
        inputs, actions = rows
        return self.network.errors(inputs.expand(self.members, -1, -1), actions)

    def looseness(self) -> Tensor | None:
        """Of the learned log-variance bounds."""
        return self.network.looseness()

    def _inputs(self, observation: Tensor, following: Tensor) -> Tensor:
        change = (following - observation - self.change_mean) / self.change_std
        return torch.cat([(observation - self.observation_mean) / self.observation_std, change], dim=-1)
