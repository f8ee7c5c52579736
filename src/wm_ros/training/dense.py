"""Layers of rectified linear units forward and backward by hand, with the fastest exact matrix product that the CPU has.

Where oneDNN is built in, its fused product is used: on CPUs for which MKL takes a narrow code path it is twice as fast in full float32.
Everything here runs without autograd.
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor

from wm_ros.agents.sac import Networks

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


def layers(networks: Networks, member: int) -> Layers:
    """One of the networks; its tensors are views, which stay true while the parameters are changed in place."""
    return [(weight[member], bias[member]) for weight, bias in zip(networks.weights, networks.biases, strict=True)]


def forward(network: Layers, inputs: Tensor) -> list[Tensor]:
    """Inputs `[B, I]` of every layer and, last, the outputs `[B, D]`."""
    values = [inputs]
    for weight, bias in network[:-1]:
        values.append(linear(values[-1], weight, bias, rectify=True))
    values.append(linear(values[-1], *network[-1]))
    return values


def weight_gradients(network: Layers, values: list[Tensor], gradient: Tensor) -> Layers:
    """Gradients of weights and biases.

    Args:
        network: as it was in `forward`.
        values: of `forward`.
        gradient: `[B, D]`, with respect to the outputs.
    """
    found = []
    for i in reversed(range(len(network))):
        found.append((linear(gradient.t(), values[i].t()), gradient.sum(0)))
        if i:
            gradient = _through(network, i, values, gradient)
    return found[::-1]


def input_gradient(network: Layers, values: list[Tensor], gradient: Tensor, columns: int) -> Tensor:
    """Gradient `[B, columns]` of the last input columns; arguments as those of `weight_gradients`."""
    for i in reversed(range(1, len(network))):
        gradient = _through(network, i, values, gradient)
    # Contiguous: oneDNN falls back to a slow reference product for other strides.
    return linear(gradient, network[0][0][:, -columns:].t().contiguous())


def _through(network: Layers, layer: int, values: list[Tensor], gradient: Tensor) -> Tensor:
    """From the outputs of a layer to those of the one before it, whose units were rectified."""
    return torch.ops.aten.threshold_backward(linear(gradient, network[layer][0].t()), values[layer], 0.0)  # type: ignore[no-any-return]
