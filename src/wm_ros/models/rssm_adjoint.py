"""The gradient of a stretch of data through the recurrence of DreamerV3, by hand.

Left to autograd, every step has its own gradients of all weights, and some hundred nodes. Here a stretch is walked without gradients; then
all steps are taken once more in one batch, from the states that were found; and backwards only what goes from step to step is done one by
one (`_Chain`). Half the time of an update's world model at 8 x 32 rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wm_ros.models.products import products_of
from wm_ros.models.rssm_latent import CategoricalLatent
from wm_ros.models.rssm_layers import NORM_EPSILON, BlockGru, BlockParts, Normed


@dataclass(frozen=True, eq=False)
class Weights:
    """What a gradient passes between two steps, each `[outputs, inputs]` or, in blocks, `[blocks, inputs, outputs]`."""

    posterior: Tensor
    from_deter: Tensor
    gates: Tensor
    mixed: Tensor
    own: Tensor
    deter_in: Tensor
    stoch_in: Tensor


class Slope:
    """The derivative of root mean square norm and SiLU at values `[L, ..., n]`."""

    def __init__(self, value: Tensor, weight: Tensor) -> None:
        root = torch.rsqrt(value.square().mean(-1, keepdim=True) + NORM_EPSILON)
        self._unit = value * root
        scaled = self._unit * weight
        share = torch.sigmoid(scaled)
        self._scale = share * (1.0 + scaled * (1.0 - share)) * weight * root
        self._each = -1.0 / value.shape[-1]

    def back(self, t: int, gradient: Tensor) -> Tensor:
        """Gradients `[..., n]` of step t, of what comes out → of what goes in."""
        straight, unit = gradient * self._scale[t], self._unit[t]
        return torch.addcmul(straight, unit, (straight * unit).sum(-1, keepdim=True), value=self._each)


class Adjoint:
    """All that the way back through a stretch of L steps and B rows needs."""

    def __init__(
        self,
        cell: BlockGru,
        after_first: Normed,
        weights: Weights,
        latent: CategoricalLatent,
        first: Tensor,
        before: Tensor,
        parts: BlockParts,
        hidden: Tensor,
        raw: Tensor,
    ) -> None:
        """
        Args:
            cell: the recurrence.
            after_first: between the posterior's first product and its second.
            weights: of the cell and the posterior.
            latent: the stochastic part.
            first: [L, B] bool, where nothing from before counts.
            before: [L, B, D], the deterministic part before each step, zero where an episode begins.
            parts: [L, B, ...], of the cell.
            hidden: [L, B, hidden], the posterior's first product.
            raw: [L, B, P], the posterior.
        """
        self._weights, self._blocks = weights, cell.blocks
        self._latent, self._unmixed = latent, (1.0 - latent.unimix)
        self._begins, self._keep = first.any(1).tolist(), (~first).to(raw.dtype).unsqueeze(-1)
        self._plain = (latent.probabilities(raw) - latent.unimix / latent.classes) / self._unmixed
        self._after_first = Slope(hidden, after_first.scale)
        scales = torch.stack([cell.after_deter.scale, cell.after_stoch.scale])
        self._after_inputs = Slope(torch.stack([parts.from_deter, parts.from_stoch], dim=-2), scales)
        self._after_mixed = Slope(parts.mixed, cell.after_mixed.scale)
        # new = deter + u (c - deter) with c = tanh(r k), r and u sigmoids.
        reset, k, update = parts.gates.unflatten(-1, (3, -1)).unbind(-2)
        r, u = torch.sigmoid(reset), torch.sigmoid(update - 1.0)
        c = torch.tanh(r * k)
        inner = u * (1.0 - c.square())
        old = before.unflatten(-1, (self._blocks, -1)).transpose(-2, -3)
        self._gates = torch.stack([inner * k * r * (1.0 - r), inner * r, (c - old) * u * (1.0 - u)], dim=-2)
        self._old = 1.0 - u.transpose(-2, -3).flatten(-2)

    def back(self, to_deter: Tensor, to_stoch: Tensor, to_raw: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients `[L, B, ...]` by what is behind the stretch → by all: of each deterministic part and of each posterior."""
        with products_of(to_deter.shape[1]):
            return self._back(to_deter, to_stoch, to_raw)

    def _back(self, to_deter: Tensor, to_stoch: Tensor, to_raw: Tensor) -> tuple[Tensor, Tensor]:
        weights, (rows, size) = self._weights, to_deter.shape[1:]
        hidden = weights.deter_in.shape[0]
        into_mixed = weights.mixed[:, : 2 * hidden]
        gates, own = weights.gates.transpose(1, 2), weights.own.transpose(1, 2)
        deters, raws = torch.empty_like(to_deter), torch.empty_like(to_raw)
        deter, stoch = torch.zeros_like(to_deter[0]), torch.zeros_like(to_stoch[0])
        for t in range(len(to_deter) - 1, -1, -1):
            raw = raws[t] = to_raw[t] + self._through_sample(t, stoch + to_stoch[t])
            seen = self._after_first.back(t, raw @ weights.posterior)
            deter = deters[t] = torch.addmm(deter + to_deter[t], seen, weights.from_deter)
            if t == 0:
                break
            grouped = deter.view(rows, self._blocks, 1, -1).transpose(0, 1)
            mixed = torch.bmm((grouped * self._gates[t]).flatten(-2), gates).transpose(0, 1).reshape(rows, size)
            mixed = self._after_mixed.back(t, mixed)
            past = torch.bmm(mixed.view(rows, self._blocks, -1).transpose(0, 1), own).transpose(0, 1).reshape(rows, size)
            by_deter, by_stoch = self._after_inputs.back(t, (mixed @ into_mixed).view(rows, 2, hidden)).unbind(1)
            deter = torch.addcmul(torch.addmm(past, by_deter, weights.deter_in), deter, self._old[t])
            stoch = by_stoch @ weights.stoch_in
            if self._begins[t]:
                deter, stoch = deter * self._keep[t], stoch * self._keep[t]
        return deters, raws

    def _through_sample(self, t: int, gradient: Tensor) -> Tensor:
        """As if the sample were the probabilities."""
        plain = self._plain[t]
        pull = plain * gradient.view_as(plain)
        return torch.addcmul(pull, plain, pull.sum(-1, keepdim=True), value=-1.0).flatten(1) * self._unmixed


