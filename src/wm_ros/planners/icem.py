"""Cross-entropy method with coloured noise, elite reuse and warm start (iCEM, Pinneri et al. 2020)."""

from __future__ import annotations

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
class ICEMConfig(PlannerConfig):
    """Settings of iCEM."""

    candidates: int = 48
    """N, sequences drawn per iteration."""
    iterations: int = 2
    """Rounds of drawing and refitting."""
    elites: int = 8
    """K, best sequences that the distribution is refitted to."""
    kept: int = 2
    """Elites carried into the next iteration and the next tick."""
    noise_exponent: float = 1.7
    """Colour of the noise along the horizon: 0 white, 2 Brownian."""
    initial_std: float = 0.5
    """Standard deviation at the start of every plan."""
    momentum: float = 0.1
    """Share of the old mean and standard deviation in the refitted ones."""
    kind: Literal["icem"] = "icem"
    """Name in configuration files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1 or self.iterations < 1:
            raise ValueError(f"candidates {self.candidates} and iterations {self.iterations} must be at least 1")
        if not 1 <= self.elites <= self.candidates or not 0 <= self.kept <= self.elites:
            raise ValueError(f"needs 0 <= kept {self.kept} <= elites {self.elites} <= candidates {self.candidates}, elites >= 1")


class ICEM(Planner[ICEMConfig]):
    """Refits a Gaussian over sequences to the best of coloured draws, and carries the best of them on."""

    def __init__(
        self, config: ICEMConfig, low: Tensor, high: Tensor, value: Value | None = None, policy: Policy | None = None
    ) -> None:
        """See `Planner`."""
        super().__init__(config, low, high, value, policy)
        self.register_buffer("coloring", torch.from_numpy(coloring_matrix(config.horizon, config.noise_exponent)))

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        c = self.config
        return {"mean": (c.horizon, self.action_size), "elites": (c.kept, c.horizon, self.action_size)}

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
        mean, std = carry["mean"], torch.full_like(carry["mean"], c.initial_std)
        elites, prior = carry["elites"], self.prior(model, observation)
        done = 0
        for i in range(c.iterations):
            drawn = mean + std * torch.matmul(noise["actions"][i], self.coloring.T).transpose(1, 2)
            sequences = torch.cat([drawn, elites, mean.unsqueeze(0), *prior]).clamp(-1.0, 1.0)
            returns, observations = self.scored(model, observation, sequences, noise["model"][i] if "model" in noise else None)
            best, order = torch.topk(returns, c.elites)
            chosen = sequences[order]
            elites = chosen[: c.kept]
            mean = c.momentum * mean + (1.0 - c.momentum) * chosen.mean(dim=0)
            std = c.momentum * std + (1.0 - c.momentum) * chosen.std(dim=0, correction=0)
            done = i + 1
            if stop is not None and stop():
                break
        following = {"mean": shifted(mean, model.stride), "elites": shifted(elites, model.stride)}
        return self.plan(chosen, best, observations[:, :, order], following, done)
