"""The optimizers against torch's, and against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wm_ros.training.flat_optimizer import FlatOptimizer, OptimizerConfig


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (4,), (1,))]


def gradients(step: int, scale: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [scale * torch.randn(shape, generator=generator) for shape in ((3, 4), (4,), (1,))]


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_adam_is_that_of_torch(clip: float) -> None:
    ours, theirs = parameters(), parameters()
    made = FlatOptimizer(ours, 0.01, OptimizerConfig("adam", 1e-5, adaptive_clip=0.0, norm_clip=clip, weight_decay=0.1, warm_up=0))
    reference = torch.optim.AdamW(theirs, 0.01, eps=1e-5, weight_decay=0.1)
    for step in range(20):
        made.step(gradients(step))
        for parameter, gradient in zip(theirs, gradients(step), strict=True):
            parameter.grad = gradient
        if clip:
            nn.utils.clip_grad_norm_(theirs, clip)
        reference.step()
    torch.testing.assert_close([p.data for p in ours], [p.data for p in theirs], rtol=1e-5, atol=1e-6)


def test_laprop_divides_before_it_averages() -> None:
    ours, plain = parameters(), [p.detach().double() for p in parameters()]
    made = FlatOptimizer(ours, 0.01, OptimizerConfig(adaptive_clip=0.0, warm_up=4))
    mean, square = ([torch.zeros_like(p) for p in plain] for _ in range(2))
    for step in range(1, 11):
        made.step(gradients(step))
        for i, gradient in enumerate(gradients(step)):
            square[i] = 0.999 * square[i] + 0.001 * gradient.double() ** 2
            mean[i] = 0.9 * mean[i] + 0.1 * gradient.double() / (square[i] / (1 - 0.999**step)).sqrt()
            plain[i] -= 0.01 * min(1.0, step / 4) * mean[i] / (1 - 0.9**step)
    torch.testing.assert_close([p.data.double() for p in ours], plain, rtol=1e-4, atol=1e-5)


def test_a_tensor_s_gradient_is_cut_to_a_share_of_the_tensor_s_norm() -> None:
    found = []
    for scale in (1e3, 1e6):
        made = FlatOptimizer(parameters(), 0.01, OptimizerConfig(adaptive_clip=0.3, warm_up=0))
        cut = gradients(0, scale)
        made.step(cut)
        found.append(cut)
    for parameter, first, second in zip(parameters(), *found, strict=True):
        torch.testing.assert_close(first.norm(), 0.3 * parameter.norm())
        torch.testing.assert_close(first, second)
    small = gradients(0, 1e-4)
    FlatOptimizer(parameters(), 0.01, OptimizerConfig(adaptive_clip=0.3)).step(small)
    torch.testing.assert_close(small, gradients(0, 1e-4))


def test_the_module_keeps_views_of_the_flat_tensor() -> None:
    ours = parameters()
    made = FlatOptimizer(ours, 0.01, OptimizerConfig())
    made.values.fill_(3.0)
    assert all((p == 3.0).all() for p in ours)
