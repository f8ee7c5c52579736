"""The swing-up reward is dm_control's, on every kind of array that runs it."""

import os
from collections.abc import Callable
from typing import Any

import array_api_strict
import numpy as np
import pytest

os.environ.setdefault("MUJOCO_GL", "disable")  # dm_control looks for a screen at import
suite = pytest.importorskip("dm_control.suite")

from wm_ros.contract import schema  # noqa: E402
from wm_ros.contract.columns import Columns  # noqa: E402
from wm_ros.contract.rewards import cartpole_swingup, gaussian_tolerance, quadratic_tolerance  # noqa: E402


def torch_array(array: np.ndarray) -> Any:
    return pytest.importorskip("torch").from_numpy(array)


@pytest.fixture(scope="module")
def steps() -> tuple[np.ndarray, ...]:
    """Observations [4, 50, 5], actions in newtons [4, 50, 1] and dm_control's rewards [4, 50] at random states."""
    random = np.random.default_rng(0)
    environment = suite.load("cartpole", "swingup")
    environment.reset()
    physics = environment.physics
    observations, actions, rewards = np.empty((200, 5)), np.empty((200, 1)), np.empty(200)
    for i in range(200):
        position = np.array([random.uniform(-2, 2), random.uniform(-7, 7)])
        velocity, action = random.normal(0, 4, 2), random.uniform(-1, 1)
        with physics.reset_context():
            physics.data.qpos[:], physics.data.qvel[:] = position, velocity
        physics.set_control([action])
        observations[i] = position[0], np.sin(position[1]), np.cos(position[1]), *velocity
        actions[i] = 10.0 * action
        rewards[i] = environment.task.get_reward(physics)
    return observations.reshape(4, 50, 5), actions.reshape(4, 50, 1), rewards.reshape(4, 50)


@pytest.mark.parametrize("convert", [np.asarray, torch_array, array_api_strict.asarray], ids=["numpy", "torch", "array_api_strict"])
def test_the_reward_equals_dm_controls_on_every_array_library(steps: tuple[np.ndarray, ...], convert: Callable[[np.ndarray], Any]) -> None:
    observations, actions, expected = steps
    contract = schema.load("cartpole_swingup")
    observation = Columns(convert(observations), contract.observation_names)
    action = Columns(convert(actions), contract.action.names)
    reward = cartpole_swingup(observation, action, observation, force_limit=10.0)
    assert type(reward) is type(convert(expected))
    np.testing.assert_allclose(np.asarray(reward), expected, rtol=0, atol=1e-9)
    assert np.ptp(expected) > 0.5


def test_tolerances_have_their_published_values() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(gaussian_tolerance(x, 2.0), [1.0, 10**-0.25, 0.1, 10**-2.25])
    np.testing.assert_allclose(quadratic_tolerance(x, 2.0), [1.0, 0.75, 0.0, 0.0])
