"""Gradient ascent on action sequences through the model, from several starts (Adam, Kingma and Ba 2015, projected onto the limits)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wm_ros.models.world_model import WorldModel
from wm_ros.planners.colored_noise import coloring_matrix
from wm_ros.planners.derivatives import differentiable
from wm_ros.planners.plan import Plan
from wm_ros.planners.planner import Planner, PlannerConfig, Policy, Stop, rollout_noise, shifted
from wm_ros.planners.scoring import WORST, Value

_FIRST, _SECOND = 0.9, 0.999  # Adam's β₁ and β₂, as in the paper
_TINY = 1e-7  # Adam's ε; the paper's 1e-8 passes for 0 where a graph is simplified for export, and is left out there


@dataclass(frozen=True)
class GradientConfig(PlannerConfig):
    """Settings of the gradient planner."""

    starts: int = 4
    """S, sequences that climb side by side: the last plan and draws around it."""
    iterations: int = 10
    """Steps of each."""
    learning_rate: float = 0.1
    """Adam's step size, in half ranges."""
    std: float = 0.5
    """Standard deviation of the drawn starts."""
    noise_exponent: float = 1.7
    """Colour of the drawn starts along the horizon: 0 white, 2 Brownian."""
    difference: float = 0.01
    """Distance of the central differences, in half ranges, that stand in for the gradient of a model that has none."""
    kind: Literal["gradient"] = "gradient"
    """Name in configuration files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.starts < 1 or self.iterations < 1:
            raise ValueError(f"starts {self.starts} and iterations {self.iterations} must be at least 1")
        if self.learning_rate <= 0 or self.std <= 0 or not 0 < self.difference < 1:
            raise ValueError(
                f"learning_rate {self.learning_rate} and std {self.std} must be above 0, difference {self.difference} between 0 and 1"
            )


class Gradient(Planner[GradientConfig]):
    """Climbs from several starts, and keeps the best sequence that each has passed."""

    differentiates = True

    def __init__(
        self, config: GradientConfig, low: Tensor, high: Tensor, value: Value | None = None, policy: Policy | None = None
    ) -> None:
        """See `Planner`."""
        super().__init__(config, low, high, value, policy)
        self.register_buffer("coloring", torch.from_numpy(coloring_matrix(config.horizon, config.noise_exponent)))

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"best": (self.config.horizon, self.action_size)}

    def noise_shapes(self, model: WorldModel) -> dict[str, tuple[int, ...]]:
        c = self.config
        # The model draws the same in all steps: a slope is of one function.
        return {"actions": (c.starts, self.action_size, c.horizon), **rollout_noise(model, c.horizon, 1)}

    def forward(
        self, model: WorldModel, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor], stop: Stop | None = None
    ) -> Plan:
        self.check(model, observation, carry, noise)
        c = self.config
        fixed = noise["model"][0] if "model" in noise else None
        drawn = carry["best"] + c.std * torch.matmul(noise["actions"], self.coloring.T).transpose(1, 2)
        sequences = torch.cat([carry["best"].unsqueeze(0), *self.prior(model, observation), drawn])[: c.starts].clamp(-1.0, 1.0)
        best, highest = sequences, sequences.new_full((c.starts,), 2.0 * WORST)
        first, second = torch.zeros_like(sequences), torch.zeros_like(sequences)
        done = 0
        for i in range(c.iterations):
            slope, returns = self._slope(model, observation, sequences, fixed)
            better = returns > highest
            best, highest = torch.where(better[:, None, None], sequences, best), torch.where(better, returns, highest)
            first = _FIRST * first + (1.0 - _FIRST) * slope
            second = _SECOND * second + (1.0 - _SECOND) * slope * slope
            size = c.learning_rate / (1.0 - _FIRST ** (i + 1))
            step = first / (torch.sqrt(second / (1.0 - _SECOND ** (i + 1))) + _TINY)
            sequences = (sequences + size * step).clamp(-1.0, 1.0)
            done = i + 1
            if stop is not None and stop():
                break
        returns, observations = self.scored(model, observation, torch.cat([sequences, best]), fixed)
        returns, order = torch.topk(returns, c.starts)
        chosen = torch.cat([sequences, best])[order]
        return self.plan(chosen, returns, observations[:, :, order], {"best": shifted(chosen[0], model.stride)}, done)

    def _slope(self, model: WorldModel, observation: Tensor, sequences: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gradient `[S, H, A]` of the returns `[S]` of `sequences`, 0 where it is not finite, and these returns."""

        def total(given: Tensor) -> tuple[Tensor, Tensor]:
            returns, _ = self.scored(model, observation, given, noise)
            return returns.sum(), returns

        if differentiable(model):
            slope, returns = torch.func.grad(total, has_aux=True)(sequences)
        else:
            slope, returns = self._differences(model, observation, sequences, noise)
        return torch.where(slope.abs() < -WORST, slope, 0.0), returns

    def _differences(self, model: WorldModel, observation: Tensor, sequences: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Central differences within the limits; all in one rollout of S (2 H A + 1) candidates."""
        starts, size = sequences.shape[0], sequences[0].numel()
        offset = self.config.difference * torch.eye(size, dtype=sequences.dtype).reshape(size, *sequences.shape[1:])
        middle = sequences.unsqueeze(1)
        up, down = (middle + offset).clamp(-1.0, 1.0), (middle - offset).clamp(-1.0, 1.0)
        returns, _ = self.scored(model, observation, torch.cat([up, down, middle], dim=1).flatten(0, 1), noise)
        returns = returns.unflatten(0, (starts, -1))
        distance = (up - down).flatten(2).sum(dim=-1)
        slope = (returns[:, :size] - returns[:, size:-1]) / distance
        return slope.reshape(sequences.shape), returns[:, -1]
