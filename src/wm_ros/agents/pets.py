"""PETS: probabilistic ensemble with trajectory sampling under MPC (Chua et al. 2018), with any planner; iCEM unless chosen otherwise."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from wm_ros.agents.controller import Controller, NoiseSpec
from wm_ros.agents.explorer import ExplorerConfig
from wm_ros.agents.guide import Guide
from wm_ros.contract.schema import Contract
from wm_ros.models.dynamics import LimitCost, ObservationDynamics, Propagation
from wm_ros.models.ensemble import EnsembleConfig
from wm_ros.models.family import ModelConfig
from wm_ros.planners.choice import PlannerChoice, make
from wm_ros.planners.icem import ICEMConfig
from wm_ros.planners.mcts import MCTSConfig


@dataclass(frozen=True)
class PetsConfig:
    """The agent; how it is fitted stands in `training.fit.FitConfig`."""

    stride: int = 3
    """Control ticks that one model step covers; the plan has one action per model step."""
    sample: bool = False
    """Plans draw from the predicted Gaussians; False propagates each member's mean, which is faster."""
    propagation: Propagation = "TSinf"
    """How particles and members meet, `TSinf`, `TS1` or `mean`; see `models.dynamics.Propagation`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Family of the networks, and what they predict."""
    limits: LimitCost = field(default_factory=LimitCost)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    planner: PlannerChoice = field(default_factory=ICEMConfig)
    """`kind` names the planner, `icem` where it is not given; the other settings are its own."""
    exploration: float = 0.0
    """Reward in planning, per tick, for members that are one deviation of the observations apart: the robot goes where the model has
    something to learn. Recorded returns have no such term."""
    explorer: ExplorerConfig = field(default_factory=ExplorerConfig)
    """What acts before there is a model."""

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"stride {self.stride} must be at least 1")
        if not 0.0 <= self.exploration < float("inf"):
            raise ValueError(f"exploration {self.exploration} must not be negative")
        if isinstance(self.planner, MCTSConfig):
            raise ValueError("planner.kind: a tree (mcts) fits into no ONNX graph, which is how this agent ships: choose another planner")
        if self.exploration and (self.propagation == "mean" or self.ensemble.elites < 2):
            raise ValueError("exploration: needs members that differ: two elites or more, and another propagation than mean")
        if self.sample and (self.model.family == "deterministic" or self.propagation == "mean"):
            raise ValueError("sample: neither a deterministic model nor particles that follow the mean can be drawn: set it to false")


def dynamics(contract: Contract, config: PetsConfig, planning: bool) -> ObservationDynamics:
    """Untrained networks: all members for training, the elites for planning."""
    members = config.ensemble.elites if planning else config.ensemble.members
    return ObservationDynamics(
        contract,
        config.ensemble,
        config.stride,
        members=members,
        sample=config.sample,
        limits=config.limits,
        propagation=config.propagation,
        model=config.model,
        exploration=config.exploration if planning else 0.0,
    )


class PetsController(Controller):
    """The whole plan as one pure function: each tick plans anew and gives the best candidate's first action."""

    agent = "pets"

    def __init__(self, contract: Contract, config: PetsConfig, guide: Guide | None = None) -> None:
        """Args: contract, settings, and a trained policy whose run is a candidate and whose critics value the end of each plan."""
        super().__init__()
        self.config = asdict(config) if guide is None else {**asdict(config), "guide": guide.config}
        self.guide = guide
        self.model = dynamics(contract, config, planning=True)
        self.planner = make(
            config.planner,
            torch.tensor([j.low for j in contract.action.joints]),
            torch.tensor([j.high for j in contract.action.joints]),
            value=None if guide is None else guide.value,
            policy=None if guide is None else guide.action,
        )
        self.differentiates = self.planner.differentiates
        self.carry = self.planner.carry_shapes()
        self.noise = {name: NoiseSpec(shape) for name, shape in self.planner.noise_shapes(self.model).items()}
        self.plan_period_s = config.stride * contract.control.period_s

    def take(self, trained: ObservationDynamics, elites: list[int]) -> None:
        """Copies the normalizers and the chosen members of a trained model."""
        self.model.take(trained, elites[: self.model.members])

    def forward(self, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor]) -> dict[str, Any]:
        plan = self.planner(self.model, observation, carry, noise)
        return {
            "action": plan.action,
            "next": plan.carry,
            "value": plan.value,
            "plan.action": plan.actions,
            "plan.observation": plan.observations,
            "plan.spread": plan.spread,
            "candidates.observation": plan.candidates,
            "candidates.return": plan.returns,
            "plan.iterations": plan.iterations,
            "ok": plan.ok,
        }
