"""Which training in simulation an agent's settings begin, and which one a checkpoint goes on with."""

from __future__ import annotations

from pathlib import Path

from wm_ros.runtime.signature import SigningKey
from wm_ros.training import checkpoint
from wm_ros.training.config import DreamerAgentConfig, MbpoAgentConfig
from wm_ros.training.simulated import CHECKPOINT, SimulatedPlan, SimulatedTraining
from wm_ros.training.simulated_dreamer import DreamerTraining
from wm_ros.training.simulated_mbpo import MbpoTraining


def begin(plan: SimulatedPlan, folder: Path, signing_key: SigningKey | None = None) -> SimulatedTraining:
    """See `SimulatedTraining`."""
    return _kind(plan)(plan, folder, signing_key)


def resume(folder: Path, signing_key: SigningKey | None = None, frames: int | None = None) -> SimulatedTraining:
    """See `SimulatedTraining.resume`."""
    return _kind(checkpoint.read_plan(folder / CHECKPOINT, SimulatedPlan)).resume(folder, signing_key, frames)


def _kind(plan: SimulatedPlan) -> type[SimulatedTraining]:
    if isinstance(plan.agent, DreamerAgentConfig):
        return DreamerTraining
    return MbpoTraining if isinstance(plan.agent, MbpoAgentConfig) else SimulatedTraining
