"""Adam and LaProp over all parameters of a module as one flat tensor, with clipping by norm or per tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

_FIRST, _SECOND = 0.9, 0.999
_SMALLEST_NORM = 1e-3
"""A tensor with a smaller norm than this is clipped as if it had this one."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How gradients become steps; the defaults are DreamerV3's (arXiv 2301.04104, table of hyperparameters)."""

    kind: Literal["laprop", "adam"] = "laprop"
    """LaProp (Ziyin et al. 2020, arXiv 2002.04839) divides by the running root mean square before it averages, Adam after."""
    epsilon: float = 1e-20
    """Added to the root mean square."""
    adaptive_clip: float = 0.3
    """Largest norm of a tensor's gradient, as a share of the tensor's own (Brock et al. 2021, arXiv 2102.06171); 0: none."""
    norm_clip: float = 0.0
    """Largest norm of all gradients together; 0: none."""
    weight_decay: float = 0.0
    """Share of each parameter that a step takes away, times the learning rate."""
    warm_up: int = 1000
    """Steps over which the learning rate grows to its own."""

    def __post_init__(self) -> None:
        if min(self.adaptive_clip, self.norm_clip, self.weight_decay, self.warm_up) < 0 or self.epsilon <= 0.0:
            raise ValueError("adaptive_clip, norm_clip, weight_decay and warm_up must not be negative, epsilon must be positive")


def flatten(parameters: list[nn.Parameter]) -> Tensor:
    """Moves the parameters into one tensor, one behind the other; they become views of it."""
    values = torch.cat([p.detach().reshape(-1) for p in parameters])
    start = 0
    for parameter in parameters:
        parameter.data = values[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return values


class FlatOptimizer:
    """Moves the parameters into one tensor, of which the module keeps views."""

    def __init__(self, parameters: list[nn.Parameter], learning_rate: float, config: OptimizerConfig) -> None:
        self.parameters, self.config, self._rate = parameters, config, learning_rate
        self.values = flatten(parameters)
        self._mean, self._square = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.steps = 0

    def step(self, gradients: list[Tensor]) -> None:
        """One step; the gradients come in the parameters' order, and are clipped in place."""
        config = self.config
        if config.adaptive_clip:
            allowed = torch.stack(torch._foreach_norm([p.data for p in self.parameters])).clamp(min=_SMALLEST_NORM) * config.adaptive_clip
            shares = (allowed / torch.stack(torch._foreach_norm(gradients)).clamp(min=1e-30)).clamp(max=1.0)
            torch._foreach_mul_(gradients, list(shares.unbind()))
        gradient = torch.cat([g.reshape(-1) for g in gradients])
        if config.norm_clip:
            gradient *= (config.norm_clip / gradient.norm().clamp(min=1e-30)).clamp(max=1.0)
        self.steps += 1
        rate = self._rate * min(1.0, self.steps / config.warm_up) if config.warm_up else self._rate
        self._square.lerp_(gradient.square(), 1.0 - _SECOND)
        root = (self._square / (1.0 - _SECOND**self.steps)).sqrt_().add_(config.epsilon)
        if config.kind == "laprop":
            self._mean.lerp_(gradient.div_(root), 1.0 - _FIRST)
            move = self._mean
        else:
            self._mean.lerp_(gradient, 1.0 - _FIRST)
            move = self._mean / root
        if config.weight_decay:
            self.values.mul_(1.0 - rate * config.weight_decay)
        self.values.add_(move, alpha=-rate / (1.0 - _FIRST**self.steps))

    def state(self) -> dict[str, Tensor]:
        """All that `step` changes."""
        return {
            "values": self.values.clone(),
            "mean": self._mean.clone(),
            "square": self._square.clone(),
            "steps": torch.tensor([self.steps], dtype=torch.int64),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state` gave.

        Raises:
            KeyError: something is missing.
            RuntimeError: sizes differ.
        """
        for name, tensor in (("values", self.values), ("mean", self._mean), ("square", self._square)):
            tensor.copy_(state[name])
        self.steps = int(state["steps"][0])
