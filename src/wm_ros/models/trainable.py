"""What a model must give to be fitted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn

from wm_ros.models.transitions import Transitions

Rows = tuple[Tensor, ...]
"""Inputs and targets, each `[B, ...]`, or `[M, B, ...]` with rows of its own for every member."""


class Trainable(Protocol):
    """A model with M members, its loss, and what ranks the members."""

    members: int

    def prepare(self, data: Transitions) -> Rows:
        """Sets normalizers, in float64, from `data` and gives its rows as `loss` takes them."""

    def loss(self, rows: Rows) -> Tensor:
        """Scalar for `rows [M, B, ...]`, summed over members: their gradients do not depend on how many there are."""

    def errors(self, rows: Rows) -> Tensor:
        """Error `[M]` on `rows [B, ...]` in units of the targets' variance: ranks members and stops early."""

    def looseness(self) -> Tensor | None:
        """What `FitConfig.bound_weight` counts, if anything."""

    # as torch.nn.Module has them
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state_dict: dict[str, Tensor]) -> Any: ...
