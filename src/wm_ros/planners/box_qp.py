"""Quadratic programs within limits by projected Newton steps (Tassa et al. 2014, section III-B; Bertsekas 1982), many at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_STEP_SIZES = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 0.0)  # of the line search, tried together; the last one is to stay


class Solution(NamedTuple):
    """Of min ½ xᵀ H x + qᵀ x with low <= x <= high, for any leading dimensions."""

    x: Tensor
    """`[..., A]`"""
    inverse: Tensor
    """Of H over the coordinates that are at no limit, zero elsewhere `[..., A, A]`."""
    definite: Tensor
    """Whether H is positive definite there `[...]`; the rest means nothing where it is not."""


def solve(h: Tensor, q: Tensor, low: Tensor, high: Tensor, iterations: int) -> Solution:
    """Solves `h [..., A, A]`, `q [..., A]` within `low` and `high` `[..., A]`, low <= 0 <= high, in a fixed number of iterations.

    There is no branching on data, so that it can be part of a graph.
    """
    if h.shape[-1] == 1:
        curvature = h[..., 0]
        free = (-q / curvature).clamp(low, high)
        inside = ((free > low) & (free < high)).to(h.dtype)
        return Solution(free, (inside / curvature).unsqueeze(-1), curvature[..., 0] > 0.0)
    x = torch.zeros_like(q)
    sizes = torch.tensor(_STEP_SIZES, dtype=h.dtype, device=h.device).reshape(-1, *([1] * q.ndim))
    for _ in range(iterations):
        slope, inverse, _ = _newton(h, q, low, high, x)
        step = -_times(inverse, slope)
        # Where the projected Newton step helps at no size: straight to the first limit in its way, or down the slope, which always helps.
        room = torch.where(step.abs() > 0.0, torch.where(step > 0.0, high - x, x - low) / step.abs().clamp(min=1e-12), 1.0)
        straight = x + room.amin(dim=-1, keepdim=True).clamp(max=1.0) * step
        down = x - slope / torch.diagonal(h, dim1=-2, dim2=-1).abs().sum(dim=-1, keepdim=True).clamp(min=1e-12)
        trials = torch.cat([x + sizes * step, straight.unsqueeze(0), down.unsqueeze(0)])
        trials = torch.maximum(torch.minimum(trials, high), low)  # [J, ..., A]
        values = (trials * (0.5 * _times(h, trials) + q)).sum(dim=-1, keepdim=True)
        x = torch.take_along_dim(trials, values.argmin(dim=0, keepdim=True), dim=0)[0]
    _, inverse, definite = _newton(h, q, low, high, x)
    return Solution(x, inverse, definite)


def _newton(h: Tensor, q: Tensor, low: Tensor, high: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slope `[..., A]` at `x`, the inverse of H over what is free there, and whether H is positive definite there."""
    slope = q + _times(h, x)
    free = 1.0 - (((x <= low) & (slope > 0.0)) | ((x >= high) & (slope < 0.0))).to(h.dtype)
    both = free.unsqueeze(-1) * free.unsqueeze(-2)
    inverse, pivot = inverse_definite(h * both + torch.diag_embed(1.0 - free))
    return slope, inverse * both, pivot > 0.0


def inverse_definite(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse `[..., A, A]` of a symmetric matrix by Gauss-Jordan elimination, and its smallest pivot `[...]`.

    All pivots are positive where the matrix is positive definite, and only there. Written out in elementwise steps because ONNX has no
    solver; A is the number of joints.
    """
    size = matrix.shape[-1]
    identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    work = torch.cat([matrix, identity.expand(matrix.shape)], dim=-1)
    pivots = []
    for j in range(size):
        pivot = work[..., j : j + 1, j : j + 1]
        pivots.append(pivot[..., 0, 0])
        work = work - (work[..., :, j : j + 1] - identity[:, j : j + 1]) * (work[..., j : j + 1, :] / pivot)
    return work[..., size:], torch.stack(pivots).amin(dim=0)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.matmul(matrix, vector.unsqueeze(-1)).squeeze(-1)
