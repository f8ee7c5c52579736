"""Uniform numbers out of normal ones, so that a model takes one kind of noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def uniform(normal: Tensor) -> Tensor:
    """Numbers `[...]` in [0, 1], equally likely everywhere, from standard normal ones `[...]`: their own distribution function."""
    return 0.5 * (1.0 + torch.erf(normal / math.sqrt(2.0)))
