"""How much pessimism a model needs, measured on recorded episodes that it has not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from wm_ros.contract.errors import UserError
from wm_ros.data.episode import Episode
from wm_ros.models.dynamics import ObservationDynamics


@dataclass(frozen=True)
class PessimismChoice:
    """The weight, and what it was chosen by."""

    weight: float
    """Reward taken off for a spread of one over the members: discount times `error_per_spread` times `worth`."""
    error_per_spread: float
    """Error of the model's mean beside what its members are apart: the quantile `coverage` over the ticks."""
    coverage: float
    """Share of the ticks at which the spread, times `error_per_spread`, is at least the error."""
    worth: float
    """What states differ by in value: range of the recorded discounted returns, without end."""
    error: float
    """Root mean square, in deviations of the targets."""
    spread: float
    """Mean over the ticks."""
    ticks: int
    held_out: bool
    """False: there was nothing held out, so the model was judged by what it has learned from, which flatters it."""


@torch.inference_mode()
def choose(
    model: ObservationDynamics,
    judged: Sequence[Episode],
    recorded: Sequence[Episode],
    discount: float,
    *,
    coverage: float = 0.95,
    held_out: bool = True,
) -> PessimismChoice:
    """The weight that MOPO's bound asks for (Yu et al. 2020, section 4.1).

    There, the return in the model less the penalty is a lower bound of the true one where the spread bounds the model's error, up to a
    factor, and the weight is this factor times discount times the range of values. Both are left open there. Here the factor is measured on
    held-out ticks, and the range on the recorded returns.

    Args:
        model: of one control tick.
        judged: episodes to measure the model on.
        recorded: episodes to take the range of returns from.
        discount: per tick.
        coverage: share of the judged ticks at which the spread must bound the error.
        held_out: whether the model has not learned from `judged`.

    Raises:
        UserError: what is imagined is not finite.
    """
    here, held, following = (
        torch.from_numpy(np.concatenate(parts))
        for parts in ([e.observation[:-1] for e in judged], [e.action for e in judged], [e.observation[1:] for e in judged])
    )
    reward = torch.from_numpy(np.concatenate([e.reward for e in judged]))
    spread = model.spread(here, held)
    after, gained, _ = model.transition(here.expand(model.members, *here.shape), held.expand(model.members, *held.shape), None)
    squared = ((after.mean(dim=0) - following) / model.target_std) ** 2
    if model.reward_network is not None:
        squared = torch.cat([squared, ((gained.mean(dim=0) - reward) / model.reward_network.reward_std).square().unsqueeze(1)], dim=1)
    error = squared.mean(dim=1).sqrt()
    if not (torch.isfinite(error).all() and torch.isfinite(spread).all()):
        raise UserError("model: what it predicts of recorded episodes is not finite: begin anew with a lower model_fit.learning_rate")
    needed = error / spread.clamp(min=1e-9)
    factor = float(torch.quantile(needed.double(), coverage, interpolation="higher"))
    worth = value_range(recorded, discount)
    return PessimismChoice(
        weight=discount * factor * worth,
        error_per_spread=factor,
        coverage=float((needed.double() <= factor).double().mean()),
        worth=worth,
        error=float(squared.mean().sqrt()),
        spread=float(spread.mean()),
        ticks=len(error),
        held_out=held_out,
    )


def value_range(episodes: Sequence[Episode], discount: float) -> float:
    """Range of the discounted returns of recorded stretches, as long as the discount looks ahead, as if they went on as they are."""
    ticks = max(1, round(1.0 / (1.0 - discount)))
    returns = [_mean_rewards(e.reward.astype(np.float64), min(ticks, len(e)), discount) for e in episodes]
    means = np.concatenate(returns)
    return float(means.max() - means.min()) / (1.0 - discount)


def _mean_rewards(reward: NDArray[np.float64], ticks: int, discount: float) -> NDArray[np.float64]:
    """Discounted mean reward of all stretches of so many ticks."""
    weights = discount ** np.arange(ticks)
    return np.convolve(reward, weights[::-1] / weights.sum(), mode="valid")
