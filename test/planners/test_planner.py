"""What every planner promises, whatever its method."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from planner_worlds import Linear
from torch import Tensor

from wm_ros.contract.errors import UserError
from wm_ros.models.world_model import Imagined
from wm_ros.planners.choice import CONFIGS, make
from wm_ros.planners.plan import Plan
from wm_ros.planners.planner import Planner, PlannerConfig

START = torch.tensor([1.0, -0.5])
SMALL: dict[str, dict[str, Any]] = {
    "random_shooting": {"candidates": 16, "iterations": 4},
    "cem": {"candidates": 16, "iterations": 4, "elites": 4},
    "icem": {"candidates": 16, "iterations": 4, "elites": 4},
    "mppi": {"candidates": 16, "iterations": 4},
    "gradient": {"starts": 6, "iterations": 4},
    "ilqr": {"draws": 8, "iterations": 4},
    "mcts": {"simulations": 4, "samples": 6, "rollout": 2},
}


def small(kind: str, **more: Any) -> PlannerConfig:
    return CONFIGS[kind](**{"horizon": 5, **SMALL[kind], **more})


def made(kind: str, **more: Any) -> Planner[Any]:
    return make(small(kind), torch.tensor([-2.0]), torch.tensor([3.0]), **more)


def inputs(planner: Planner[Any], world: Any, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(shape, generator=generator) for name, shape in planner.noise_shapes(world).items()}
    return {name: torch.zeros(shape) for name, shape in planner.carry_shapes().items()}, noise


def run(planner: Planner[Any], world: Any, seed: int = 0, **more: Any) -> Plan:
    carry, noise = inputs(planner, world, seed)
    return planner(world, START, carry, noise, **more)


def all_finite(plan: Plan) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in (plan.action, plan.actions, *plan.carry.values()))


@pytest.mark.parametrize("kind", SMALL)
def test_a_deadline_ends_it_between_iterations_with_the_best_so_far(kind: str) -> None:
    planner, asked = made(kind), 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 2

    early, late = run(planner, Linear(), stop=stop), run(planner, Linear())
    assert float(early.iterations) == 2 and asked == 2 and float(late.iterations) == 4
    shorter = make(small(kind, **{"simulations" if kind == "mcts" else "iterations": 2}), torch.tensor([-2.0]), torch.tensor([3.0]))
    carry, noise = inputs(planner, Linear())
    fewer = {name: noise[name][: shape[0]] for name, shape in shorter.noise_shapes(Linear()).items()}
    expected = shorter(Linear(), START, carry, fewer)
    assert torch.equal(early.actions, expected.actions) and torch.equal(early.returns, expected.returns)
    assert float(run(planner, Linear(), stop=lambda: True).iterations) == 1


@pytest.mark.parametrize("kind", SMALL)
def test_it_goes_on_where_the_last_plan_ended(kind: str) -> None:
    class Constant(Linear):
        def step(self, observation: Tensor, action: Tensor) -> Any:
            return super().step(observation, action)._replace(reward=-((action[:, 0] - 2.2) ** 2))

    planner, world = made(kind), Constant()
    empty, _ = inputs(planner, world)
    carry, warm, cold = empty, 0.0, 0.0
    for tick in range(12):
        _, noise = inputs(planner, world, tick)
        plan = planner(world, START, carry, noise)
        carry = plan.carry
        warm, cold = warm + float(plan.value), cold + float(planner(world, START, empty, noise).value)
        assert all(bool((c.abs() <= 1).all()) for c in carry.values())
    assert warm >= 0.8 * cold - 1e-6


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_world_that_breaks_on_some_actions_is_planned_around(kind: str, poison: float) -> None:
    class Broken(Linear):
        def step(self, observation: Tensor, action: Tensor) -> Any:
            made = super().step(observation, action)
            return made._replace(observation=torch.where(action[:, :1] > 0.8, poison, made.observation))

    for seed in range(3):
        plan = run(made(kind), Broken(), seed)
        assert bool(plan.ok) and all_finite(plan) and math.isfinite(float(plan.value))
        assert bool((plan.actions <= 0.8).all())


@pytest.mark.parametrize("kind", SMALL)
def test_a_world_without_any_finite_future_gives_a_plan_that_says_so(kind: str) -> None:
    plan = run(made(kind), Linear(a=torch.full((2, 2), math.nan)))
    assert not bool(plan.ok) and all_finite(plan)


@pytest.mark.parametrize("kind", SMALL)
def test_the_terminal_value_pulls_the_plan(kind: str) -> None:
    free = Linear(q=torch.zeros(2, 2), r=torch.tensor([[1e-3]]))
    ends = [
        float(run(made(kind, value=lambda o, s=sign: 10.0 * s * o[..., 0]), free).observations[-1, 0]) for sign in (-1.0, 1.0)
    ]
    assert ends[0] < float(START[0]) < ends[1]


@pytest.mark.parametrize("kind", [k for k in SMALL if k != "mcts"])
def test_a_policy_enters_as_a_candidate(kind: str) -> None:
    """The policy knows the one door of a world in which everything else costs the same."""
    door = torch.tensor([0.7, -1.1, 2.0, 0.3, -0.4])

    class Door(Linear):
        def rollout(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Imagined:
            imagined = super().rollout(observation, actions, noise)
            through = ((actions[..., 0].T - door).abs().amax(dim=1) < 0.02).float()
            return imagined._replace(reward=(through / len(door)).expand(len(door), 1, -1))

    world = Door()
    course, _, _ = world.rollout(START, door.reshape(-1, 1, 1), None)
    states = torch.cat([START.expand(1, 2), course[:-1, 0, 0]])

    def policy(observation: Tensor) -> Tensor:
        return door[(states - observation).abs().sum(dim=1).argmin()].reshape(1, 1)

    assert float(run(made(kind), world).returns.amax()) == 0.0
    plan = run(made(kind, policy=policy), world)
    assert float(plan.returns.amax()) == pytest.approx(1.0)
    broken = run(made(kind, policy=lambda o: o[:, :1] * math.nan), Linear())
    assert bool(broken.ok) and all_finite(broken)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("wrong", [{"horizon": 0}, {"discount": 0.0}, {"discount": 1.5}, {"aggregate": "best"}])
def test_impossible_settings_are_refused(kind: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        small(kind, **wrong)


@pytest.mark.parametrize("kind", ["cem", "icem"])
def test_more_elites_than_candidates_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="elites 17 <= candidates 16"):
        small(kind, elites=17)


@pytest.mark.parametrize(
    ("low", "high"),
    [([1.0], [0.0]), ([0.0], [0.0]), ([], []), ([0.0], [1.0, 1.0]), ([0.0], [math.inf]), ([math.nan], [1.0])],
)
def test_impossible_limits_are_refused(low: list[float], high: list[float]) -> None:
    with pytest.raises(ValueError, match="action limits: low"):
        make(small("cem"), torch.tensor(low), torch.tensor(high))


@pytest.mark.parametrize("kind", SMALL)
def test_a_model_of_other_dimensions_is_refused(kind: str) -> None:
    planner, world = made(kind), Linear(b=torch.ones(2, 3), r=torch.eye(3))
    with pytest.raises(ValueError, match="model of 3 actions, limits of 1"):
        run(planner, world)
    carry, noise = inputs(planner, Linear())
    with pytest.raises(ValueError, match=r"observation \(3,\), the model has \[2\]"):
        planner(Linear(), torch.zeros(3), carry, noise)
    name = next(iter(carry))
    with pytest.raises(ValueError, match=rf"carry\.{name}: expected .*, found \(7,\)"):
        planner(Linear(), START, {**carry, name: torch.zeros(7)}, noise)


@pytest.mark.parametrize("kind", SMALL)
def test_a_reward_of_a_wrong_shape_is_named(kind: str) -> None:
    class Wrong(Linear):
        def rollout(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Imagined:
            imagined = super().rollout(observation, actions, noise)
            return imagined._replace(reward=imagined.reward.unsqueeze(-1))

    with pytest.raises(UserError, match=r"contract: reward\.function: gives shape"):
        run(made(kind), Wrong())


def test_a_configuration_makes_its_planner() -> None:
    for kind in CONFIGS:
        assert make(small(kind), torch.tensor([-1.0]), torch.tensor([1.0])).config == replace(small(kind))
