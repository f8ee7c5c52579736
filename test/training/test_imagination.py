"""What is imagined is the model's, ends where episodes end, and is not learned from where it has no finite end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cartpole_models import TINY, contract, random_dynamics
from small_mbpo import slider
from small_sac import SAC

from wm_ros.agents.sac import SacNetworks
from wm_ros.contract.functions import reward_function
from wm_ros.contract.schema import Contract
from wm_ros.models.dynamics import ObservationDynamics
from wm_ros.models.family import ModelConfig
from wm_ros.training.imagination import Imagined, imagine


def policy(of: Contract) -> SacNetworks:
    networks = SacNetworks(of, SAC).requires_grad_(False)
    networks.policy.initialize(torch.Generator().manual_seed(3))
    return networks


def starts(count: int, columns: int = 5) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, columns)).astype(np.float32)


def imagined(model: ObservationDynamics, length: int = 1, count: int = 50, seed: int = 0, **options: float) -> Imagined:
    return imagine(model, policy(contract()), starts(count), length, np.random.default_rng(seed), **options)  # type: ignore[arg-type]


def test_every_row_is_some_members_prediction_and_all_members_take_their_share() -> None:
    model = random_dynamics(1, sample=False)
    columns = imagined(model, sample=False).columns
    here, action = torch.from_numpy(columns["observation"]), torch.from_numpy(columns["action"])
    with torch.no_grad():
        means = model.predict(here.expand(3, 50, 5), action.expand(3, 50, 1).unsqueeze(2), None)
    away = (means - torch.from_numpy(columns["next_observation"])).abs().amax(-1)
    assert float(away.amin(0).max()) < 1e-5
    assert sorted(np.bincount(away.argmin(0), minlength=3)) == [16, 17, 17]
    np.testing.assert_array_equal(columns["observation"], starts(50))


def test_rewards_are_the_contracts_own() -> None:
    columns = imagined(random_dynamics(1, sample=False), length=3).columns
    assert len(columns["reward"]) == 150 and not columns["terminated"].any()
    expected = reward_function(contract())(columns["observation"], columns["action"], columns["next_observation"])
    np.testing.assert_allclose(columns["reward"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(columns["observation"][50:], columns["next_observation"][:100])


@pytest.mark.parametrize("family", ["gaussian", "deterministic", "mixture"])
def test_any_family_imagines_and_a_seed_decides(family: str) -> None:
    model = random_dynamics(1, sample=False, model=ModelConfig(family=family))  # type: ignore[arg-type]
    first, again, other = (imagined(model, 2, seed=seed).columns["next_observation"] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_ticks_without_a_finite_end_are_left_out_and_counted() -> None:
    model = random_dynamics(1, sample=False)
    with torch.no_grad():
        model.network.biases[0][1] = float("nan")
    found = imagined(model, length=1, count=60)
    assert found.dropped == 20 and len(found) == 40 and found.drop_rate == pytest.approx(1 / 3)
    assert all(np.isfinite(column).all() for column in found.columns.values())
    with torch.no_grad():
        model.network.biases[0][1] = 0.0
        model.network.biases[-1][2, :, 0] = 1e9  # finite, and nowhere near anything recorded
    assert imagined(model, length=1, count=60).dropped == 20


def test_nothing_is_imagined_past_a_terminated_state() -> None:
    of = slider(termination=True)
    model = ObservationDynamics(of, TINY, 1)
    model.initialize(torch.Generator().manual_seed(0))
    assert model.termination_network is not None
    for logit, expected in ((-50.0, 4 * 30), (50.0, 30)):
        with torch.no_grad():
            model.termination_network.biases[-1].fill_(logit)
        found = imagine(model, policy(of), starts(30, 1), 4, np.random.default_rng(0))
        assert len(found) == expected and found.columns["terminated"].all() == (logit > 0) == found.columns["terminated"].any()


def test_the_spread_over_members_changes_the_reward_by_its_weight() -> None:
    model = random_dynamics(1, sample=False)
    plain, penalized = imagined(model), imagined(model, weight=-2.0)
    with torch.no_grad():
        spread = model.spread(torch.from_numpy(plain.columns["observation"]), torch.from_numpy(plain.columns["action"]))
    np.testing.assert_allclose(penalized.columns["reward"], plain.columns["reward"] - 2.0 * spread.numpy(), rtol=1e-4, atol=1e-5)
    assert penalized.spread == pytest.approx(float(spread.mean()), rel=1e-4) and plain.spread == 0.0


def test_the_spread_is_zero_for_equal_members_and_counts_a_learned_reward() -> None:
    model = ObservationDynamics(slider(), TINY, 1)
    model.initialize(torch.Generator().manual_seed(0))
    here, action = torch.from_numpy(starts(20, 1)), torch.zeros(20, 1)
    assert model.reward_network is not None
    with torch.no_grad():
        assert float(model.spread(here, action).min()) > 0
        for network in (model.network, model.reward_network):
            network.members_from(network, [0, 0, 0])
        assert float(model.spread(here, action).max()) < 1e-6
        model.reward_network.biases[-1][0] += 1.0
        assert float(model.spread(here, action).min()) > 0.1
