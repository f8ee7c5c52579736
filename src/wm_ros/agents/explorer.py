"""Random smooth actions: the controller before there is a model."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from wm_ros.agents.controller import Controller, NoiseSpec
from wm_ros.contract.schema import Contract


@dataclass(frozen=True)
class ExplorerConfig:
    """A discrete Ornstein-Uhlenbeck process per joint, pulled to the middle of the joint's range where the contract gives one."""

    time_constant_s: float = 0.15
    """Time over which the action forgets itself."""
    std: float = 0.8
    """Standard deviation in half ranges of the action; what lies beyond the limits is clipped."""
    centering: float = 1.0
    """Half ranges of action for a joint at the end of its own range, pushing it back: a robot that leans on its stops learns nothing."""
    lead_s: float = 0.7
    """Seconds of present velocity that count as position for the centering, which damps it."""

    def __post_init__(self) -> None:
        if self.time_constant_s <= 0 or self.std <= 0:
            raise ValueError(f"time_constant_s {self.time_constant_s} and std {self.std} must be positive")
        if self.centering < 0 or self.lead_s < 0:
            raise ValueError(f"centering {self.centering} and lead_s {self.lead_s} must not be negative")


class Explorer(Controller):
    """Draws a smooth random action."""

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
        gain, middle = _centering(contract, config)
        self.register_buffer("gain", gain)
        self.register_buffer("middle", middle)

    def forward(self, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor]) -> dict[str, Any]:
        level = self._keep * carry["level"] + math.sqrt(1.0 - self._keep**2) * noise["step"]
        wanted = self._std * level - torch.matmul(observation - self.middle, self.gain)
        action = (self.low + self.high) / 2.0 + (self.high - self.low) / 2.0 * wanted.clamp(-1.0, 1.0)
        return {"action": action, "next": {"level": level}}


def _centering(contract: Contract, config: ExplorerConfig) -> tuple[Tensor, Tensor]:
    """Gain `[O, A]` and middle `[O]` of the pull to the middle; zero for joints whose position range the contract leaves open."""
    names = list(contract.observation_names)
    gain, middle = torch.zeros(len(names), contract.action_size), torch.zeros(len(names))
    for a, joint in enumerate(contract.action.names):
        for feature in (f for c in contract.observation for f in c.features):
            if feature.joint != joint or feature.field != "position" or feature.encoding != "identity":
                continue
            if feature.low is None or feature.high is None:
                continue
            half = (feature.high - feature.low) / 2.0
            gain[names.index(feature.name), a] = config.centering / half
            middle[names.index(feature.name)] = (feature.high + feature.low) / 2.0
            if f"{joint}.velocity" in names:
                gain[names.index(f"{joint}.velocity"), a] = config.centering * config.lead_s / half
    return gain, middle
