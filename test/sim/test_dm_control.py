"""Our cart-pole beside the one of the dm_control suite."""

import os

import numpy as np
import pytest

os.environ.setdefault("MUJOCO_GL", "disable")  # dm_control looks for a screen at import
suite = pytest.importorskip("dm_control.suite")

from wm_ros.contract import schema  # noqa: E402
from wm_ros.contract.assembler import encode  # noqa: E402
from wm_ros.contract.functions import reward_function  # noqa: E402
from wm_ros.sim.simulator import Simulator  # noqa: E402

FRAMES = 1000


def drive(actions: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, ...]:
    """States [T, 4] and rewards [T] per frame of 10 ms: ours, then dm_control's."""
    contract = schema.load("cartpole_swingup")
    contract = contract.model_copy(update={"reward": contract.reward.model_copy(update={"scale": 1.0})})
    ours = Simulator(contract)
    ours.set_state({"slider": start[0], "hinge_1": start[1]}, {"slider": start[2], "hinge_1": start[3]})
    reward = reward_function(contract)

    theirs = suite.load("cartpole", "swingup")
    theirs.reset()
    with theirs.physics.reset_context():
        theirs.physics.data.qpos[:], theirs.physics.data.qvel[:] = start[:2], start[2:]

    columns: tuple[list, ...] = ([], [], [], [])
    for action in actions:
        before = np.concatenate([ours.joints().position, ours.joints().velocity])
        ours.command(np.array([10.0 * action]))
        ours.step_frame()
        state = np.concatenate([ours.joints().position, ours.joints().velocity])
        # Not through the float32 of observation vectors: the reward itself is compared.
        vectors = [np.array([s[0], np.sin(s[1]), np.cos(s[1]), s[2], s[3]]) for s in (before, state)]
        np.testing.assert_array_equal(encode(contract, state), vectors[1].astype(np.float32))
        step = theirs.step([action])
        for column, value in zip(
            columns,
            (
                state,
                reward(vectors[0], np.array([10.0 * action]), vectors[1]),
                np.concatenate([theirs.physics.data.qpos, theirs.physics.data.qvel]),
                step.reward,
            ),
            strict=True,
        ):
            column.append(value)
    return tuple(np.array(c) for c in columns)


@pytest.mark.parametrize(("seed", "angle"), [(0, np.pi), (1, 0.2), (2, 1.5)])
def test_states_and_rewards_equal_the_suites_over_a_thousand_frames(seed: int, angle: float) -> None:
    random = np.random.default_rng(seed)
    # Pieces of constant force carry the cart into both ends of the rail, so that its stops are compared too.
    actions = np.repeat(random.uniform(-1.0, 1.0, FRAMES // 20), 20) if seed else random.uniform(-1.0, 1.0, FRAMES)
    start = np.array([0.0, angle, 0.0, 0.0]) + 0.01 * random.standard_normal(4)
    states, rewards, their_states, their_rewards = drive(actions, start)
    assert len(their_rewards) == FRAMES and np.ptp(rewards) > 0.03
    np.testing.assert_allclose(states, their_states, rtol=0, atol=1e-6)
    np.testing.assert_allclose(rewards, their_rewards, rtol=0, atol=1e-6)


def test_the_rails_end_stops_the_cart_as_in_the_suite() -> None:
    states, _, their_states, _ = drive(np.ones(300), np.array([0.0, np.pi, 0.0, 0.0]))
    assert states[:, 0].max() > 1.8
    np.testing.assert_allclose(states, their_states, rtol=0, atol=1e-6)
