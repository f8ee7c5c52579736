"""Layers of rectified linear units forward and backward by hand, with the fastest exact matrix product that the CPU has.

Where oneDNN is built in, its fused product is used: on CPUs for which MKL takes a narrow code path it is twice as fast in full float32.
Everything here runs without autograd.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch
from torch import Tensor

from wm_ros.agents.sac import LAYER_NORM_EPSILON, Networks

_ONEDNN = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")
_SMALL = 16
"""With a side below this MKL is the faster one."""


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None, rectify: bool = False) -> Tensor:
    """`inputs [B, I]` times `weight [D, I]` transposed, plus `bias [D]` → `[B, D]`; `rectify` sets what is below zero to zero."""
    if _ONEDNN and inputs.device.type == "cpu" and min(*inputs.shape, weight.shape[0]) >= _SMALL:
        # torch's own fused linear layer, as its compiler emits it.
        return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "relu" if rectify else "none", [], "")  # type: ignore[no-any-return]
    result = torch.nn.functional.linear(inputs, weight, bias)
    return result.relu_() if rectify else result


Layers = list[tuple[Tensor, Tensor]]
"""(weight `[D, I]`, bias `[D]`) of one network's layers, first to last."""


@dataclass(frozen=True)
class Dense:
    """One network."""

    layers: Layers
    """Views of the parameters, which stay true while those are changed in place."""
    layer_norm: bool = False
    """See `SacConfig.layer_norm`."""


@dataclass(frozen=True)
class Pass:
    """What a pass forward leaves for the way back."""

    values: list[Tensor]
    """Inputs `[B, I]` of every layer and, last, the outputs `[B, D]`."""
    norms: list[tuple[Tensor, Tensor, Tensor]]
    """Of each hidden layer before it was normalized, `[B, W]`, with mean and one over the deviation, `[B, 1]`; empty without layer norm."""

    @property
    def output(self) -> Tensor:
        """`[B, D]`."""
        return self.values[-1]

    def rows(self, start: int) -> Pass:
        """The rows from `start` on."""
        return Pass([v[start:] for v in self.values], [(a[start:], b[start:], c[start:]) for a, b, c in self.norms])


def network(networks: Networks, member: int) -> Dense:
    """One of the networks."""
    layers = [(weight[member], bias[member]) for weight, bias in zip(networks.weights, networks.biases, strict=True)]
    return Dense(layers, networks.layer_norm)


def forward(network: Dense, inputs: Tensor) -> Pass:
    """Inputs `[B, I]` through all layers."""
    values, norms = [inputs], []
    for weight, bias in network.layers[:-1]:
        hidden = linear(values[-1], weight, bias, rectify=not network.layer_norm)
        if network.layer_norm:
            scaled, mean, rate = torch.native_layer_norm(hidden, hidden.shape[1:], None, None, LAYER_NORM_EPSILON)
            norms.append((hidden, mean, rate))
            hidden = scaled.relu_()
        values.append(hidden)
    values.append(linear(values[-1], *network.layers[-1]))
    return Pass(values, norms)


def weight_gradients(network: Dense, seen: Pass, gradient: Tensor) -> Layers:
    """Gradients of weights and biases.

    Args:
        network: as it was in `forward`.
        seen: of `forward`.
        gradient: `[B, D]`, with respect to the outputs.
    """
    found = []
    for i in reversed(range(len(network.layers))):
        found.append((linear(gradient.t(), seen.values[i].t()), gradient.sum(0)))
        if i:
            gradient = _through(network, i, seen, gradient)
    return found[::-1]


def input_gradient(network: Dense, seen: Pass, gradient: Tensor, columns: int) -> Tensor:
    """Gradient `[B, columns]` of the last input columns; arguments as those of `weight_gradients`."""
    for i in reversed(range(1, len(network.layers))):
        gradient = _through(network, i, seen, gradient)
    # Contiguous: oneDNN falls back to a slow reference product for other strides.
    return linear(gradient, network.layers[0][0][:, -columns:].t().contiguous())


def _through(network: Dense, layer: int, seen: Pass, gradient: Tensor) -> Tensor:
    """From the outputs of a layer to those of the one before it, whose units were rectified, before normalization."""
    through: Tensor = torch.ops.aten.threshold_backward(linear(gradient, network.layers[layer][0].t()), seen.values[layer], 0.0)
    if not network.layer_norm:
        return through
    hidden, mean, rate = seen.norms[layer - 1]
    wanted = [True, False, False]
    return torch.ops.aten.native_layer_norm_backward(through, hidden, hidden.shape[1:], mean, rate, None, None, wanted)[0]  # type: ignore[no-any-return]
