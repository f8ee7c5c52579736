"""The tree search against exhaustive search, and over an exported network on the robot's side."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from cartpole_models import contract, random_dynamics
from planner_worlds import Linear
from torch import Tensor

from wm_ros.agents.pets import PetsConfig
from wm_ros.contract.errors import UserError
from wm_ros.export import step_network
from wm_ros.planners.choice import make
from wm_ros.planners.mcts import MCTS, MCTSConfig
from wm_ros.planners.plan import Plan
from wm_ros.runtime import tree_search
from wm_ros.runtime.step_network import StepNetwork

GRID = MCTSConfig(horizon=4, bins=3, simulations=1500, rollout=0, exploration=1.4)
LIMIT = 2.0


class Hills(Linear):
    """A small reward nearby on the left, a large one far on the right, behind a ditch."""

    def step(self, observation: Tensor, action: Tensor) -> Any:
        x = observation[:, 0] + 0.5 * action[:, 0]
        reward = torch.exp(-4 * (x + 1.0) ** 2) - 0.3 * torch.exp(-4 * (x - 1.5) ** 2) + 3 * torch.exp(-4 * (x - 3.5) ** 2)
        return super().step(observation, action)._replace(observation=torch.stack([x, observation[:, 1]], dim=1), reward=reward)


def planned(config: MCTSConfig, world: Any, start: tuple[float, float] = (0.0, 0.0), seed: int = 0, **more: Any) -> Plan:
    planner = make(config, torch.tensor([-LIMIT]), torch.tensor([LIMIT]), **more)
    generator = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(shape, generator=generator) for name, shape in planner.noise_shapes(world).items()}
    return planner(world, torch.tensor(start), {"best": torch.zeros(config.horizon, 1)}, noise)


def exhaustive(world: Any, start: tuple[float, float], horizon: int) -> tuple[float, list[float]]:
    sequences = torch.tensor(list(itertools.product([-LIMIT, 0.0, LIMIT], repeat=horizon)))
    total = world.rollout(torch.tensor(start), sequences.T.unsqueeze(-1), None).reward.sum(dim=0)[0]
    return float(total.max()), sequences[total.argmax()].tolist()


@pytest.mark.parametrize("start", [(0.0, 0.0), (1.0, 0.0), (-0.7, 0.0), (2.2, 0.0)])
def test_the_best_of_all_sequences_is_found(start: tuple[float, float]) -> None:
    best, actions = exhaustive(Hills(), start, 4)
    plan = planned(GRID, Hills(), start)
    assert float(plan.value) == pytest.approx(best, abs=1e-5)
    assert plan.actions[:, 0].tolist() == actions


def test_what_lies_behind_a_termination_does_not_count() -> None:
    class Cliff(Hills):
        def step(self, observation: Tensor, action: Tensor) -> Any:
            made = super().step(observation, action)
            return made._replace(going_on=(made.observation[:, 0] < 1.2).float())

        def rollout(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Any:
            imagined = super().rollout(observation, actions, noise)
            return imagined._replace(going_on=torch.cumprod((imagined.observation[..., 0] < 1.2).float(), dim=0))

    free, fenced = planned(GRID, Hills(), (1.0, 0.0)), planned(GRID, Cliff(), (1.0, 0.0))
    assert float(free.observations[-1, 0]) > 2.0
    assert float(fenced.observations[-1, 0]) == pytest.approx(-1.0)


def test_a_value_function_sees_beyond_the_horizon() -> None:
    near = replace(GRID, horizon=2, simulations=60)
    assert float(planned(near, Hills()).observations[-1, 0]) < 0.0
    assert float(planned(near, Hills(), value=lambda o: 3.0 * o[..., 0]).observations[-1, 0]) == 2.0


def test_more_simulations_find_better_plans_among_drawn_actions() -> None:
    drawn = MCTSConfig(horizon=5, samples=6, rollout=0)
    values = [sum(float(planned(replace(drawn, simulations=n), Hills(), (1.0, 0.0), s).value) for s in range(4)) for n in (3, 30, 300)]
    assert values[0] < values[1] <= values[2]


def test_a_policys_actions_are_tried() -> None:
    still = MCTSConfig(horizon=4, samples=2, std=0.01, simulations=200, rollout=0, exploration=1.4)
    assert float(planned(still, Hills()).observations[-1, 0]) < 0.5
    assert float(planned(still, Hills(), policy=lambda o: LIMIT + 0 * o[:, :1]).observations[-1, 0]) > 2.5


def test_a_prior_steers_the_first_visits() -> None:
    """PUCT (Silver et al. 2018) on a bandit of equal arms: visits go with the prior."""
    probabilities = np.array([0.1, 0.2, 0.1, 0.6], np.float32)
    config = tree_search.TreeConfig(
        simulations=200, depth=1, joints=1, bins=3, samples=0, std=1.0, exploration=2.0, rollout=0, discount=1.0
    )

    def step(state: Any, action: Any) -> tree_search.Transition:
        return tree_search.Transition(state, np.ones(len(state), np.float32), np.ones(len(state), np.float32))

    found = tree_search.search(
        config, np.zeros(1, np.float32), np.zeros((1, 1), np.float32), step, prior=lambda state, actions: probabilities
    )
    np.testing.assert_allclose(found.root_visits / 200, probabilities, atol=0.02)


def test_the_tree_over_an_exported_network_is_the_same_as_over_the_model() -> None:
    model = random_dynamics(stride=2, sample=False)
    config = MCTSConfig(horizon=5, simulations=40, samples=4, rollout=2)
    low, high = torch.tensor([-10.0]), torch.tensor([10.0])
    planner = MCTS(config, low, high)
    tree = planner.tree_config()
    data = step_network.export(model, contract(), tree.width).SerializeToString()
    network = StepNetwork(data, contract(), tree.width)
    rng = np.random.default_rng(0)
    last = np.zeros((5, 1), np.float32)
    for _ in range(3):
        observation = rng.standard_normal(5).astype(np.float32)
        noise = rng.standard_normal(tree.noise_shape).astype(np.float32)
        plan = planner(model, torch.from_numpy(observation), {"best": torch.from_numpy(last)}, {"actions": torch.from_numpy(noise)})
        found = tree_search.search(tree, observation, last, network, noise)
        assert found.ok and found.simulations == float(plan.iterations) == 40
        np.testing.assert_allclose(10.0 * found.actions, plan.actions.numpy(), atol=1e-5)
        last = found.actions
    with pytest.raises(UserError, match="export it again"):
        StepNetwork(data, contract(), tree.width + 1)


def test_impossible_trees_are_refused() -> None:
    for wrong in ({"simulations": 0}, {"bins": 1}, {"samples": 0}, {"rollout": -1}, {"std": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            MCTSConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bins 5 with 6 joints make 15625 actions"):
        MCTS(MCTSConfig(bins=5), -torch.ones(6), torch.ones(6)).tree_config()
    with pytest.raises(ValueError, match="fits into no ONNX graph"):
        PetsConfig(planner=MCTSConfig())


def test_a_subtree_without_anything_finite_is_left() -> None:
    class Swamp(Hills):
        def step(self, observation: Tensor, action: Tensor) -> Any:
            made = super().step(observation, action)
            lost = made.observation[:, 0] > 0.5
            return made._replace(reward=torch.where(lost, math.nan, made.reward))

    plan = planned(GRID, Swamp())
    assert bool(plan.ok) and float(plan.observations[:, 0].max()) <= 0.5
    assert float(plan.value) == pytest.approx(exhaustive_finite(Swamp()), abs=1e-5)


def exhaustive_finite(world: Any) -> float:
    sequences = torch.tensor(list(itertools.product([-LIMIT, 0.0, LIMIT], repeat=4)))
    total = world.rollout(torch.zeros(2), sequences.T.unsqueeze(-1), None).reward.sum(dim=0)[0]
    return float(total[torch.isfinite(total)].max())
