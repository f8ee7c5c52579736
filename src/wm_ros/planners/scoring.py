"""What a candidate is worth: the rewards that a model imagines for it, over steps and members."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from wm_ros.contract.errors import UserError
from wm_ros.models.world_model import Imagined

Value = Callable[[Tensor], Tensor]
"""What is still to be gained from an observation on: `[..., O]` → `[...]`, in units of reward."""

Aggregate = Literal["mean", "worst"]
"""How a candidate's returns over members become one number."""

WORST = -1e30
"""Return of a candidate without a finite one: it ranks behind all others, and sorting has no NaN to trip over."""


def returns(
    imagined: Imagined, aggregate: Aggregate = "mean", pessimism: float = 0.0, discount: float = 1.0, value: Value | None = None
) -> Tensor:
    """Returns `[N]` of candidates; `WORST` for those that are not finite.

    What follows a termination does not count, the step that terminates does.

    Args:
        imagined: their futures.
        aggregate: `mean` over members, or the `worst` member.
        pessimism: standard deviations over members taken off.
        discount: of a reward one model step later.
        value: counted at the end of the horizon, where the episode still goes on.
    """
    reward, going_on = imagined.reward, imagined.going_on
    if going_on is not None:
        reward = torch.cat([reward[:1], reward[1:] * going_on[:-1]])
    horizon = reward.shape[0]
    if discount != 1.0:
        reward = reward * discount ** torch.arange(horizon, dtype=reward.dtype, device=reward.device)[:, None, None]
    total = reward.sum(dim=0)
    if value is not None:
        rest = value(imagined.observation[-1])
        if rest.shape != total.shape:
            raise ValueError(f"terminal value has shape {tuple(rest.shape)}, expected {tuple(total.shape)}, one for each observation")
        total = total + discount**horizon * (rest if going_on is None else rest * going_on[-1])
    result = total.mean(dim=0) if aggregate == "mean" else total.amin(dim=0)
    if pessimism:
        result = result - pessimism * total.std(dim=0, correction=0)
    return finite_or_worst(result)


def finite_or_worst(result: Tensor) -> Tensor:
    """`result`, with `WORST` in place of NaN and infinity."""
    return torch.where(result.abs() < -WORST, result, WORST)


def found(best: Tensor) -> Tensor:
    """Whether the best return `[]` is one at all: false where all candidates were `WORST`."""
    return best > WORST / 2


def check_shapes(imagined: Imagined, horizon: int, members: int, candidates: int) -> None:
    """Refuses what no planner can score.

    Raises:
        UserError: the contract's reward or termination gives another shape than candidates, members and horizon have.
        ValueError: the model's observations have another one.
    """
    expected = (horizon, members, candidates)
    if tuple(imagined.observation.shape[:-1]) != expected:
        came = tuple(imagined.observation.shape)
        raise ValueError(f"model: observations {came}, expected [H, M, N, O] with {expected} (horizon, members, candidates)")
    for name, tensor in (("reward", imagined.reward), ("termination", imagined.going_on)):
        if tensor is not None and tuple(tensor.shape) != expected:
            raise UserError(
                f"contract: {name}.function: gives shape {tuple(tensor.shape)} for {expected} (horizon, members, candidates): "
                "let it give one number for each row, [..., O] -> [...]"
            )
