"""Soft actor-critic: its networks and its controller (Haarnoja et al. 2018, arXiv 1812.05905)."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wm_ros.agents.controller import Controller, NoiseSpec
from wm_ros.contract.schema import Contract

CRITICS = 2
"""Twin critics: the smaller of the two values counts (section 5)."""
LAYER_NORM_EPSILON = 1e-5
"""Added to the variance."""


@dataclass(frozen=True)
class SacConfig:
    """The networks; how they are trained stands in `training.sac_learner.SacFitConfig`."""

    layers: int = 2
    """Hidden layers of the policy and of each critic."""
    width: int = 256
    """Units of each hidden layer."""
    log_std_low: float = -5.0
    """Lower bound of the policy's log standard deviation, before squashing, in half ranges of the action."""
    log_std_high: float = 2.0
    """Upper bound of it."""
    layer_norm: Literal["none", "critics", "all"] = "none"
    """Whose hidden layers are brought to mean 0 and deviation 1 over their units before they are rectified (Ba et al. 2016, arXiv
    1607.06450): in critics it keeps values of actions that nobody took from running away under many updates per transition (DroQ, Hiraoka
    et al. 2022, arXiv 2110.02034)."""
    normalize: bool = True
    """Networks see every observation column minus its mean, over its standard deviation, of the data so far; False: as it is."""

    def __post_init__(self) -> None:
        if self.layers < 1 or self.width < 1:
            raise ValueError(f"layers {self.layers} and width {self.width} must be at least 1")
        if self.layer_norm not in ("none", "critics", "all"):
            raise ValueError(f"layer_norm {self.layer_norm!r} must be none, critics or all")
        if not self.log_std_low < self.log_std_high:
            raise ValueError(f"log_std_low {self.log_std_low} must be below log_std_high {self.log_std_high}")


class Networks(nn.Module):
    """M networks of equal shape with rectified linear units, as batched tensors."""

    def __init__(self, members: int, inputs: int, config: SacConfig, outputs: int, layer_norm: bool) -> None:
        super().__init__()
        self.layer_norm = layer_norm
        sizes = [inputs, *[config.width] * config.layers, outputs]
        self.weights = nn.ParameterList(torch.zeros(members, o, i) for i, o in itertools.pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(members, o) for o in sizes[1:])

    def initialize(self, generator: torch.Generator) -> None:
        """Weights and biases uniform within 1 / sqrt(inputs), as a torch `Linear` begins."""
        with torch.no_grad():
            for weight, bias in zip(self.weights, self.biases, strict=True):
                bound = 1.0 / math.sqrt(weight.shape[-1])
                weight.uniform_(-bound, bound, generator=generator)
                bias.uniform_(-bound, bound, generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs `[B, I]`, the same for every network → outputs `[M, B, D]`."""
        hidden = inputs.expand(self.weights[0].shape[0], *inputs.shape)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias.unsqueeze(1), hidden, weight.transpose(1, 2))
            if i < last:
                if self.layer_norm:
                    hidden = nn.functional.layer_norm(hidden, hidden.shape[-1:], eps=LAYER_NORM_EPSILON)
                hidden = torch.relu(hidden)
        return hidden


class SacNetworks(nn.Module):
    """Policy, twin critics and observation normalizer. Inside, actions are in half ranges, [-1, 1]."""

    def __init__(self, contract: Contract, config: SacConfig) -> None:
        super().__init__()
        observations, actions = contract.observation_size, contract.action_size
        self.policy = Networks(1, observations, config, 2 * actions, config.layer_norm == "all")
        self.critics = critics(contract, config)
        self.log_std_range = (config.log_std_low, config.log_std_high)
        low, high = (torch.tensor([getattr(j, side) for j in contract.action.joints]) for side in ("low", "high"))
        self.register_buffer("action_middle", (low + high) / 2.0)
        self.register_buffer("action_half", (high - low) / 2.0)
        self.register_buffer("observation_mean", torch.zeros(observations))
        self.register_buffer("observation_rate", torch.ones(observations))
        """One over the standard deviation."""

    def normalized(self, observation: Tensor) -> Tensor:
        """Observations `[..., O]` as the networks see them."""
        return (observation - self.observation_mean) * self.observation_rate

    def gaussian(self, normalized: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation `[B, A]` before squashing, at normalized observations `[B, O]`."""
        mean, raw = self.policy(normalized)[0].chunk(2, dim=-1)
        return mean, bounded_log_std(raw, self.log_std_range)

    def value(self, normalized: Tensor, action: Tensor) -> Tensor:
        """The smaller of the critics' values `[B]` of actions `[B, A]` in half ranges."""
        values = self.critics(torch.cat([normalized, action], dim=-1))[..., 0]
        return torch.minimum(values[0], values[1])


def critics(contract: Contract, config: SacConfig) -> Networks:
    """Untrained twin critics."""
    return Networks(CRITICS, contract.observation_size + contract.action_size, config, 1, config.layer_norm != "none")


def bounded_log_std(raw: Tensor, bounds: tuple[float, float]) -> Tensor:
    """The policy's second output `[..., A]` as log standard deviation, smoothly between the bounds."""
    low, high = bounds
    return low + 0.5 * (high - low) * (torch.tanh(raw) + 1.0)


class SacController(Controller):
    """The policy as one pure function; its value is the twin critics' smaller one of the action it gives."""

    agent = "sac"

    def __init__(self, contract: Contract, config: SacConfig, explore: bool = False) -> None:
        """Args: contract, networks, and whether to draw from the policy's Gaussian (a noise input) or to take its mean."""
        super().__init__()
        self.config = {**asdict(config), "explore": explore}
        self.carry = {}
        self.noise = {"action": NoiseSpec((contract.action_size,))} if explore else {}
        self.networks = SacNetworks(contract, config)

    def forward(self, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor]) -> dict[str, Any]:
        normalized = self.networks.normalized(observation).unsqueeze(0)
        unsquashed, log_std = self.networks.gaussian(normalized)
        if self.noise:
            unsquashed = unsquashed + torch.exp(log_std) * noise["action"]
        action = torch.tanh(unsquashed)
        value = self.networks.value(normalized, action)[0]
        return {"action": self.networks.action_middle + self.networks.action_half * action[0], "value": value, "next": {}}
