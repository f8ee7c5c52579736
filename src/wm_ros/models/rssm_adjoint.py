"""The gradient through the recurrence of DreamerV3, along data or imagination, by hand.

Left to autograd, every step has its own gradients of all weights, and some hundred nodes. Here all steps are walked without gradients, and
backwards only what goes from step to step is done one by one. Along data (`chained`) all steps are then taken once more in one batch, which
gives the weights their gradients: half the time of an update's world model at 8 x 32 rows. In imagination (`imagined`) the actions alone
have gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wm_ros.models.products import products_of
from wm_ros.models.rssm_latent import CategoricalLatent
from wm_ros.models.rssm_layers import NORM_EPSILON, BlockGru, BlockParts, Normed


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


class CellBack:
    """The way back through steps of the cell; made without gradients."""

    def __init__(self, cell: BlockGru, before: Tensor, parts: BlockParts) -> None:
        """
        Args:
            cell: the recurrence.
            before: [L, B, D], the deterministic part before each step, zero where an episode begins.
            parts: [L, B, ...], of the cell's steps.
        """
        self._blocks, self._hidden = cell.blocks, cell.deter_in.out_features
        self._into_state, self.into_action = cell.mixed.weight.split((2 * self._hidden, self._hidden), dim=1)
        self._deter_in, self._stoch_in = cell.deter_in.weight, cell.stoch_in.weight
        self._into_gates, self._own = cell.gates.transpose(1, 2), cell.own.transpose(1, 2)
        scales = torch.stack([cell.after_deter.scale, cell.after_stoch.scale])
        self._after_inputs = Slope(torch.stack([parts.from_deter, parts.from_stoch], dim=-2), scales)
        self._after_mixed = Slope(parts.mixed, cell.after_mixed.scale)
        # new = deter + u (c - deter) with c = tanh(r k), r and u sigmoids.
        reset, k, update = parts.gates.unflatten(-1, (3, -1)).unbind(-2)
        r, u = torch.sigmoid(reset), torch.sigmoid(update - 1.0)
        c = 2.0 * torch.sigmoid(2.0 * r * k) - 1.0  # the hyperbolic tangent, as in `rssm_layers.gated`
        inner = u * (1.0 - c.square())
        old = before.unflatten(-1, (self._blocks, -1)).transpose(-2, -3)
        self._gates = torch.stack([inner * k * r * (1.0 - r), inner * r, (c - old) * u * (1.0 - u)], dim=-2)
        self._old = 1.0 - u.transpose(-2, -3).flatten(-2)

    def mixed(self, t: int, deter: Tensor) -> Tensor:
        """Gradients of step t, by its deterministic part `[B, D]` → by the mixed inputs of its blocks `[B, D]`."""
        grouped = deter.view(len(deter), self._blocks, 1, -1).transpose(0, 1)
        inputs = torch.bmm((grouped * self._gates[t]).flatten(-2), self._into_gates)
        return self._after_mixed.back(t, inputs.transpose(0, 1).reshape(deter.shape))

    def before(self, t: int, deter: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients by both of these → by the deterministic part `[B, D]` and the sample `[B, S]` before step t."""
        rows = len(deter)
        past = torch.bmm(mixed.view(rows, self._blocks, -1).transpose(0, 1), self._own).transpose(0, 1).reshape(deter.shape)
        by_deter, by_stoch = self._after_inputs.back(t, (mixed @ self._into_state).view(rows, 2, self._hidden)).unbind(1)
        return torch.addcmul(torch.addmm(past, by_deter, self._deter_in), deter, self._old[t]), by_stoch @ self._stoch_in


