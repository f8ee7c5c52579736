"""A policy from recordings alone stays where they are, and comes out the same after an interruption."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_mbpo import slider

from wm_ros.agents.mbpo import LengthSchedule, MbpoConfig
from wm_ros.agents.sac import SacConfig
from wm_ros.contract.errors import UserError
from wm_ros.data.episode import Episode
from wm_ros.export.controller import versions
from wm_ros.models.ensemble import EnsembleConfig
from wm_ros.runtime.artifact import TrainingBag
from wm_ros.runtime.controller import ControllerSession
from wm_ros.training import pessimism
from wm_ros.training.bag_policy import BagPolicyPlan
from wm_ros.training.bag_set import BagSet
from wm_ros.training.config import MbpoAgentConfig, PolicyConfig, SacAgentConfig
from wm_ros.training.mbpo_learner import MbpoFitConfig, ModelFitConfig
from wm_ros.training.offline_policy import OfflinePolicyTraining

CLIFF = 1.2
"""Where the slider falls; recordings end at 1."""


def reward(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """More to the right, until the cliff."""
    return np.where(position > CLIFF, -10.0, position)


def recordings(count: int = 24, ticks: int = 40) -> list[Episode]:
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(count):
        position = np.empty(ticks + 1)
        position[0] = rng.uniform(-1, 1)
        actions = rng.uniform(-1, 1, ticks)
        for t in range(ticks):
            if abs(position[t] + 0.2 * actions[t]) > 1.0:  # whoever recorded this kept off the ends
                actions[t] *= -1.0
            position[t + 1] = position[t] + 0.2 * actions[t]
        columns = position[:, None].astype(np.float32), actions[:, None].astype(np.float32), reward(position[1:]).astype(np.float32)
        episodes.append(Episode(*columns, np.zeros(ticks, np.bool_), True, np.arange(ticks + 1)))
    return episodes


AGENT = MbpoAgentConfig(
    MbpoConfig(
        ensemble=EnsembleConfig(members=5, elites=4, layers=2, width=24), lengths=LengthSchedule(5, 5), rollouts=20, model_every=20
    ),
    SacConfig(layers=2, width=32),
    MbpoFitConfig(batch=64, warm_up=64, learning_rate=2e-3, discount=0.9, target_rate=0.02, updates_per_step=5.0),
    ModelFitConfig(steps=600, batch=64, learning_rate=3e-3),
)


def training(agent: PolicyConfig, folder: Path, updates: int, episodes: list[Episode] | None = None) -> OfflinePolicyTraining:
    bag = TrainingBag(path="memory", sha256="0" * 64)
    plan = BagPolicyPlan(slider().canonical_json(), agent, (bag,), (), versions(), updates)
    return OfflinePolicyTraining(plan, BagSet([bag], [episodes or recordings()]), folder)


def run(begun: OfflinePolicyTraining) -> OfflinePolicyTraining:
    while not begun.finished:
        begun.step()
    return begun


def driven(trained: OfflinePolicyTraining, ticks: int = 40) -> tuple[float, float]:
    """Return and farthest position of the true slider under the policy, from the middle."""
    networks, position, total, farthest = trained.learner.networks, 0.0, 0.0, 0.0
    for _ in range(ticks):
        with torch.inference_mode():
            mean, _ = networks.gaussian(networks.normalized(torch.tensor([[position]])))
        position = float(np.clip(position + 0.2 * float(torch.tanh(mean)), -2.0, 2.0))
        total, farthest = total + float(reward(np.array(position))), max(farthest, position)
    return total, farthest


@pytest.fixture(scope="module")
def pessimistic(tmp_path_factory: pytest.TempPathFactory) -> OfflinePolicyTraining:
    return run(training(AGENT, tmp_path_factory.mktemp("pessimistic"), 1500))


def test_a_naive_policy_from_recordings_goes_over_the_cliff_and_a_pessimistic_one_does_not(
    pessimistic: OfflinePolicyTraining, tmp_path: Path
) -> None:
    naive = run(training(replace(AGENT, mbpo=replace(AGENT.mbpo, pessimism=0.0)), tmp_path, 1500))
    total, farthest = driven(naive)
    assert farthest > CLIFF and total < 0
    total, farthest = driven(pessimistic)
    assert 0.5 < farthest < CLIFF and total > 15


def test_the_penalty_is_chosen_on_held_out_episodes_and_reported(pessimistic: OfflinePolicyTraining) -> None:
    pessimistic.finish()
    metrics = json.loads((pessimistic.folder / "metrics.json").read_text())
    choice = metrics["pessimism_choice"]
    assert choice["held_out"] and choice["coverage"] >= 0.95 and choice["ticks"] == sum(map(len, pessimistic.held_out))
    assert metrics["pessimism"] == choice["weight"] == pytest.approx(0.9 * choice["error_per_spread"] * choice["worth"])
    assert not {id(e) for e in pessimistic.held_out} & {id(e) for e in pessimistic._episodes}
    with (pessimistic.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["update"] for row in rows] == ["1000", "1500"] and float(rows[0]["spread"]) > 0 and float(rows[0]["rollout_length"]) == 5
    session = ControllerSession.load(pessimistic.folder / "controller.onnx", slider())
    assert session.metadata.agent == "mbpo" and session.metadata.episodes == len(pessimistic._episodes)


def test_values_range_over_what_recorded_returns_do() -> None:
    def constant(value: float) -> Episode:
        columns = np.zeros((31, 1), np.float32), np.zeros((30, 1), np.float32), np.full(30, value, np.float32)
        return Episode(*columns, np.zeros(30, np.bool_), True, np.arange(31))

    assert pessimism.value_range([constant(0.5), constant(2.0)], 0.9) == pytest.approx(1.5 / (1 - 0.9))
    assert pessimism.value_range([constant(0.5)], 0.99) == pytest.approx(0.0, abs=1e-9)  # shorter than the discount looks ahead


def test_a_weight_that_is_given_is_taken(tmp_path: Path) -> None:
    given = replace(AGENT, mbpo=replace(AGENT.mbpo, pessimism=1.5), model_fit=replace(AGENT.model_fit, steps=20))
    begun = training(given, tmp_path, 1)
    while begun.model_fit is not None:
        said = begun.step()
    assert said == "penalty 1.5, as given" and begun.choice is None and begun.imagination is not None
    assert begun.imagination.pessimism == 1.5


def test_a_soft_actor_critic_learns_from_recordings_without_a_model(tmp_path: Path) -> None:
    trained = run(training(SacAgentConfig(AGENT.sac, AGENT.fit), tmp_path, 30))
    trained.finish()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["agent"] == "sac" and metrics["pessimism"] is None and metrics["updates"] == 30
    assert ControllerSession.load(tmp_path / "controller.onnx", slider()).metadata.agent == "sac"


def test_fewer_steps_than_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"bag: 40 steps to learn from, and a batch has fit\.batch 64: give more bags"):
        training(AGENT, tmp_path, 1, recordings(1))
