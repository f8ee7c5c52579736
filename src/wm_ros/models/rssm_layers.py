"""Layers of the Dreamer family: normalized dense layers, and recurrent cells that are dense or in blocks."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["rms", "layer", "none"]
Activation = Literal["silu", "elu"]
NORM_EPSILON = 1e-4
_ACTIVATIONS = {"silu": nn.functional.silu, "elu": nn.functional.elu}


class RmsNorm(nn.Module):
    """x / sqrt(mean(x²)) times a weight per column (Zhang and Sennrich 2019)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, value: Tensor) -> Tensor:
        return nn.functional.rms_norm(value, self.weight.shape, self.weight, NORM_EPSILON)


def normalization(kind: Norm, size: int) -> nn.Module:
    """The layer of this kind over the last dimension."""
    if kind == "rms":
        return RmsNorm(size)
    return nn.LayerNorm(size, NORM_EPSILON) if kind == "layer" else nn.Identity()


class Normed(nn.Module):
    """Normalization, then activation: what follows every hidden product."""

    def __init__(self, size: int, norm: Norm, activation: Activation) -> None:
        super().__init__()
        self.norm = normalization(norm, size)
        self.activation = _ACTIVATIONS[activation]
        self.is_rms_silu = (norm, activation) == ("rms", "silu")

    @property
    def scale(self) -> Tensor:
        """The norm's weight `[size]`."""
        assert isinstance(self.norm, RmsNorm | nn.LayerNorm)
        return self.norm.weight

    def forward(self, value: Tensor) -> Tensor:
        return self.activation(self.norm(value))


class Mlp(nn.Module):
    """Hidden layers of equal width and a linear output."""

    def __init__(
        self, inputs: int, width: int, layers: int, outputs: int, norm: Norm, activation: Activation, output_scale: float = 1.0
    ) -> None:
        """Args: sizes, and what the output's first weights are multiplied by; 0 begins with an output of zero everywhere."""
        super().__init__()
        sizes = [inputs, *[width] * layers]
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(sizes))
        self.after = nn.ModuleList(Normed(width, norm, activation) for _ in range(layers))
        self.output = nn.Linear(sizes[-1], outputs) if outputs else None
        self.output_scale = output_scale

    def forward(self, value: Tensor) -> Tensor:
        """`[..., I]` → `[..., outputs]`; without outputs the last hidden layer."""
        for linear, after in zip(self.hidden, self.after, strict=True):
            value = after(linear(value))
        return value if self.output is None else self.output(value)


