"""Probabilistic ensemble of neural networks as batched tensors (PETS, Chua et al. 2018, section 4)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class EnsembleConfig:
    """Size and shape of the ensemble."""

    members: int = 6
    """Networks trained."""
    elites: int = 5
    """Networks kept for planning, the best on held-out data."""
    layers: int = 3
    """Hidden layers of each network."""
    width: int = 128
    """Units of each hidden layer."""
    log_variance_low: float = -7.0
    """Start of the learned lower bound of the log-variance, in normalized targets (PETS, appendix A.1)."""
    log_variance_high: float = 0.5
    """Start of the learned upper bound."""

    def __post_init__(self) -> None:
        if not 1 <= self.elites <= self.members:
            raise ValueError(f"elites {self.elites} must be between 1 and members {self.members}")
        if self.layers < 1 or self.width < 1:
            raise ValueError(f"layers {self.layers} and width {self.width} must be at least 1")


class GaussianEnsemble(nn.Module):
    """M independent networks `[M, B, I] → mean, log-variance [M, B, D]`, in normalized units."""

    def __init__(self, config: EnsembleConfig, inputs: int, outputs: int, members: int | None = None) -> None:
        super().__init__()
        self.members = config.members if members is None else members
        self.outputs = outputs
        sizes = [inputs, *[config.width] * config.layers, 2 * outputs]
        self.weights = nn.ParameterList(torch.empty(self.members, i, o) for i, o in itertools.pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(self.members, 1, o) for o in sizes[1:])
        self.log_variance_low = nn.Parameter(torch.full((outputs,), config.log_variance_low))
        self.log_variance_high = nn.Parameter(torch.full((outputs,), config.log_variance_high))

    def initialize(self, generator: torch.Generator) -> None:
        """Truncated normal weights with standard deviation 1 / (2 sqrt(inputs)) and zero biases, as PETS does."""
        with torch.no_grad():
            for weight, bias in zip(self.weights, self.biases, strict=True):
                std = 1.0 / (2.0 * math.sqrt(weight.shape[1]))
                nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)
                bias.zero_()

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance.

        Args:
            inputs: `[M, B, I]`, normalized.

        Returns:
            mean `[M, B, D]` and log-variance `[M, B, D]`, softly held between the learned bounds.
        """
        hidden = inputs
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.matmul(hidden, weight) + bias
            if i < last:
                hidden = nn.functional.silu(hidden)
        mean, log_variance = hidden.split(self.outputs, dim=-1)
        return mean, self.bounded(log_variance)

    def bounded(self, log_variance: Tensor) -> Tensor:
        """Holds `log_variance [..., D]` softly between the learned bounds (PETS, appendix A.1)."""
        below = self.log_variance_high - nn.functional.softplus(self.log_variance_high - log_variance)
        return self.log_variance_low + nn.functional.softplus(below - self.log_variance_low)

    def members_from(self, other: GaussianEnsemble, chosen: list[int]) -> None:
        """Copies the `chosen` members of `other` into this ensemble, in that order."""
        if len(chosen) != self.members:
            raise ValueError(f"{len(chosen)} members chosen for an ensemble of {self.members}")
        with torch.no_grad():
            for mine, theirs in zip((*self.weights, *self.biases), (*other.weights, *other.biases), strict=True):
                mine.copy_(theirs[chosen])
            self.log_variance_low.copy_(other.log_variance_low)
            self.log_variance_high.copy_(other.log_variance_high)
