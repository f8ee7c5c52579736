"""What a candidate is worth."""

from __future__ import annotations

import math

import pytest
import torch

from wm_ros.contract.errors import UserError
from wm_ros.models.world_model import Imagined
from wm_ros.planners import scoring

REWARD = torch.tensor([[[1.0, 5.0], [3.0, -1.0]], [[2.0, 0.0], [2.0, 8.0]]])  # [H, M, N]: totals [[3, 5], [5, 7]]
OBSERVATION = torch.arange(8.0).reshape(2, 2, 2, 1)
FUTURE = Imagined(OBSERVATION, REWARD, None)


def test_members_are_averaged_or_the_worst_counts() -> None:
    assert scoring.returns(FUTURE).tolist() == [4.0, 6.0]
    assert scoring.returns(FUTURE, "worst").tolist() == [3.0, 5.0]
    assert scoring.returns(FUTURE, pessimism=2.0).tolist() == [2.0, 4.0]


def test_later_rewards_are_discounted() -> None:
    assert scoring.returns(FUTURE, discount=0.5).tolist() == [2.0 + 1.0, 2.0 + 2.0]


def test_the_terminal_value_counts_at_the_last_observation() -> None:
    expected = torch.tensor([4.0, 6.0]) + 0.25 * 10 * OBSERVATION[1, :, :, 0].mean(0)
    expected -= 0.5 * REWARD[1].mean(0)
    assert torch.equal(scoring.returns(FUTURE, discount=0.5, value=lambda o: 10 * o[..., 0]), expected)


def test_nothing_counts_behind_a_termination_and_no_value_either() -> None:
    going_on = torch.tensor([[[0.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]]])
    ended = Imagined(OBSERVATION, REWARD, going_on)
    assert scoring.returns(ended).tolist() == [(1 + 5) / 2, 6.0]
    assert scoring.returns(ended, value=lambda o: 100.0 + 0 * o[..., 0]).tolist() == [3.0 + 50.0, 6.0 + 50.0]


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_ranks_last(poison: float) -> None:
    reward = REWARD.clone()
    reward[0, 1, 0] = poison
    result = scoring.returns(Imagined(OBSERVATION, reward, None))
    assert result[0] == scoring.WORST and result[1] == 6.0
    assert not bool(scoring.found(result[0])) and bool(scoring.found(result[1]))


def test_a_value_of_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"terminal value has shape \(2, 2, 1\), expected \(2, 2\)"):
        scoring.returns(FUTURE, value=lambda o: o)


@pytest.mark.parametrize("field", ["reward", "going_on"])
def test_a_function_of_the_contract_that_gives_a_wrong_shape_is_named(field: str) -> None:
    wrong = Imagined(OBSERVATION, REWARD, torch.ones_like(REWARD))._replace(**{field: REWARD[..., None]})
    with pytest.raises(UserError, match=r"contract: (reward|termination)\.function: gives shape \(2, 2, 2, 1\)"):
        scoring.check_shapes(wrong, 2, 2, 2)