class MemberLinear(nn.Module):
    """M linear layers side by side."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, value: Tensor) -> Tensor:
        """`[N, I]`, the same for all, or `[M, N, I]` → `[M, N, outputs]`."""
        return torch.baddbmm(self.bias, value.expand(len(self.weight), *value.shape[-2:]), self.weight)


@dataclass(frozen=True, eq=False)
class BlockParts:
    """Products within a step of `BlockGru`, before what follows each."""

    from_deter: Tensor
    """[..., B, hidden]."""
    from_stoch: Tensor
    """[..., B, hidden]."""
    mixed: Tensor
    """[..., B, D]."""
    gates: Tensor
    """[..., blocks, B, 3 D / blocks]."""


class BlockGru(nn.Module):
    """The cell of DreamerV3: inputs see all of the state, its recurrent weights are block-diagonal."""

    def __init__(self, stoch: int, actions: int, deter: int, hidden: int, blocks: int, norm: Norm, activation: Activation) -> None:
        super().__init__()
        self.blocks, each = blocks, deter // blocks
        self.deter_in, self.stoch_in, self.action_in = nn.Linear(deter, hidden), nn.Linear(stoch, hidden), nn.Linear(actions, hidden)
        self.after_deter, self.after_stoch, self.after_action = (Normed(hidden, norm, activation) for _ in range(3))
        # The input of every block is its own part of the state and all of the three inputs; the latter is one plain product.
        self.mixed = nn.Linear(3 * hidden, deter)
        self.own = nn.Parameter(torch.zeros(blocks, each, each))
        self.after_mixed = Normed(deter, norm, activation)
        self.gates = nn.Parameter(torch.zeros(blocks, each, 3 * each))
        self.gate_bias = nn.Parameter(torch.zeros(blocks, 1, 3 * each))

    def action_part(self, action: Tensor) -> Tensor:
        """What the actions `[..., A]` contribute `[..., hidden]`; known actions are taken in one batch, ahead of the recurrence."""
        return self.after_action(self.action_in(action))

    def forward(self, deter: Tensor, stoch: Tensor, action_part: Tensor) -> Tensor:
        """State `[B, D]`, latent `[B, S]` and `action_part` `[B, hidden]` → the next state `[B, D]`."""
        return self.step(deter, stoch, action_part)[0]

    def step(self, deter: Tensor, stoch: Tensor, action_part: Tensor) -> tuple[Tensor, BlockParts]:
        """The same, and what it was made from."""
        rows, size = deter.shape
        by_deter, by_stoch = self.deter_in(deter), self.stoch_in(stoch)
        inputs = torch.cat([self.after_deter(by_deter), self.after_stoch(by_stoch), action_part], dim=-1)
        grouped = deter.view(rows, self.blocks, -1).transpose(0, 1)
        own = torch.bmm(grouped, self.own).transpose(0, 1).reshape(rows, size)
        mixed = self.mixed(inputs) + own
        gates = torch.baddbmm(self.gate_bias, self.after_mixed(mixed).view(rows, self.blocks, -1).transpose(0, 1), self.gates)
        after = gated(gates, grouped).transpose(0, 1).reshape(rows, size)
        return after, BlockParts(by_deter, by_stoch, mixed, gates)


class DenseGru(nn.Module):
    """The cell of DreamerV1 (no norm) and V2 (layer norm): one hidden layer of latent and action, then a gated recurrent unit."""

    def __init__(self, stoch: int, actions: int, deter: int, hidden: int, norm: Norm, activation: Activation) -> None:
        super().__init__()
        self.stoch_in, self.action_in = nn.Linear(stoch, hidden), nn.Linear(actions, hidden, bias=False)
        self.after_input = Normed(hidden, "none", activation)
        self.gates = nn.Linear(hidden + deter, 3 * deter)
        self.after_gates = normalization(norm, 3 * deter)

    def action_part(self, action: Tensor) -> Tensor:
        """What the actions `[..., A]` contribute `[..., hidden]`."""
        return self.action_in(action)

    def forward(self, deter: Tensor, stoch: Tensor, action_part: Tensor) -> Tensor:
        """State `[B, D]`, latent `[B, S]` and `action_part` `[B, hidden]` → the next state `[B, D]`."""
        hidden = self.after_input(self.stoch_in(stoch) + action_part)
        return gated(self.after_gates(self.gates(torch.cat([hidden, deter], dim=-1))), deter)


def gated(gates: Tensor, deter: Tensor) -> Tensor:
    """The new state from gates `[..., 3D]` and the old one `[..., D]`; the update gate begins mostly closed, as in DreamerV2."""
    # Unbound, not cut: the gradient of every cut would be a tensor of all three.
    reset, candidate, update = gates.unflatten(-1, (3, -1)).unbind(-2)
    # The hyperbolic tangent by way of the sigmoid, which is nine times as fast in torch on AVX-512.
    candidate = 2.0 * torch.sigmoid(2.0 * torch.sigmoid(reset) * candidate) - 1.0
    return deter + torch.sigmoid(update - 1.0) * (candidate - deter)


def initialize(module: nn.Module, generator: torch.Generator) -> None:
    """Draws all weights below a module: normal, cut at two deviations, with variance 1 / inputs; biases begin at zero."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear):
                _draw(part.weight, part.in_features, generator)
                if part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                # A place of a transposed convolution is reached by the share of its kernel that its stride leaves.
                share = part.stride[0] * part.stride[1] if isinstance(part, nn.ConvTranspose2d) else 1
                _draw(part.weight, part.in_channels * part.kernel_size[0] * part.kernel_size[1] // share, generator)
                part.bias.zero_()
            elif isinstance(part, MemberLinear):
                _draw(part.weight, part.weight.shape[1], generator)
            elif isinstance(part, BlockGru):
                for weight in (part.own, part.gates):
                    _draw(weight, weight.shape[1], generator)
        for part in module.modules():
            if isinstance(part, Mlp) and part.output is not None:
                part.output.weight.mul_(part.output_scale)


def _draw(weight: Tensor, inputs: int, generator: torch.Generator) -> None:
    # A normal cut at two deviations has 0.88 of the deviation.
    deviation = 1.0 / math.sqrt(inputs) / 0.87962566
    nn.init.trunc_normal_(weight, 0.0, deviation, -2.0 * deviation, 2.0 * deviation, generator=generator)
