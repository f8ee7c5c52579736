"""A model's single step as an ONNX network, for a tree search on the robot (`runtime.step_network`)."""

from __future__ import annotations

from typing import Any

import onnx
import torch
from torch import Tensor, nn

from wm_ros.contract.schema import Contract
from wm_ros.export.template import graph_of
from wm_ros.runtime.step_network import ACTION, GOING_ON, NEXT, OBSERVATION, REWARD


class _Stepping(nn.Module):
    """One step of the model as positional tensors, whether the episode goes on among them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        made = self.model.step(observation, action)
        return made.observation, made.reward, torch.ones_like(made.reward) if made.going_on is None else made.going_on.clone()


def export(model: nn.Module, contract: Contract, rows: int) -> onnx.ModelProto:
    """Traces one step of `rows` states at once; in contract units."""
    arguments = (torch.zeros(rows, contract.observation_size), torch.zeros(rows, contract.action_size))
    return graph_of(_Stepping(model).eval(), arguments, [OBSERVATION, ACTION], [NEXT, REWARD, GOING_ON])
