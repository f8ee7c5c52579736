"""What a family of forward networks gives to the dynamics and to its fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from wm_ros.models.member_mlp import MemberMLP

Decoder = Callable[[Tensor, "Tensor | None"], "tuple[Tensor, Tensor | None]"]
"""(hidden `[M, B, width]`, noise or None) → what is expected `[M, B, D]`, and what the noise adds to it, in contract units."""


class ForwardNetwork(MemberMLP):
    """Predicts D normalized targets from I normalized inputs, for each of M members.

    Noise is standard normal `[M, B, noise_columns]`; None asks for the prediction that a planner follows without noise.
    """

    outputs: int
    """D."""
    noise_columns: int
    """Columns of noise that one draw takes; 0 for a family that cannot be drawn from."""

    if TYPE_CHECKING:

        def predict(self, inputs: Tensor, noise: Tensor | None) -> Tensor:
            """Normalized targets `[M, B, D]` for `inputs [M, B, I]`."""

        def decoder(self, scale: Tensor, shift: Tensor) -> Decoder:
            """The last layer with `x * scale [D] + shift [D]` folded in, made once for a whole rollout."""

        def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
            """Scalar: summed over members, averaged over rows `[M, B, ...]` and targets."""

        def errors(self, inputs: Tensor, targets: Tensor) -> Tensor:
            """Mean squared error `[M]` of `predict` without noise; `targets [B, D]` or `[M, B, D]`."""

    def looseness(self) -> Tensor | None:
        """What `FitConfig.bound_weight` counts; None where nothing is bounded."""
        return None
