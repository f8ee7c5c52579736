"""Cross-entropy method over action sequences (Botev et al. 2013; as the planner of PETS, Chua et al. 2018, section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wm_ros.models.world_model import WorldModel
from wm_ros.planners.plan import Plan
from wm_ros.planners.planner import Planner, PlannerConfig, Stop, rollout_noise, shifted


@dataclass(frozen=True)
class CEMConfig(PlannerConfig):
    """Settings of CEM; the defaults are those of PETS (Chua et al. 2018, appendix A.3, and their code)."""

    candidates: int = 400
    """N, sequences drawn per iteration."""
    iterations: int = 5
    """Rounds of drawing and refitting."""
    elites: int = 40
    """K, best sequences that the distribution is refitted to."""
    initial_std: float = 0.5
    """Standard deviation at the start of every plan."""
    momentum: float = 0.1
    """Share of the old mean and standard deviation in the refitted ones."""
    kind: Literal["cem"] = "cem"
    """Name in configuration files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1 or self.iterations < 1:
            raise ValueError(f"candidates {self.candidates} and iterations {self.iterations} must be at least 1")
        if not 1 <= self.elites <= self.candidates:
            raise ValueError(f"needs 1 <= elites {self.elites} <= candidates {self.candidates}")


class CEM(Planner[CEMConfig]):
    """Refits a Gaussian over sequences, white along the horizon, to the best of its draws."""

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"mean": (self.config.horizon, self.action_size)}

    def noise_shapes(self, model: WorldModel) -> dict[str, tuple[int, ...]]:
        c = self.config
        return {
            "actions": (c.iterations, c.candidates, c.horizon, self.action_size),
            **rollout_noise(model, c.horizon, c.iterations),
        }

    def forward(
        self, model: WorldModel, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor], stop: Stop | None = None
    ) -> Plan:
        self.check(model, observation, carry, noise)
        c = self.config
        mean, std = carry["mean"], torch.full_like(carry["mean"], c.initial_std)
        others = self.prior(model, observation)  # beside the draws: the prior, and later the best so far
        done = 0
        for i in range(c.iterations):
            sequences = torch.cat([mean + std * noise["actions"][i], mean.unsqueeze(0), *others]).clamp(-1.0, 1.0)
            returns, observations = self.scored(model, observation, sequences, noise["model"][i] if "model" in noise else None)
            best, order = torch.topk(returns, c.elites)
            chosen = sequences[order]
            others = [chosen[:1]]
            mean = c.momentum * mean + (1.0 - c.momentum) * chosen.mean(dim=0)
            std = c.momentum * std + (1.0 - c.momentum) * chosen.std(dim=0, correction=0)
            done = i + 1
            if stop is not None and stop():
                break
        return self.plan(chosen, best, observations[:, :, order], {"mean": shifted(mean, model.stride)}, done)
