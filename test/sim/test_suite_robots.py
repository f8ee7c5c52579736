"""The shipped robots beside those of the dm_control suite: their dynamics, their rewards, their episodes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import array_api_strict
import mujoco
import numpy as np
import pytest
import yaml

os.environ.setdefault("MUJOCO_GL", "disable")  # dm_control looks for a screen at import
suite = pytest.importorskip("dm_control.suite")
from dm_control.utils.rewards import tolerance  # noqa: E402

from wm_ros.contract import schema  # noqa: E402
from wm_ros.contract.columns import Columns  # noqa: E402
from wm_ros.contract.functions import reward_function  # noqa: E402
from wm_ros.contract.resources import share_directory  # noqa: E402
from wm_ros.contract.rewards import above_tolerance, below_tolerance  # noqa: E402
from wm_ros.contract.schema import Contract  # noqa: E402
from wm_ros.sim.episode import run_episode  # noqa: E402
from wm_ros.sim.simulator import Simulator  # noqa: E402

ROBOTS = {
    "pendulum_swingup": ("pendulum", "swingup"),
    "reacher_two_link": ("reacher", "hard"),
    "cheetah_run": ("cheetah", "run"),
}


def contract_with(name: str, **parameters: float) -> Contract:
    """The contract with other reward parameters, counting one per tick."""
    data = yaml.safe_load((share_directory() / f"config/contracts/{name}.yaml").read_text())
    data["reward"] = {**data["reward"], "parameters": {**data["reward"]["parameters"], **parameters}, "scale": 1.0}
    return schema.parse(data, "test")


def observations(contract: Contract, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Observations `[B, O]` in float64 of `position [B, J]` and `velocity [B, J]` in the order of the MJCF."""
    names, columns = Simulator(contract).joint_names, []
    for feature in (f for c in contract.observation for f in c.features):
        value = {"position": position, "velocity": velocity}[feature.field][:, names.index(str(feature.joint))]
        columns += [np.sin(value), np.cos(value)] if feature.encoding == "sin_cos" else [value]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("name", ROBOTS)
def test_states_equal_the_suites(name: str) -> None:
    ours, theirs = Simulator(schema.load(name)), suite.load(*ROBOTS[name])
    theirs.reset()
    random = np.random.default_rng(0)
    model = theirs.physics.model.ptr
    data = mujoco.MjData(model)
    states = []
    for frame in range(400):
        if frame % 8 == 0:
            controls = random.uniform(-1.0, 1.0, model.nu)
        ours.command(controls * ours.scale)
        ours.step_frame()
        data.ctrl[:] = controls
        mujoco.mj_step(model, data)
        states.append(np.concatenate([ours.data.qpos, ours.data.qvel, data.qpos, data.qvel]))
    mine, published = np.split(np.array(states), 2, axis=1)
    np.testing.assert_allclose(mine, published, rtol=0, atol=1e-6)
    assert np.ptp(mine[:, 0]) > 0.1 and model.nu == len(ours.control_at) and ours.scale.tolist() == model.actuator_gear[:, 0].tolist()


def torch_array(array: np.ndarray) -> Any:
    return pytest.importorskip("torch").from_numpy(array)


CONVERT = pytest.mark.parametrize(
    "convert", [np.asarray, torch_array, array_api_strict.asarray], ids=["numpy", "torch", "array_api_strict"]
)


def reward_of(contract: Contract, seen: np.ndarray, convert: Callable[[np.ndarray], Any]) -> np.ndarray:
    idle = convert(np.zeros((len(seen), contract.action_size)))
    reward = reward_function(contract)(convert(seen), idle, convert(seen))
    assert type(reward) is type(convert(np.zeros(1))) and reward.shape == (len(seen),)
    return np.asarray(reward)


@CONVERT
def test_without_a_margin_the_pendulums_reward_is_the_suites(convert: Callable[[np.ndarray], Any]) -> None:
    environment = suite.load("pendulum", "swingup")
    environment.reset()
    angles, expected = np.linspace(-7.0, 7.0, 801), []
    for angle in angles:
        with environment.physics.reset_context():
            environment.physics.data.qpos[:] = angle
        expected.append(environment.task.get_reward(environment.physics))
    seen = observations(schema.load("pendulum_swingup"), angles[:, None], np.zeros((801, 1)))
    np.testing.assert_array_equal(reward_of(contract_with("pendulum_swingup", margin=0.0), seen, convert), expected)
    assert 0.02 < np.mean(expected) < 0.1
    shaped = reward_of(contract_with("pendulum_swingup"), seen, convert)
    bounds = (np.cos(np.deg2rad(8)), float("inf"))
    np.testing.assert_allclose(shaped, tolerance(np.cos(angles), bounds, margin=2.0, sigmoid="linear", value_at_margin=0.0), atol=1e-12)
    assert (shaped[np.array(expected) == 1] == 1).all() and shaped.min() < 0.01


