"""The agent puts model and planner together, and takes over what was trained."""

from __future__ import annotations

from dataclasses import replace

import torch
from cartpole_models import contract
from small_agents import PETS, pets
from torch import Tensor

from wm_ros.agents.controller import Controller
from wm_ros.agents.pets import PetsController, dynamics
from wm_ros.export.template import example_inputs
from wm_ros.planners.cem import CEMConfig
from wm_ros.planners.gradient import GradientConfig
from wm_ros.planners.ilqr import ILQRConfig
from wm_ros.planners.mppi import MPPIConfig
from wm_ros.planners.random_shooting import RandomShootingConfig


def drive(controller: Controller, ticks: int, seed: int = 0) -> list[Tensor]:
    """Actions of some ticks with random observations."""
    _, carry, _ = example_inputs(controller, contract(), seed)
    actions = []
    for tick in range(ticks):
        observation, _, noise = example_inputs(controller, contract(), seed + tick)
        with torch.no_grad():
            result = controller(observation, carry, noise)
        carry = result["next"]
        actions.append(result["action"])
    return actions


def test_everything_that_was_trained_is_taken_over_from_the_chosen_members() -> None:
    trained = dynamics(contract(), PETS, planning=False)
    trained.network.initialize(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _, tensor in trained.named_buffers(recurse=False):
            tensor.add_(0.25)
    controller = PetsController(contract(), PETS)
    controller.take(trained, [2, 0, 1])
    observation = torch.randn(5, generator=torch.Generator().manual_seed(1))
    actions = torch.zeros(3, 4, 1)
    with torch.no_grad():
        ours = controller.model.rollout(observation, actions, None).observation
        theirs = trained.rollout(observation, actions, None).observation
    torch.testing.assert_close(ours, theirs[:, [2, 0]])


def test_a_plan_has_the_shapes_that_the_artifact_promises() -> None:
    controller = pets(0)
    observation, carry, noise = example_inputs(controller, contract(), 0)
    result = controller(observation, carry, noise)
    horizon, elites = PETS.planner.horizon, PETS.planner.elites
    shapes = {name: tuple(value.shape) for name, value in result.items() if name != "next"}
    assert shapes == {
        "action": (1,), "value": (), "plan.action": (horizon, 1), "plan.observation": (horizon, 5), "plan.spread": (horizon, 5),
        "candidates.observation": (elites, horizon, 5), "candidates.return": (elites,), "plan.iterations": (), "ok": (),
    }  # fmt: skip
    assert {name: tuple(value.shape) for name, value in result["next"].items()} == controller.carry
    assert controller.plan_period_s == PETS.stride * contract().control.period_s


def test_actions_are_in_the_contracts_units_and_follow_from_the_inputs_alone() -> None:
    actions = drive(pets(0), 6)
    assert all(-10.0 <= float(a[0]) <= 10.0 for a in actions) and max(abs(float(a[0])) for a in actions) > 1.0
    assert all(torch.equal(a, b) for a, b in zip(actions, drive(pets(0), 6), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(actions, drive(pets(1), 6), strict=True))


def test_any_planner_that_fits_into_a_graph_can_be_chosen() -> None:
    horizon = PETS.planner.horizon
    choices = [
        RandomShootingConfig(horizon=horizon, candidates=8),
        CEMConfig(horizon=horizon, candidates=8, iterations=2, elites=4),
        MPPIConfig(horizon=horizon, candidates=8, iterations=2),
        GradientConfig(horizon=horizon, starts=2, iterations=2),
        ILQRConfig(horizon=horizon, draws=2, iterations=2),
    ]
    for choice in choices:
        controller = pets(0, replace(PETS, planner=choice))
        actions = drive(controller, 3)
        assert controller.config["planner"]["kind"] == choice.kind
        assert all(-10.0 <= float(a[0]) <= 10.0 for a in actions) and len({float(a[0]) for a in actions}) == 3


def test_a_bonus_for_disagreement_makes_plans_go_where_the_members_are_apart() -> None:
    def spread(seed: int, bonus: float) -> float:
        controller = pets(seed, replace(PETS, exploration=bonus))
        generator = torch.Generator().manual_seed(seed)
        noise = {name: torch.randn(spec.shape, generator=generator) for name, spec in controller.noise.items()}
        carry = {name: torch.zeros(shape) for name, shape in controller.carry.items()}
        with torch.no_grad():
            return float(controller(torch.linspace(-0.5, 0.5, 5), carry, noise)["plan.spread"].mean())

    plain, curious = ([spread(seed, bonus) for seed in range(4)] for bonus in (0.0, 5.0))
    assert all(b >= a for a, b in zip(plain, curious, strict=True)) and sum(curious) > 1.1 * sum(plain)
