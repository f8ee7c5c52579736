"""Tensors of several parts under one roof, as a checkpoint holds them: `PART.NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def joined(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """Part → name → array, as one."""
    return {f"{part}.{name}": torch.as_tensor(value).contiguous() for part, values in parts.items() for name, value in values.items()}


def below(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Name → tensor of one part; empty where it is not there."""
    prefix = f"{part}."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