@CONVERT
def test_without_a_margin_the_reachers_reward_is_the_suites(convert: Callable[[np.ndarray], Any]) -> None:
    contract = contract_with("reacher_two_link", margin=0.0)
    goal = contract.reward.parameters
    environment = suite.load("reacher", "hard")
    environment.reset()
    random, physics, expected, distances = np.random.default_rng(0), environment.physics, [], []
    physics.named.model.geom_pos["target", :2] = goal["target_x"], goal["target_y"]
    # Around both postures that reach the target, and anywhere.
    reaching = np.array([_reach(goal, elbow) for elbow in (1, -1)])
    near = reaching[random.integers(0, 2, 200)] + random.normal(0, 0.1, (200, 2))
    positions = np.concatenate([near, random.uniform(-2.7, 2.7, (200, 2))])
    for position in positions:
        with physics.reset_context():
            physics.data.qpos[:] = position
        expected.append(environment.task.get_reward(physics))
        distances.append(physics.finger_to_target_dist())
    seen = observations(contract, positions, np.zeros((400, 2)))
    np.testing.assert_array_equal(reward_of(contract, seen, convert), expected)
    assert 0.1 < np.mean(expected) < 0.9
    shaped = reward_of(contract_with("reacher_two_link"), seen, convert)
    np.testing.assert_allclose(shaped, tolerance(np.array(distances), (0.0, 0.025), margin=0.2), atol=1e-6)


def _reach(goal: dict[str, float], elbow: int) -> tuple[float, float]:
    """Joint angles that put the finger on the target."""
    x, y, a, b = (goal[key] for key in ("target_x", "target_y", "upper_arm", "forearm"))
    wrist = elbow * np.arccos((x * x + y * y - a * a - b * b) / (2 * a * b))
    return np.arctan2(y, x) - np.arctan2(b * np.sin(wrist), a + b * np.cos(wrist)), wrist


def test_the_reachers_mark_stands_where_the_contract_has_its_target() -> None:
    contract = schema.load("reacher_two_link")
    model, goal = Simulator(contract).model, contract.reward.parameters
    assert model.geom("target").pos[:2].tolist() == [goal["target_x"], goal["target_y"]]
    assert model.geom("target").size[0] + model.geom("finger").size[0] == pytest.approx(goal["radius"])
    assert (model.body("hand").pos[0], model.body("finger").pos[0]) == (goal["upper_arm"], goal["forearm"])


@CONVERT
def test_the_cheetahs_reward_is_the_suites_function_of_the_trunks_speed(convert: Callable[[np.ndarray], Any]) -> None:
    speeds = np.linspace(-5.0, 15.0, 81)
    velocity = np.zeros((81, 9))
    velocity[:, 0] = speeds
    seen = observations(schema.load("cheetah_run"), np.zeros((81, 9)), velocity)
    expected = tolerance(speeds, (10.0, float("inf")), margin=10.0, sigmoid="linear", value_at_margin=0.0)
    np.testing.assert_allclose(reward_of(contract_with("cheetah_run"), seen, convert), expected, atol=1e-12)


def test_over_an_episode_the_trunks_speed_is_the_centre_of_masss() -> None:
    environment = suite.load("cheetah", "run")
    environment.reset()
    random, physics, speeds = np.random.default_rng(1), environment.physics, []
    for frame in range(1000):
        if frame % 10 == 0:
            controls = random.uniform(-1.0, 1.0, 6)
        environment.step(controls)
        speeds.append((float(physics.data.qvel[0]), float(physics.speed())))
    trunk, centre = np.array(speeds).T
    assert np.std(centre) > 0.3 and abs(np.mean(trunk - centre)) < 0.02
    assert np.corrcoef(trunk, centre)[0, 1] > 0.8


def test_tolerances_have_their_published_values() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0])
    for margin in (0.0, 1.5):
        np.testing.assert_allclose(above_tolerance(x, 2.0, margin), tolerance(x, (2.0, float("inf")), margin, "linear", 0.0))
        np.testing.assert_allclose(below_tolerance(x, 1.0, margin), tolerance(x, (0.0, 1.0), margin))


@pytest.mark.parametrize("name", ROBOTS)
def test_episodes_run_in_simulation(name: str) -> None:
    contract = schema.load(name)
    low, high = (np.array([getattr(j, end) for j in contract.action.joints]) for end in ("low", "high"))
    random = np.random.default_rng(0)
    pieces = iter(np.repeat(random.uniform(low, high, (50, len(low))), 20, axis=0))
    episode = run_episode(Simulator(contract), lambda observation: next(pieces))
    assert len(episode) == contract.episode_ticks and episode.truncated
    per_tick = contract.reward.scale
    assert contract.episode_ticks * per_tick == 1000.0, "the best return is dm_control's"
    assert episode.reward.min() >= 0.0 and episode.reward.max() <= per_tick and np.ptp(episode.reward) > 0.05
    seen = Columns(episode.observation, contract.observation_names)
    for feature in (f for c in contract.observation for f in c.features if f.field == "velocity"):
        assert feature.low <= seen[feature.name].min() and seen[feature.name].max() <= feature.high, feature.name


@pytest.mark.parametrize("name", ROBOTS)
def test_another_seed_is_another_start(name: str) -> None:
    robot = Simulator(schema.load(name))
    idle = np.zeros(len(robot.scale))
    starts = [run_episode(robot, lambda observation: idle, 1, seed=seed).observation[0] for seed in (0, 1)]
    assert not np.array_equal(*starts)
