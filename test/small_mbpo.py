"""MBPO small enough for tests, and a robot whose reward and end are learned."""

from __future__ import annotations

import numpy as np
from cartpole_models import TINY
from small_sac import SAC

from wm_ros.agents.mbpo import LengthSchedule, MbpoConfig
from wm_ros.contract import schema
from wm_ros.contract.schema import Contract
from wm_ros.data.transition_buffer import TransitionBuffer
from wm_ros.training.config import MbpoAgentConfig
from wm_ros.training.mbpo_learner import MbpoFitConfig, ModelFitConfig

MBPO = MbpoConfig(ensemble=TINY, lengths=LengthSchedule(1, 3, 80, 160), rollouts=4, model_every=40, kept=2)
MODEL_FIT = ModelFitConfig(steps=60, batch=16, check_every=20)
AGENT = MbpoAgentConfig(MBPO, SAC, MbpoFitConfig(batch=32, warm_up=64, capacity=5000, updates_per_step=1.0), MODEL_FIT)


def slider(termination: bool = False) -> Contract:
    """A robot with one position in [-2, 2] and one motor in [-1, 1]; nobody can write its reward down."""
    data = schema.load("cartpole_swingup").model_dump(mode="json")
    features = [{"joint": "slider", "field": "position", "units": "m"}]
    joints = [{"name": "slider", "low": -1.0, "high": 1.0, "units": "N"}]
    learned = {"function": "learned"}
    data |= {"name": "slider", "simulator": None, "reward": learned, "termination": learned if termination else None}
    data |= {"observation": [{**data["observation"][0], "features": features}], "action": {**data["action"], "joints": joints}}
    return schema.parse(data, "test")


def recorded(count: int = 200, seed: int = 0, observations: int = 5) -> TransitionBuffer:
    """Transitions of a linear system, one joint."""
    rng = np.random.default_rng(seed)
    buffer = TransitionBuffer(1000, observations, 1)
    here = rng.uniform(-1, 1, (count, observations)).astype(np.float32)
    action = rng.uniform(-10, 10, (count, 1)).astype(np.float32)
    following = 0.9 * here + 0.01 * action
    buffer.add(here, action, following[:, 0], following.astype(np.float32), np.zeros(count, np.bool_))
    return buffer