class LatentBack:
    """The way back from samples to the deterministic part whose distributions they are drawn from; made without gradients."""

    def __init__(self, latent: CategoricalLatent, raw: Tensor, output: Tensor, layers: Sequence[tuple[Slope, Tensor]]) -> None:
        """
        Args:
            latent: the stochastic part.
            raw: [L, B, P], its logits.
            output: [P, hidden], weights of the layer that gives them.
            layers: of each layer before it the slope behind the product and the product's weights, the first layer first.
        """
        self._output, self._layers = output, layers[::-1]
        self._unmixed = 1.0 - latent.unimix
        self._plain = (latent.probabilities(raw) - latent.unimix / latent.classes) / self._unmixed

    def raw(self, t: int, gradient: Tensor) -> Tensor:
        """Gradients of step t, by the sample `[B, S]` → by the logits `[B, P]`: as if the sample were the probabilities."""
        plain = self._plain[t]
        pull = plain * gradient.view_as(plain)
        return torch.addcmul(pull, plain, pull.sum(-1, keepdim=True), value=-1.0).flatten(1) * self._unmixed

    def deter(self, t: int, raw: Tensor, deter: Tensor) -> Tensor:
        """Gradients of step t, by the logits `[B, P]`, and otherwise by the deterministic part `[B, D]` → by that in all."""
        *behind, (first, weight) = self._layers
        gradient = raw @ self._output
        for slope, product in behind:
            gradient = slope.back(t, gradient) @ product
        return torch.addmm(deter, first.back(t, gradient), weight)


class Adjoint:
    """All that the way back through a stretch of L steps of data and B rows needs."""

    def __init__(self, cell: CellBack, latent: LatentBack, first: Tensor) -> None:
        """Args: the two parts of a step, and where `[L, B]` bool nothing from before counts."""
        self._cell, self._latent = cell, latent
        self._begins, self._keep = first.any(1).tolist(), (~first).float().unsqueeze(-1)

    def back(self, to_deter: Tensor, to_stoch: Tensor, to_raw: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients `[L, B, ...]` by what is behind the stretch → by all: of each deterministic part and of each posterior."""
        with products_of(to_deter.shape[1]):
            return self._back(to_deter, to_stoch, to_raw)

    def _back(self, to_deter: Tensor, to_stoch: Tensor, to_raw: Tensor) -> tuple[Tensor, Tensor]:
        deters, raws = torch.empty_like(to_deter), torch.empty_like(to_raw)
        deter, stoch = torch.zeros_like(to_deter[0]), torch.zeros_like(to_stoch[0])
        for t in range(len(to_deter) - 1, -1, -1):
            raw = raws[t] = to_raw[t] + self._latent.raw(t, stoch + to_stoch[t])
            deter = deters[t] = self._latent.deter(t, raw, deter + to_deter[t])
            if t == 0:
                break
            deter, stoch = self._cell.before(t, deter, self._cell.mixed(t, deter))
            if self._begins[t]:
                deter, stoch = deter * self._keep[t], stoch * self._keep[t]
        return deters, raws


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


class _Imagined(torch.autograd.Function):
    """States that were imagined, with their gradient by the actions' parts of the cell's inputs."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, deter: Tensor, stoch: Tensor, cell: CellBack, latent: LatentBack) -> tuple[Tensor, Tensor]:
        ctx.cell, ctx.latent = cell, latent
        return deter, stoch

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_deter: Tensor, to_stoch: Tensor) -> tuple[Tensor, None, None, None, None]:
        cell, latent = ctx.cell, ctx.latent
        mixed = torch.empty_like(to_deter)
        deter, stoch = torch.zeros_like(to_deter[0]), torch.zeros_like(to_stoch[0])
        with products_of(to_deter.shape[1]):
            for t in range(len(to_deter) - 1, -1, -1):
                deter = latent.deter(t, latent.raw(t, stoch + to_stoch[t]), deter + to_deter[t])
                mixed[t] = cell.mixed(t, deter)
                if t:
                    deter, stoch = cell.before(t, deter, mixed[t])
        return mixed @ cell.into_action, None, None, None, None


def imagined(parts: Tensor, deter: Tensor, stoch: Tensor, cell: CellBack, latent: LatentBack) -> tuple[Tensor, Tensor]:
    """Deterministic parts and samples that were walked, `[H, N, ...]`, with gradients by the actions alone.

    Args:
        parts: [H, N, hidden], of the actions, with the gradients of these.
        deter: [H, N, D], without gradients, behind each action.
        stoch: [H, N, S], likewise.
        cell: the way back through the recurrence.
        latent: the way back from the samples.
    """
    found: tuple[Tensor, Tensor] = _Imagined.apply(parts, deter, stoch, cell, latent)
    return found


def applies(cell: nn.Module, latent: object, after_first: Normed) -> bool:
    """Whether the gradient is known by hand: that of V3's parts is."""
    return isinstance(cell, BlockGru) and isinstance(latent, CategoricalLatent) and after_first.is_rms_silu
