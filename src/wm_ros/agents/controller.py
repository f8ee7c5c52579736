"""What an agent must be to ship as one ONNX controller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn


@dataclass(frozen=True)
class NoiseSpec:
    """One noise input, drawn ahead of every tick."""

    shape: tuple[int, ...]
    distribution: Literal["normal", "uniform"] = "normal"


class Controller(nn.Module):
    """A controller as a pure function of observation, carry and noise, and of pictures where it sees any.

    `forward(observation [O], carry, noise)`, with `images` {camera: [1, H, W, C] uint8} behind them where it has cameras, gives a dict
    with `action [A]` in contract units, `next` (the new carry) and whatever of `value`, `plan.action`, `plan.observation`, `plan.spread`,
    `candidates.observation`, `candidates.return`, `plan.iterations`, `ok` the agent has.
    """

    agent: str
    """Name that stands in the artifact and in the command's frame_id."""
    config: dict[str, Any]
    """The agent's configuration, as plain data."""
    carry: dict[str, tuple[int, ...]]
    """Name → shape; every carry starts at zero."""
    noise: dict[str, NoiseSpec]
    images: dict[str, tuple[int, int, int]] = {}
    """Camera → height, width and colours of the pictures that it is given; each is one more input, named like the contract's channel."""
    plan_period_s: float | None = None
    """Time between the rows of a plan."""
    look_ahead: int = 0
    """Steps of the future that people can be shown; `look_further` makes one of them."""
    looks_from: dict[str, str] = {}
    """State of `look_further` → where it begins: `next.<carry>` or `noise.<name>` of the tick."""
    differentiates: bool = False
    """Whether it takes gradients inside (`torch.func`): its graph is then traced through them, which takes longer."""

    def forward(self, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor]) -> dict[str, Any]:
        raise NotImplementedError

    def look_further(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One more step that people are shown: the next state, and a row of `imagined_<camera>`, `plan.action`, `plan.observation`."""
        raise NotImplementedError
