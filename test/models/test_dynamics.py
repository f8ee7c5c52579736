"""Rollouts against predictions step by step, and against the contract's own functions in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cartpole_models import TINY, contract, random_dynamics
from torch import Tensor

from wm_ros.contract.functions import reward_function
from wm_ros.models.dynamics import ObservationDynamics
from wm_ros.models.ensemble import EnsembleConfig

HORIZON, CANDIDATES = 6, 5
SIN, COS = contract().observation_names.index("hinge_1.position.sin"), contract().observation_names.index("hinge_1.position.cos")


def start() -> Tensor:
    return torch.tensor([0.3, math.sin(2.0), math.cos(2.0), -0.4, 0.8])


def actions(horizon: int = HORIZON, candidates: int = CANDIDATES) -> Tensor:
    return 20.0 * torch.rand(horizon, candidates, 1, generator=torch.Generator().manual_seed(5)) - 10.0


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("sample", [False, True])
def test_a_rollout_equals_predictions_step_by_step(stride: int, sample: bool) -> None:
    model = random_dynamics(stride, sample)
    shape = model.noise_shape(HORIZON)
    assert (shape is not None) == sample
    noise = None if shape is None else torch.randn(shape, generator=torch.Generator().manual_seed(6))
    given = actions()
    imagined = model.rollout(start(), given, noise)
    assert imagined.observation.shape == (HORIZON, TINY.members, CANDIDATES, 5)
    state = start().expand(TINY.members, CANDIDATES, 5)
    for h in range(HORIZON):
        held = given[h].expand(TINY.members, CANDIDATES, 1).unsqueeze(2).expand(-1, -1, stride, -1)
        state = model.predict(state, held, None if noise is None else noise[h].expand(TINY.members, CANDIDATES, 5))
        torch.testing.assert_close(imagined.observation[h], state, atol=1e-5, rtol=1e-5)


def test_a_prediction_is_the_networks_mean_and_spread_in_the_contracts_units() -> None:
    model = random_dynamics(2, sample=True)
    observation = start().expand(TINY.members, 4, 5)
    ticks = actions(2, 4).permute(1, 0, 2).expand(TINY.members, 4, 2, 1)
    noise = torch.randn(TINY.members, 4, 5, generator=torch.Generator().manual_seed(7))
    # the action's normalizers come from the contract's limits; here they were drawn at random
    inputs = torch.cat(
        [
            (observation - model.observation_mean) / model.observation_std,
            (ticks[:, :, 0] - model.action_mean) / model.action_std,
            (ticks[:, :, 1] - model.action_mean) / model.action_std,
        ],
        dim=-1,
    )
    mean, log_variance = model.network(inputs)
    change = (mean + log_variance.exp().sqrt() * noise) * model.target_std + model.target_mean
    expected = observation + change
    radius = torch.sqrt(expected[..., SIN] ** 2 + expected[..., COS] ** 2)
    got = model.predict(observation, ticks, noise)
    for column in range(5):
        scale = radius if column in (SIN, COS) else torch.ones_like(radius)
        torch.testing.assert_close(got[..., column], expected[..., column] / scale, atol=1e-5, rtol=1e-5)


def test_untrained_actions_are_normalized_by_the_contracts_limits() -> None:
    model = ObservationDynamics(contract(), TINY, stride=2)
    inputs = model.inputs(torch.zeros(3, 5), torch.tensor([[[-10.0], [10.0]]]).expand(3, 2, 1))
    assert inputs[:, 5:].tolist() == [[-1.0, 1.0]] * 3


def test_angles_stay_on_the_unit_circle() -> None:
    model = random_dynamics(1, sample=True)
    shape = model.noise_shape(40)
    assert shape is not None
    imagined = model.rollout(start(), actions(40), torch.randn(shape, generator=torch.Generator().manual_seed(8)))
    radius = imagined.observation[..., SIN] ** 2 + imagined.observation[..., COS] ** 2
    torch.testing.assert_close(radius, torch.ones_like(radius), atol=1e-4, rtol=0)
    assert bool((imagined.observation[..., 0].abs() > 1.0).any()), "the other columns must not be squeezed"


@pytest.mark.parametrize("stride", [1, 3])
def test_rewards_of_a_rollout_are_the_contracts_own_for_every_tick(stride: int) -> None:
    model = random_dynamics(stride, sample=False)
    given = actions()
    with torch.no_grad():
        imagined = model.rollout(start(), given, None)
    reward = reward_function(contract())
    after = imagined.observation.numpy().astype(np.float64)
    before = np.concatenate([np.broadcast_to(start().numpy(), after[:1].shape), after[:-1]])
    held = np.broadcast_to(given.numpy()[:, None], (HORIZON, TINY.members, CANDIDATES, 1))
    np.testing.assert_allclose(imagined.reward.numpy(), stride * reward(before, held, after), atol=1e-5)
    assert imagined.going_on is None  # this task never terminates


def test_after_a_termination_nothing_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from wm_ros.models import dynamics

    def too_far(before: Tensor, action: Tensor, after: Tensor) -> Tensor:
        return after[..., 0].abs() > 0.5

    monkeypatch.setattr(dynamics, "termination_function", lambda contract: too_far)
    model = random_dynamics(1, sample=False)
    with torch.no_grad():
        imagined = model.rollout(start(), actions(20), None)
    assert imagined.going_on is not None
    beyond = np.logical_or.accumulate(np.abs(imagined.observation[..., 0].numpy()) > 0.5, axis=0)
    assert beyond[-1].any() and not beyond[0].all()
    assert (imagined.going_on.numpy() == np.where(beyond, 0.0, 1.0)).all()


def test_every_member_has_its_own_future_and_candidates_share_the_noise() -> None:
    model = random_dynamics(1, sample=True)
    shape = model.noise_shape(HORIZON)
    assert shape is not None
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    same = actions(candidates=1).expand(HORIZON, 2, 1)
    imagined = model.rollout(start(), same, noise).observation
    torch.testing.assert_close(imagined[:, :, 0], imagined[:, :, 1])
    assert bool((imagined[-1, 0, 0] != imagined[-1, 1, 0]).any())


def test_fewer_members_than_configured_can_be_built() -> None:
    model = ObservationDynamics(contract(), EnsembleConfig(members=6, elites=2, layers=1, width=4), stride=1, members=2)
    assert model.members == 2 and model.rollout(start(), actions(), None).observation.shape[1] == 2
    with pytest.raises(ValueError, match="stride 0"):
        ObservationDynamics(contract(), TINY, stride=0)


@pytest.mark.parametrize("sample", [False, True])
def test_ts1_draws_a_member_anew_for_every_step(sample: bool) -> None:
    model = random_dynamics(2, sample, propagation="TS1")
    shape = model.noise_shape(HORIZON)
    assert shape == (HORIZON, TINY.members, 1, 6 if sample else 1)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    given = actions()
    imagined = model.rollout(start(), given, noise)
    quantile = torch.distributions.Normal(0.0, 1.0).cdf(noise[:, :, 0, -1])
    drawn = (quantile * TINY.members).long().clamp(max=TINY.members - 1)
    state = start().expand(TINY.members, CANDIDATES, 5)
    for h in range(HORIZON):
        state = state if h == 0 else state[drawn[h]]
        held = given[h].expand(TINY.members, CANDIDATES, 1).unsqueeze(2).expand(-1, -1, 2, -1)
        state = model.predict(state, held, noise[h, ..., :5].expand(TINY.members, CANDIDATES, 5) if sample else None)
        torch.testing.assert_close(imagined.observation[h], state, atol=1e-5, rtol=1e-5)


def test_ts1_draws_every_member_equally_often() -> None:
    model = random_dynamics(1, False, propagation="TS1")
    normal = torch.randn(30_000, generator=torch.Generator().manual_seed(8))
    counts = torch.bincount(model._drawn_members(normal), minlength=TINY.members)
    assert len(counts) == TINY.members and (counts / len(normal) - 1 / TINY.members).abs().max() < 0.01
    assert set(model._drawn_members(torch.tensor([-40.0, 40.0])).tolist()) == {0, TINY.members - 1}


@pytest.mark.parametrize("stride", [1, 3])
def test_a_single_step_is_the_mean_over_members_of_the_first_of_a_rollout(stride: int) -> None:
    model = random_dynamics(stride, sample=False)
    given = actions(1, 4)
    stepped = model.step(start().expand(4, 5), given[0])
    imagined = model.rollout(start(), given, None)
    following = imagined.observation[0].mean(dim=0)
    following[:, [SIN, COS]] /= following[:, [SIN, COS]].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(stepped.observation, following, atol=1e-5, rtol=1e-5)
    expected = stride * reward_function(contract())(start().expand(4, 5), given[0], following)
    torch.testing.assert_close(stepped.reward, torch.as_tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stride", [1, 3])
def test_large_rollouts_take_the_actions_step_by_step_and_give_the_same(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_dynamics(stride, sample=False)
    ahead = model.rollout(start(), actions(), None)
    monkeypatch.setattr("wm_ros.models.dynamics.ACTIONS_AHEAD", 0)
    stepwise = model.rollout(start(), actions(), None)
    torch.testing.assert_close(stepwise.observation, ahead.observation, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stepwise.reward, ahead.reward, atol=1e-5, rtol=1e-5)
