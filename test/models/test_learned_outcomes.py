"""Reward and termination where the contract has no function for them."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from cartpole_models import contract as analytic
from small_agents import PETS

from wm_ros.contract import schema
from wm_ros.contract.functions import reward_function
from wm_ros.contract.schema import Contract
from wm_ros.data.episode import Episode
from wm_ros.models.dynamics import ObservationDynamics
from wm_ros.models.ensemble import EnsembleConfig
from wm_ros.models.termination import TerminationNetwork
from wm_ros.models.transitions import Transitions, transitions
from wm_ros.runtime.artifact import TrainingBag
from wm_ros.runtime.controller import ControllerSession
from wm_ros.training.config import AgentConfig
from wm_ros.training.fit import FitConfig, fit
from wm_ros.training.pets_learner import PetsLearner

SIZE = EnsembleConfig(members=3, elites=2, layers=2, width=32)
CONFIG = FitConfig(batch=128, steps=600, learning_rate=5e-3, patience=100)


@lru_cache
def contract() -> Contract:
    data = json.loads(analytic().canonical_json())
    return schema.parse({**data, "reward": "learned", "termination": "learned"}, "test")


def chance_of_end(position: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(8.0 - 4.0 * position))


def rows(count: int, seed: int, stride: int = 1) -> Transitions:
    """States near the circle, rewards as of the shipped contract, and an end that comes with the position, of one row in thirty."""
    rng = np.random.default_rng(seed)
    angle, others = rng.uniform(-np.pi, np.pi, count), rng.standard_normal((count, 3))
    before = np.stack([others[:, 0], np.sin(angle), np.cos(angle), others[:, 1], others[:, 2]], axis=1)
    turned = angle + 0.1 * others[:, 2]
    after = np.stack([others[:, 0] + 0.1 * others[:, 1], np.sin(turned), np.cos(turned), others[:, 1], others[:, 2]], axis=1)
    action = np.repeat(rng.uniform(-10, 10, (count, 1, 1)), stride, axis=1)
    reward = reward_function(analytic())(before, action[:, 0], after)
    ended = rng.uniform(size=count) < chance_of_end(after[:, 0])
    before, action, after, reward = (c.astype(np.float32) for c in (before, action, after, reward))
    return Transitions(before, action, after, reward, ended)


@pytest.fixture(scope="module")
def learned() -> ObservationDynamics:
    model = ObservationDynamics(contract(), SIZE, 1)
    model.initialize(torch.Generator().manual_seed(0))
    fit(model, rows(6000, 1), CONFIG, seed=2)
    return model


def imagined(model: ObservationDynamics, data: Transitions) -> tuple[torch.Tensor, torch.Tensor]:
    """Reward and probability of an end `[M, B]` for recorded rows."""
    before, action, after = (torch.from_numpy(c) for c in (data.observation, data.actions[:, 0], data.following))
    with torch.no_grad():
        ended = model._endings(before, action, after)
        assert ended is not None
        return model._rewards(before, action, after), ended


def test_the_reward_is_learned_from_what_was_recorded(learned: ObservationDynamics) -> None:
    data = rows(1000, 3)
    assert data.reward is not None
    reward, _ = imagined(learned, data)
    error = (reward - torch.from_numpy(data.reward)).square().mean(dim=1)
    assert float(error.max()) < 0.05 * float(data.reward.var())


def test_the_probability_of_an_end_is_calibrated_though_ends_are_rare(learned: ObservationDynamics) -> None:
    data = rows(40_000, 4)
    assert data.terminated is not None
    truth = torch.from_numpy(data.terminated).float()
    _, ended = imagined(learned, data)
    probability = ended.mean(dim=0)
    share = float(truth.mean())
    assert 0.02 < share < 0.05 and float(learned.termination_network.weight_of_ends) > 20.0  # type: ignore[union-attr]
    assert float(probability.mean()) == pytest.approx(share, rel=0.3), "without the correction it would be many times as much"
    for low, high in ((0.02, 0.1), (0.1, 0.5), (0.5, 1.0)):
        inside = (probability >= low) & (probability < high)
        assert int(inside.sum()) > 30
        assert float(probability[inside].mean()) == pytest.approx(float(truth[inside].mean()), abs=0.12)


def test_a_rollout_goes_on_softly_and_is_paid_by_the_learned_reward(learned: ObservationDynamics) -> None:
    start = torch.tensor([1.5, 0.0, 1.0, 2.0, 0.0])
    actions = torch.zeros(6, 4, 1)
    with torch.no_grad():
        result = learned.rollout(start, actions, None)
    assert result.going_on is not None and result.reward.shape == result.going_on.shape == (6, 3, 4)
    before = torch.cat([start.expand(1, 3, 4, 5), result.observation[:-1]])
    alive = torch.ones(3, 4)
    for h in range(6):
        with torch.no_grad():
            reward = learned._rewards(before[h], actions[h].expand(3, 4, 1), result.observation[h])
            ended = learned._endings(before[h], actions[h].expand(3, 4, 1), result.observation[h])
        assert ended is not None
        alive = alive * (1.0 - ended)
        torch.testing.assert_close(result.reward[h], reward)
        torch.testing.assert_close(result.going_on[h], alive)
    assert float(result.going_on[-1].min()) > 0.0 and float(result.going_on[-1].max()) < 1.0


def test_single_steps_give_the_mean_over_members(learned: ObservationDynamics) -> None:
    start, action = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)), torch.zeros(4, 1)
    with torch.no_grad():
        stepped = learned.step(start, action)
        reward, ended = learned._rewards(start, action, stepped.observation), learned._endings(start, action, stepped.observation)
    assert ended is not None and stepped.going_on is not None
    torch.testing.assert_close(stepped.reward, reward.mean(dim=0))
    torch.testing.assert_close(stepped.going_on, 1.0 - ended.mean(dim=0))


def test_data_in_which_nothing_ended_teaches_that_nothing_ends() -> None:
    network = TerminationNetwork(SIZE, 3)
    network.initialize(torch.Generator().manual_seed(0))
    network.balance(torch.zeros(100))
    assert float(network.weight_of_ends) == 1.0
    loss = network.loss(torch.zeros(3, 10, 3), torch.zeros(3, 10))
    torch.testing.assert_close(loss, torch.tensor(3 * np.log(2.0), dtype=torch.float32))


def test_windows_of_several_ticks_have_the_mean_reward_and_know_whether_the_episode_ended() -> None:
    observation, action = np.zeros((6, 5), np.float32), np.zeros((5, 1), np.float32)
    data = transitions(observation, action, 2, np.arange(5, dtype=np.float32), np.array([False] * 4 + [True]))
    assert data.reward is not None and data.reward.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert data.terminated is not None and data.terminated.tolist() == [False, False, False, True]


@pytest.mark.parametrize("missing", ["reward", "termination"])
def test_rows_without_what_is_to_be_learned_are_refused(missing: str) -> None:
    data = rows(50, 1)
    bare = Transitions(data.observation, data.actions, data.following, None if missing == "reward" else data.reward)
    with pytest.raises(ValueError, match=f"{missing} is learned, and the transitions have none"):
        ObservationDynamics(contract(), SIZE, 1).prepare(bare)


def test_a_controller_is_learned_from_recorded_rewards_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = rows(61, 5)
    assert data.reward is not None
    ends = np.arange(60) == 59
    stamp = np.arange(61, dtype=np.int64) * 20_000_000
    episode = Episode(data.observation, data.actions[:60, 0], data.reward[:60], ends, False, stamp)
    config = AgentConfig(pets=PETS, fit=FitConfig(steps=40, check_every=20, batch=16))
    learner = PetsLearner(contract(), config, tmp_path / "models", 0, lambda phase, fields: None)
    learner.add([episode], TrainingBag(path="bag", sha256="0" * 64))
    notice = learner.train()
    session = ControllerSession.load(Path(notice.path), contract())
    assert session.act(np.array([0.1, 0.0, -1.0, 0.0, 0.0], np.float32)).ok