Walked = tuple[Tensor, Tensor, Tensor]
"""Deterministic parts, samples and posteriors `[L, B, ...]`."""


class _Chain(torch.autograd.Function):
    """What was walked, with the gradient of all steps that follow."""

    @staticmethod
    def forward(ctx: Any, deter: Tensor, raw: Tensor, walked: Walked, adjoint: Adjoint) -> Walked:
        ctx.adjoint = adjoint
        return walked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_deter: Tensor, to_stoch: Tensor, to_raw: Tensor) -> tuple[Tensor, Tensor, None, None]:
        return *ctx.adjoint.back(to_deter, to_stoch, to_raw), None, None


def chained(deter: Tensor, raw: Tensor, walked: Walked, adjoint: Adjoint) -> Walked:
    """Deterministic parts, samples and posteriors that were walked, `[L, B, ...]`, with gradients.

    Args:
        deter: [L, B, D], of each step from the states before it, with the gradients of that step alone.
        raw: [L, B, P], posteriors, likewise.
        walked: without gradients.
        adjoint: what connects the steps.
    """
    found: Walked = _Chain.apply(deter, raw, walked, adjoint)
    return found


def applies(cell: nn.Module, latent: object, after_first: Normed, posterior_layers: int) -> bool:
    """Whether the gradient is known by hand: that of V3's parts is."""
    return isinstance(cell, BlockGru) and isinstance(latent, CategoricalLatent) and after_first.is_rms_silu and posterior_layers == 1
