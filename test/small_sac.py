"""SAC small enough for tests, and a robot with several joints for it."""

from __future__ import annotations

import torch
from cartpole_models import contract
from torch import Tensor

from wm_ros.agents.sac import SacConfig
from wm_ros.contract import schema
from wm_ros.contract.schema import Contract
from wm_ros.training.sac_learner import Batch, SacFitConfig, SacLearner

SAC = SacConfig(layers=2, width=24)
FIT = SacFitConfig(batch=32, warm_up=64, capacity=5000)


def arm(observations: int = 7, actions: int = 3) -> Contract:
    """A robot with so many columns and joints, each joint with limits of its own."""
    data = contract().model_dump(mode="json")
    features = [{"joint": f"joint_{i}", "field": "position", "units": "rad"} for i in range(observations)]
    joints = [{"name": f"motor_{i}", "low": -1.0 - i, "high": 2.0 + i, "units": "N"} for i in range(actions)]
    data |= {"name": "arm", "simulator": None, "observation": [{**data["observation"][0], "features": features}]}
    return schema.parse({**data, "action": {**data["action"], "joints": joints}}, "test")


def learner(seed: int = 0, config: SacConfig = SAC, fit: SacFitConfig = FIT) -> SacLearner:
    made = SacLearner(arm(), config, fit, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)
    made.networks.observation_mean.copy_(torch.randn(7, generator=generator))
    made.networks.observation_rate.copy_(0.5 + torch.rand(7, generator=generator))
    return made


def batch(seed: int, size: int = 32) -> tuple[Batch, Tensor]:
    """A batch for `arm`, some of its transitions terminated, and noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    limits = torch.tensor([[-1.0, -2.0, -3.0], [2.0, 3.0, 4.0]])
    action = limits[0] + (limits[1] - limits[0]) * torch.rand((size, 3), generator=generator)
    discount = 0.99 * (torch.rand(size, generator=generator) < 0.8)
    return Batch(normal(size, 7), action, normal(size), normal(size, 7), discount), normal(2, size, 3)
