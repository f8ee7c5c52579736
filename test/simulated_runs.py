"""Short trainings in simulation, for tests."""

from __future__ import annotations

from typing import TypeVar

import torch
from small_sac import FIT, SAC

from wm_ros.contract import schema
from wm_ros.training.config import SacAgentConfig
from wm_ros.training.simulated import SimulatedPlan, SimulatedTraining

Kind = TypeVar("Kind", bound=SimulatedTraining)


def plan(**options: object) -> SimulatedPlan:
    contract = schema.load("cartpole_swingup")
    contract = schema.parse({**contract.model_dump(mode="json"), "episode": {"duration_s": 0.6}}, "test")
    settings = {"agent": SacAgentConfig(SAC, FIT), "frames": 480, "evaluate_every": 200, "versions": {"torch": torch.__version__}}
    return SimulatedPlan(contract.canonical_json(), **{**settings, "evaluations": 2, "seed": 4, **options})  # type: ignore[arg-type]


def run(training: Kind, steps: int | None = None) -> Kind:
    """To the end, or so many steps and evaluations far."""
    while (not training.finished or training.due) and steps != 0:
        if training.due:
            training.evaluate()
        else:
            training.step()
        steps = None if steps is None else steps - 1
    return training
