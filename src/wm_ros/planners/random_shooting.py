"""Random shooting: the best of sequences drawn evenly over the limits (Nagabandi et al. 2018, section IV-C)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wm_ros.models.world_model import WorldModel
from wm_ros.planners.colored_noise import coloring_matrix
from wm_ros.planners.plan import Plan
from wm_ros.planners.planner import Planner, PlannerConfig, Policy, Stop, rollout_noise, shifted
from wm_ros.planners.scoring import Value


@dataclass(frozen=True)
class RandomShootingConfig(PlannerConfig):
    """Settings of random shooting."""

    candidates: int = 500
    """N, sequences drawn per iteration."""
    iterations: int = 1
    """Rounds of drawing; more than one lets a deadline come between them."""
    noise_exponent: float = 0.0
    """Colour along the horizon: 0 draws every action by itself, 2 draws slow sequences. Each action is even over its limits with any."""
    shown: int = 8
    """K, best sequences that the plan gives out."""
    kind: Literal["random_shooting"] = "random_shooting"
    """Name in configuration files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1 or self.iterations < 1:
            raise ValueError(f"candidates {self.candidates} and iterations {self.iterations} must be at least 1")
        if not 1 <= self.shown <= self.candidates:
            raise ValueError(f"needs 1 <= shown {self.shown} <= candidates {self.candidates}")


class RandomShooting(Planner[RandomShootingConfig]):
    """Draws, scores, takes the best; the last plan's best is among the candidates."""

    def __init__(
        self, config: RandomShootingConfig, low: Tensor, high: Tensor, value: Value | None = None, policy: Policy | None = None
    ) -> None:
        """See `Planner`."""
        super().__init__(config, low, high, value, policy)
        # The matrix is circulant: all its rows have length 1, so every coloured draw is standard normal and erf makes it uniform.
        self.register_buffer("coloring", torch.from_numpy(coloring_matrix(config.horizon, config.noise_exponent)))

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"best": (self.config.horizon, self.action_size)}

    def noise_shapes(self, model: WorldModel) -> dict[str, tuple[int, ...]]:
        c = self.config
        return {
            "actions": (c.iterations, c.candidates, self.action_size, c.horizon),
            **rollout_noise(model, c.horizon, c.iterations),
        }

    def forward(
        self, model: WorldModel, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor], stop: Stop | None = None
    ) -> Plan:
        self.check(model, observation, carry, noise)
        c = self.config
        others = [carry["best"].unsqueeze(0), *self.prior(model, observation)]
        done = 0
        for i in range(c.iterations):
            drawn = torch.erf(torch.matmul(noise["actions"][i], self.coloring.T).transpose(1, 2) / math.sqrt(2.0))
            sequences = torch.cat([drawn, *others])
            returns, observations = self.scored(model, observation, sequences, noise["model"][i] if "model" in noise else None)
            best, order = torch.topk(returns, c.shown)
            chosen = sequences[order]
            others = [chosen[:1]]
            done = i + 1
            if stop is not None and stop():
                break
        return self.plan(chosen, best, observations[:, :, order], {"best": shifted(chosen[0], model.stride)}, done)
