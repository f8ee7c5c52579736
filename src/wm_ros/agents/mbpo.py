"""MBPO: a soft actor-critic that learns from short rollouts of a learned model (Janner et al. 2019, arXiv 1906.08253)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from wm_ros.agents.sac import SacController
from wm_ros.contract.schema import Contract
from wm_ros.models.dynamics import ObservationDynamics
from wm_ros.models.ensemble import EnsembleConfig
from wm_ros.models.family import ModelConfig


@dataclass(frozen=True)
class LengthSchedule:
    """Ticks of a rollout, growing linearly with the transitions so far (appendix C): `20k steps: 1 → 150k steps: 15`."""

    first: int = 1
    """Until `begin`."""
    last: int = 1
    """From `end` on."""
    begin: int = 0
    """Transitions at which growth begins."""
    end: int = 1
    """Transitions at which it ends."""

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError(f"first {self.first} must be at least 1, and last {self.last} at least first")
        if not 0 <= self.begin < self.end:
            raise ValueError(f"begin {self.begin} must not be negative, and end {self.end} must be above begin")

    def at(self, transitions: int) -> int:
        """Ticks of a rollout after so many transitions."""
        share = min(1.0, max(0.0, (transitions - self.begin) / (self.end - self.begin)))
        return int(self.first + share * (self.last - self.first))


@dataclass(frozen=True)
class MbpoConfig:
    """What is imagined, and how; networks and updates of the policy stand in `SacConfig` and `SacFitConfig`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """Family of the networks, and what they predict."""
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    """Size of the model; its elites imagine, each row with one of them, drawn anew for every tick (section 4.2)."""
    sample: bool = True
    """Imagined ticks draw from the predicted distribution, where the family has one; False: they take its mean."""
    lengths: LengthSchedule = field(default_factory=LengthSchedule)
    """Ticks of each rollout."""
    model_every: int = 250
    """Transitions between two fits of the model, after each of which rollouts are imagined."""
    rollouts: int = 100
    """Begun for each transition, at states drawn from the recorded ones. Published: 400."""
    kept: int = 4
    """Rounds of rollouts that are kept to learn from; the oldest makes room."""
    real_share: float = 0.05
    """Share of a batch that is real. 1: a soft actor-critic beside a model that nobody asks."""
    exploration: float = 0.0
    """Reward for a spread of one over the members, see `ObservationDynamics.spread`: the policy seeks what the model does not know."""
    pessimism: float | None = None
    """Reward taken off for a spread of one (MOPO, Yu et al. 2020, equation 6). None: in a training from bags it is chosen on held-out data,
    in simulation there is none."""
    warn_dropped: float = 0.01
    """Share of imagined ticks without a finite end above which a warning is given; such ticks are never learned from."""

    def __post_init__(self) -> None:
        for name in ("model_every", "rollouts", "kept"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        for name in ("real_share", "warn_dropped"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} {getattr(self, name)} must be between 0 and 1")
        for name in ("exploration", "pessimism"):
            value = getattr(self, name)
            if value is not None and not (value >= 0.0 and math.isfinite(value)):
                raise ValueError(f"{name} {value} must not be negative")


def dynamics(contract: Contract, config: MbpoConfig, imagining: bool) -> ObservationDynamics:
    """Untrained networks of one control tick: all members for training, the elites for imagining."""
    members = config.ensemble.elites if imagining else config.ensemble.members
    return ObservationDynamics(contract, config.ensemble, 1, members=members, model=config.model)


class MbpoController(SacController):
    """What ships is the policy alone; the model stays behind."""

    agent = "mbpo"
