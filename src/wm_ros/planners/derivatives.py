"""First and second derivatives of single model steps, by automatic differentiation or by central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wm_ros.models.world_model import WorldModel

StepFunction = Callable[[Tensor], tuple[Tensor, Tensor]]
"""State and action in one vector z `[B, D]` → next state `[B, O]`, reward `[B]`; each row by itself."""


class Derivatives(NamedTuple):
    """Of a step at B points z of dimension D = O + A."""

    jacobian: Tensor
    """Of the next state `[B, O, D]`."""
    gradient: Tensor
    """Of the reward `[B, D]`."""
    hessian: Tensor
    """Of the reward `[B, D, D]`, symmetric."""


def differentiable(model: WorldModel) -> bool:
    """Whether torch can differentiate the model; true unless it says `differentiable = False`, as a simulator does."""
    return bool(getattr(model, "differentiable", True))


def hessian(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Second derivatives `[B, D, D]` of a function `[B, D]` → `[B]` whose rows do not meet.

    One backward pass for all rows of all Hessians: row d of each is the gradient of the d-th component of the gradient, taken at a copy of
    the points.
    """
    rows, size = z.shape
    slope, pick = torch.func.grad(lambda points: function(points).sum()), torch.eye(size, dtype=z.dtype, device=z.device)
    copies = z.repeat(size, 1)
    result = torch.func.grad(lambda points: (slope(points).unflatten(0, (size, rows)) * pick.unsqueeze(1)).sum())(copies)
    return _symmetric(result.unflatten(0, (size, rows)).transpose(0, 1))


def by_autodiff(step: StepFunction, z: Tensor) -> Derivatives:
    """Exact derivatives at `z [B, D]`."""
    rows, size = z.shape[0], z.shape[1]
    gradient = torch.func.grad(lambda points: step(points)[1].sum())(z)
    outputs = step(z)[0].shape[1]
    pick = torch.eye(outputs, dtype=z.dtype, device=z.device)
    jacobian = torch.func.grad(lambda points: (step(points)[0].unflatten(0, (outputs, rows)) * pick.unsqueeze(1)).sum())
    return Derivatives(
        jacobian(z.repeat(outputs, 1)).reshape(outputs, rows, size).transpose(0, 1),
        gradient,
        hessian(lambda points: step(points)[1], z),
    )


def by_differences(step: StepFunction, z: Tensor, distance: float) -> Derivatives:
    """Central differences at `z [B, D]`, all in one call of `step`; errors are of order `distance` squared."""
    size = z.shape[1]
    unit = distance * torch.eye(size, dtype=z.dtype, device=z.device)
    first, second = torch.triu_indices(size, size)
    one, other = unit[first], unit[second]
    offsets = torch.cat([unit, -unit, one + other, one - other, other - one, -one - other])
    state, reward = step((z + offsets.unsqueeze(1)).flatten(0, 1))
    state, reward = state.unflatten(0, (-1, z.shape[0])), reward.unflatten(0, (-1, z.shape[0]))
    up, down = slice(0, size), slice(size, 2 * size)
    plus, mixed, mirrored, minus = reward[2 * size :].chunk(4)
    upper = torch.zeros(size, size, z.shape[0], dtype=z.dtype, device=z.device)
    upper[first, second] = (plus - mixed - mirrored + minus) / (4.0 * distance**2)
    upper[second, first] = upper[first, second]
    return Derivatives(
        ((state[up] - state[down]) / (2.0 * distance)).permute(1, 2, 0),
        ((reward[up] - reward[down]) / (2.0 * distance)).T,
        upper.permute(2, 0, 1),
    )


def _symmetric(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.transpose(-1, -2))
