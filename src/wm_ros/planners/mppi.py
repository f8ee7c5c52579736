"""Model predictive path integral control (Williams et al. 2017, *Information theoretic MPC for model-based reinforcement learning*)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wm_ros.models.world_model import WorldModel
from wm_ros.planners import scoring
from wm_ros.planners.colored_noise import coloring_matrix
from wm_ros.planners.plan import Plan
from wm_ros.planners.planner import Planner, PlannerConfig, Policy, Stop, rollout_noise, shifted
from wm_ros.planners.scoring import Value


@dataclass(frozen=True)
class MPPIConfig(PlannerConfig):
    """Settings of MPPI."""

    candidates: int = 100
    """N, sequences drawn per iteration."""
    iterations: int = 2
    """Rounds of drawing and averaging; the paper has one per tick."""
    temperature: float = 0.3
    """λ: a candidate that is worse by λ weighs e times less."""
    relative: bool = True
    """λ counts in standard deviations of the candidates' returns, so that it fits any scale of reward; false: in units of return."""
    std: float = 0.5
    """Standard deviation of the draws around the mean sequence."""
    noise_exponent: float = 1.7
    """Colour of the noise along the horizon: 0 white as in the paper, 2 Brownian, which needs no smoothing of the result."""
    control_cost: float = 0.0
    """γ = λ (1 - α) of the paper's algorithm 2, in units of return: what a draw pays for leading further the way that the mean goes."""
    shown: int = 8
    """K, sequences that the plan gives out: the plan itself and the best of the draws."""
    kind: Literal["mppi"] = "mppi"
    """Name in configuration files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1 or self.iterations < 1:
            raise ValueError(f"candidates {self.candidates} and iterations {self.iterations} must be at least 1")
        if self.temperature <= 0 or self.std <= 0:
            raise ValueError(f"temperature {self.temperature} and std {self.std} must be above 0")
        if self.control_cost < 0:
            raise ValueError(f"control_cost {self.control_cost} must not be negative")
        if not 1 <= self.shown <= self.candidates:
            raise ValueError(f"needs 1 <= shown {self.shown} <= candidates {self.candidates}")


class MPPI(Planner[MPPIConfig]):
    """The mean of draws around the last plan, weighted by the exponential of their returns."""

    def __init__(
        self, config: MPPIConfig, low: Tensor, high: Tensor, value: Value | None = None, policy: Policy | None = None
    ) -> None:
        """See `Planner`."""
        super().__init__(config, low, high, value, policy)
        coloring = coloring_matrix(config.horizon, config.noise_exponent)
        self.register_buffer("coloring", torch.from_numpy(coloring))
        if config.control_cost:
            self.register_buffer("whitening", torch.from_numpy(np.linalg.inv(coloring.astype(np.float64)).astype(np.float32)))

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"mean": (self.config.horizon, self.action_size)}

    def noise_shapes(self, model: WorldModel) -> dict[str, tuple[int, ...]]:
        c = self.config
        return {
            "actions": (c.iterations, c.candidates, self.action_size, c.horizon),
            # One more: the mean that comes out is rolled out too.
            **rollout_noise(model, c.horizon, c.iterations + 1),
        }

    def forward(
        self, model: WorldModel, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor], stop: Stop | None = None
    ) -> Plan:
        self.check(model, observation, carry, noise)
        c = self.config
        mean, prior = carry["mean"], self.prior(model, observation)
        done = 0
        for i in range(c.iterations):
            white = noise["actions"][i]
            drawn = mean + c.std * torch.matmul(white, self.coloring.T).transpose(1, 2)
            sequences = torch.cat([drawn, *prior]).clamp(-1.0, 1.0)
            returns, observations = self.scored(model, observation, sequences, noise["model"][i] if "model" in noise else None)
            weights = self._weights(self._charged(returns, mean, white))
            mean = torch.tensordot(weights, sequences, dims=1)
            done = i + 1
            if stop is not None and stop():
                break
        best, order = torch.topk(returns, c.shown)
        own, future = self.scored(model, observation, mean.unsqueeze(0), noise["model"][-1] if "model" in noise else None)
        # The mean is the plan even where a draw did better; only where it leads astray, as a mean of fine draws can, is it the best draw.
        rank = torch.cat([torch.where(scoring.found(own), -scoring.WORST, own), best])
        chosen = torch.topk(rank, c.shown).indices
        return self.plan(
            torch.cat([mean.unsqueeze(0), sequences[order]])[chosen],
            torch.cat([own, best])[chosen],
            torch.cat([future, observations[:, :, order]], dim=2)[:, :, chosen],
            {"mean": shifted(mean, model.stride)},
            done,
        )

    def _charged(self, returns: Tensor, mean: Tensor, white: Tensor) -> Tensor:
        """Returns `[N]` less the control cost γ Σ uᵀ Σ⁻¹ ε (algorithm 2), with ε = std · C `white [N, A, H]` and Σ = std² C Cᵀ."""
        if not self.config.control_cost:
            return returns
        pull = torch.matmul(self.whitening, mean) / self.config.std  # [H, A]
        return returns - self.config.control_cost * (white * pull.T).sum(dim=(1, 2)) * scoring.found(returns)

    def _weights(self, returns: Tensor) -> Tensor:
        """exp((return - best) / λ), summing up to one `[N]` (equation 34 of the paper)."""
        temperature: Tensor | float = self.config.temperature
        if self.config.relative:
            finite = scoring.found(returns).to(returns.dtype)
            count = finite.sum().clamp(min=1.0)
            centred = (returns - (returns * finite).sum() / count) * finite
            temperature = temperature * torch.sqrt((centred * centred).sum() / count) + 1e-6  # all alike: all weigh the same
        return torch.softmax((returns - returns.amax(dim=0)) / temperature, dim=0)
