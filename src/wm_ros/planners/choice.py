"""Planners by the name that configuration files give them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag
from torch import Tensor

from wm_ros.planners.cem import CEM, CEMConfig
from wm_ros.planners.gradient import Gradient, GradientConfig
from wm_ros.planners.icem import ICEM, ICEMConfig
from wm_ros.planners.ilqr import ILQR, ILQRConfig
from wm_ros.planners.mcts import MCTS, MCTSConfig
from wm_ros.planners.mppi import MPPI, MPPIConfig
from wm_ros.planners.planner import Planner, PlannerConfig, Policy
from wm_ros.planners.random_shooting import RandomShooting, RandomShootingConfig
from wm_ros.planners.scoring import Value

DEFAULT = "icem"
"""What is meant where a configuration names no kind."""

CONFIGS: dict[str, type[PlannerConfig]] = {
    "random_shooting": RandomShootingConfig,
    "cem": CEMConfig,
    "icem": ICEMConfig,
    "mppi": MPPIConfig,
    "gradient": GradientConfig,
    "ilqr": ILQRConfig,
    "mcts": MCTSConfig,
}


def kind_of(given: Any) -> str:
    """The kind that a mapping from a file, or a configuration, names."""
    return str(given.get("kind", DEFAULT) if isinstance(given, dict) else getattr(given, "kind", DEFAULT))


PlannerChoice = Annotated[
    Annotated[RandomShootingConfig, Tag("random_shooting")]
    | Annotated[CEMConfig, Tag("cem")]
    | Annotated[ICEMConfig, Tag("icem")]
    | Annotated[MPPIConfig, Tag("mppi")]
    | Annotated[GradientConfig, Tag("gradient")]
    | Annotated[ILQRConfig, Tag("ilqr")]
    | Annotated[MCTSConfig, Tag("mcts")],
    Discriminator(kind_of),
]
"""Settings of any planner, told apart by `kind`."""


def make(config: PlannerConfig, low: Tensor, high: Tensor, value: Value | None = None, policy: Policy | None = None) -> Planner[Any]:
    """The planner that `config` is for; arguments as those of `Planner`."""
    planners: dict[type[PlannerConfig], type[Planner[Any]]] = {
        RandomShootingConfig: RandomShooting,
        CEMConfig: CEM,
        ICEMConfig: ICEM,
        MPPIConfig: MPPI,
        GradientConfig: Gradient,
        ILQRConfig: ILQR,
        MCTSConfig: MCTS,
    }
    return planners[type(config)](config, low, high, value, policy)
