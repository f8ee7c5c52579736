"""What a planner gives back."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Plan(NamedTuple):
    """The best action sequence found, and what the model imagines under it."""

    action: Tensor
    """First action `[A]`, contract units."""
    actions: Tensor
    """One action per model step `[H, A]`, contract units."""
    observations: Tensor
    """Imagined observations `[H, O]`, mean over members."""
    spread: Tensor
    """Standard deviation over members `[H, O]`."""
    value: Tensor
    """Predicted return of the plan `[]`."""
    candidates: Tensor
    """Imagined observations of the best candidates `[K, H, O]`: the plan, then the others by return."""
    returns: Tensor
    """Their predicted returns `[K]`."""
    ok: Tensor
    """False where no candidate had a finite return `[]`."""
    iterations: Tensor
    """How many iterations were done `[]`: fewer than configured where the planner was stopped."""
    carry: dict[str, Tensor]
    """What the next call starts from."""
