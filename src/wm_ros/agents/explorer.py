"""Random smooth actions: the controller before there is a model."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from wm_ros.agents.controller import Controller, NoiseSpec
from wm_ros.contract.schema import Contract


@dataclass(frozen=True)
class ExplorerConfig:
    """A discrete Ornstein-Uhlenbeck process per joint."""

    time_constant_s: float = 0.2
    """Time over which the action forgets itself."""
    std: float = 0.6
    """Standard deviation in half ranges of the joint; what lies beyond the limits is clipped."""

    def __post_init__(self) -> None:
        if self.time_constant_s <= 0 or self.std <= 0:
            raise ValueError(f"time_constant_s {self.time_constant_s} and std {self.std} must be positive")


class Explorer(Controller):
    """Draws a smooth random action; looks at nothing."""

    agent = "explore"

    def __init__(self, contract: Contract, config: ExplorerConfig) -> None:
        super().__init__()
        size = contract.action_size
        self.config = asdict(config)
        self.carry = {"level": (size,)}
        self.noise = {"step": NoiseSpec((size,))}
        self._keep = math.exp(-contract.control.period_s / config.time_constant_s)
        self._std = config.std
        self.register_buffer("low", torch.tensor([j.low for j in contract.action.joints]))
        self.register_buffer("high", torch.tensor([j.high for j in contract.action.joints]))

    def forward(self, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor]) -> dict[str, Tensor | dict[str, Tensor]]:
        level = self._keep * carry["level"] + math.sqrt(1.0 - self._keep**2) * noise["step"]
        middle, half = (self.low + self.high) / 2.0, (self.high - self.low) / 2.0
        return {"action": middle + half * (self._std * level).clamp(-1.0, 1.0), "next": {"level": level}}
