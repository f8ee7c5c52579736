"""M independent multilayer perceptrons as batched tensors: what every network here is made of."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from typing_extensions import Self


class MemberMLP(nn.Module):
    """M networks with SiLU units, `[..., M, B, I] → [..., M, B, D]`; never a loop over members."""

    def __init__(self, members: int, inputs: int, layers: int, width: int, outputs: int) -> None:
        """Args: M, I, hidden layers, units of each, D."""
        super().__init__()
        self.members = members
        sizes = [inputs, *[width] * layers, outputs]
        self.weights = nn.ParameterList(torch.empty(members, i, o) for i, o in itertools.pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(members, 1, o) for o in sizes[1:])

    def initialize(self, generator: torch.Generator) -> None:
        """Truncated normal weights with standard deviation 1 / (2 sqrt(inputs)) and zero biases, as PETS does."""
        with torch.no_grad():
            for weight, bias in zip(self.weights, self.biases, strict=True):
                std = 1.0 / (2.0 * math.sqrt(weight.shape[1]))
                nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)
                bias.zero_()

    def raw(self, inputs: Tensor) -> Tensor:
        """The last layer's values `[..., M, B, D]` for `inputs [..., M, B, I]`."""
        hidden = inputs
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.matmul(hidden, weight) + bias
            if i < last:
                hidden = nn.functional.silu(hidden)
        return hidden

    def members_from(self, other: Self, chosen: list[int]) -> None:
        """Copies the `chosen` members of `other` into this network, in that order, and what all members share."""
        if len(chosen) != self.members:
            raise ValueError(f"{len(chosen)} members chosen for an ensemble of {self.members}")
        with torch.no_grad():
            for (name, mine), theirs in zip(self.named_parameters(), other.parameters(), strict=True):
                mine.copy_(theirs[chosen] if name.startswith(("weights.", "biases.")) else theirs)
            for shared, of_other in zip(self.buffers(), other.buffers(), strict=True):
                shared.copy_(of_other)
