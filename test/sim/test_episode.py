"""Episodes without ROS."""

import numpy as np
import pytest
import yaml

from wm_ros.contract import rewards, schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.functions import reward_function
from wm_ros.contract.resources import share_directory
from wm_ros.sim.episode import run_episode
from wm_ros.sim.simulator import Simulator


def test_an_episode_has_the_contracts_length_and_is_truncated_not_terminated() -> None:
    contract = schema.load("cartpole_swingup")
    random = np.random.default_rng(0)
    episode = run_episode(Simulator(contract), lambda observation: random.uniform(-10, 10, 1), seed=4)
    assert len(episode) == contract.episode_ticks == 500
    assert episode.truncated and not episode.terminated.any()
    assert episode.stamp[0] == 1_000_000_000 and set(np.diff(episode.stamp)) == {20_000_000}
    assert episode.provenance.contract_hash == contract.hash


def test_rewards_are_the_contracts_function_of_the_columns() -> None:
    contract = schema.load("cartpole_swingup")
    random = np.random.default_rng(1)
    episode = run_episode(Simulator(contract), lambda observation: random.uniform(-10, 10, 1), 200)
    expected = reward_function(contract)(episode.observation[:-1], episode.action, episode.observation[1:])
    np.testing.assert_allclose(episode.reward, expected, rtol=1e-6)
    assert np.ptp(episode.reward) > 0.01


def test_equal_seeds_give_equal_episodes_bit_for_bit() -> None:
    contract = schema.load("cartpole_swingup")
    act = lambda observation: 10 * observation[1:2]  # noqa: E731
    first, second = (run_episode(Simulator(contract), act, 100, seed=2, resets=3) for _ in range(2))
    np.testing.assert_array_equal(first.observation, second.observation)
    other = run_episode(Simulator(contract), act, 100, seed=2, resets=4)
    assert not np.array_equal(first.observation, other.observation)


def test_a_termination_ends_the_episode_as_terminated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "off_centre", lambda o, a, n, *, limit: abs(n["slider.position"]) > limit, raising=False)
    data = yaml.safe_load((share_directory() / "config/contracts/cartpole_swingup.yaml").read_text())
    data["termination"] = {"function": "wm_ros.contract.rewards:off_centre", "parameters": {"limit": 0.5}}
    episode = run_episode(Simulator(schema.parse(data, "test")), lambda observation: np.full(1, 10.0))
    assert 1 < len(episode) < 500 and not episode.truncated
    assert episode.terminated.tolist() == [False] * (len(episode) - 1) + [True]
    positions = episode.observation[:, 0]
    assert positions[-1] > 0.5 >= positions[-2]


def test_an_unstable_simulation_is_the_users_to_know() -> None:
    simulator = Simulator(schema.load("cartpole_swingup"))

    def explode(observation: np.ndarray) -> np.ndarray:
        simulator.data.qvel[:] = 1e12
        return np.zeros(1)

    with pytest.raises(UserError, match="cartpole_swingup: the simulation became unstable"):
        run_episode(simulator, explode, 5)


@pytest.mark.parametrize("action", [np.array([np.nan]), np.zeros(2), np.float32(0.0)])
def test_an_action_that_is_none_is_refused(action: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected \\[1\\] finite values"):
        run_episode(Simulator(schema.load("cartpole_swingup")), lambda observation: action, 5)
