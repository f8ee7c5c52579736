"""Every planner on every model family: it runs, keeps the limits, follows from its inputs alone, and is the same in onnxruntime.

A new family is one line in `FAMILIES`, a new planner one in `PLANNERS`. An export takes seconds, so by default every planner and every
family is exported once; `WM_ROS_FULL_MATRIX=1` exports every pair.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from cartpole_models import contract, random_dynamics
from planner_worlds import Linear
from torch import Tensor

from wm_ros.agents.controller import Controller, NoiseSpec
from wm_ros.export import template
from wm_ros.models.family import ModelConfig
from wm_ros.models.simulator import SimulatorModel
from wm_ros.planners.cem import CEMConfig
from wm_ros.planners.choice import CONFIGS, make
from wm_ros.planners.gradient import GradientConfig
from wm_ros.planners.icem import ICEMConfig
from wm_ros.planners.ilqr import ILQRConfig
from wm_ros.planners.mcts import MCTSConfig
from wm_ros.planners.mppi import MPPIConfig
from wm_ros.planners.planner import PlannerConfig
from wm_ros.planners.random_shooting import RandomShootingConfig

FAMILIES: dict[str, Callable[[], Any]] = {
    "gaussian mean": lambda: random_dynamics(stride=2, sample=False, propagation="mean"),
    "gaussian TSinf": lambda: random_dynamics(stride=1, sample=True),
    "gaussian TS1": lambda: random_dynamics(stride=1, sample=True, propagation="TS1"),
    "deterministic": lambda: random_dynamics(stride=2, sample=False, model=ModelConfig(family="deterministic")),
    "mixture": lambda: random_dynamics(stride=1, sample=True, model=ModelConfig(family="mixture", components=2)),
    "linear": lambda: Linear(
        a=0.9 * torch.eye(5) + 0.05, b=torch.tensor([[0.0], [0.1], [0.0], [0.2], [0.1]]), q=torch.eye(5), r=torch.tensor([[0.01]])
    ),
    "simulator": lambda: SimulatorModel(contract(), stride=2, threads=1),
}
PLANNERS: dict[str, PlannerConfig] = {
    "random_shooting": RandomShootingConfig(horizon=2, candidates=40, shown=3),
    "cem": CEMConfig(horizon=2, candidates=8, iterations=2, elites=3),
    "icem": ICEMConfig(horizon=2, candidates=8, iterations=2, elites=3, kept=2),
    "mppi": MPPIConfig(horizon=2, candidates=8, iterations=2, shown=3, control_cost=0.1, aggregate="worst", pessimism=0.1),
    "gradient": GradientConfig(horizon=2, starts=3, iterations=1),
    "ilqr": ILQRConfig(horizon=2, draws=4, iterations=1, step_sizes=3),
    "mcts": MCTSConfig(horizon=2, simulations=6, samples=4),
}
NOT_IN_A_GRAPH = {"simulator", "mcts"}
"""What no ONNX graph can hold; `test_mcts.py` has the tree over an exported step."""
PAIRS = [(planner, family) for planner in PLANNERS for family in FAMILIES if not {planner, family} & NOT_IN_A_GRAPH]
ONCE = [
    ("random_shooting", "mixture"),
    ("cem", "gaussian mean"),
    ("icem", "gaussian TS1"),
    ("mppi", "gaussian TSinf"),
    ("gradient", "deterministic"),
    ("ilqr", "linear"),  # the second derivatives of a network make a graph that takes half a minute to trace
]
EXPORTED = PAIRS if os.environ.get("WM_ROS_FULL_MATRIX") else ONCE
LOW, HIGH = torch.tensor([-10.0]), torch.tensor([10.0])


class Planning(Controller):
    """Any planner over any model as a controller."""

    agent = "matrix"

    def __init__(self, planner: str, family: str) -> None:
        super().__init__()
        self.model = family_model(family)
        self.planner = make(PLANNERS[planner], LOW, HIGH)
        self.config, self.differentiates = {}, self.planner.differentiates
        self.carry = self.planner.carry_shapes()
        self.noise = {name: NoiseSpec(shape) for name, shape in self.planner.noise_shapes(self.model).items()}

    def forward(self, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor]) -> dict[str, Any]:
        plan = self.planner(self.model, observation, carry, noise)._asdict()
        return {"next": plan.pop("carry"), **plan}


@lru_cache
def family_model(name: str) -> Any:
    return FAMILIES[name]()


def ticks(controller: Controller, seed: int = 0, count: int = 3) -> list[dict[str, Any]]:
    """A few ticks with random observations and noise, each with the carry of the one before."""
    _, carry, _ = template.example_inputs(controller, contract(), seed)
    results = []
    for tick in range(count):
        observation, _, noise = template.example_inputs(controller, contract(), seed + tick)
        with torch.no_grad():
            results.append(controller(observation, carry, noise))
        carry = results[-1]["next"]
    return results


def flat(result: dict[str, Any]) -> dict[str, Tensor]:
    return {**{n: v for n, v in result.items() if n != "next"}, **{f"next.{n}": v for n, v in result["next"].items()}}


def test_every_planner_that_can_be_configured_is_in_the_matrix() -> None:
    assert PLANNERS.keys() == CONFIGS.keys()
    assert {name for pair in ONCE for name in pair} | NOT_IN_A_GRAPH == {*PLANNERS, *FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("planner", PLANNERS)
def test_it_runs_within_the_limits_and_follows_from_its_inputs_alone(planner: str, family: str) -> None:
    controller = Planning(planner, family)
    horizon = PLANNERS[planner].horizon
    first, again, other = ticks(controller), ticks(controller), ticks(controller, seed=50)
    for one, two in zip(first, again, strict=True):
        assert all(torch.equal(value, flat(two)[name]) for name, value in flat(one).items())
        assert one["action"].shape == (1,) and one["actions"].shape == (horizon, 1) and torch.equal(one["action"], one["actions"][0])
        assert bool(((one["actions"] >= LOW) & (one["actions"] <= HIGH)).all())
        assert one["observations"].shape == one["spread"].shape == (horizon, 5)
        assert one["candidates"].shape[1:] == (horizon, 5) and one["returns"].shape == one["candidates"].shape[:1]
        assert bool(one["ok"]) and float(one["iterations"]) >= 1 and float(one["value"]) == float(one["returns"][0])
        assert {n: tuple(v.shape) for n, v in one["next"].items()} == controller.carry
    assert any(not torch.equal(one["actions"], two["actions"]) for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize(("planner", "family"), EXPORTED)
def test_onnxruntime_agrees_tick_after_tick(planner: str, family: str) -> None:
    controller = Planning(planner, family)
    graph = template.filled(template.export(controller, contract()), controller)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs, outputs = {i.name for i in session.get_inputs()}, [o.name for o in session.get_outputs()]
    _, carry, _ = template.example_inputs(controller, contract(), 0)
    for tick, expected in enumerate(ticks(controller)):
        observation, _, noise = template.example_inputs(controller, contract(), tick)
        feed = {"observation": observation, **{f"carry.{n}": v for n, v in carry.items()}, **{f"noise.{n}": v for n, v in noise.items()}}
        got = dict(zip(outputs, session.run(None, {n: v.numpy() for n, v in feed.items() if n in inputs}), strict=True))
        assert set(got) == set(flat(expected))
        for name, value in flat(expected).items():
            np.testing.assert_allclose(got[name], value.numpy(), atol=1e-5, rtol=1e-5, err_msg=f"{name}, tick {tick}")
        carry = expected["next"]
