"""Worlds side by side are the worlds that lockstep drives, one by one."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from wm_ros.contract import schema
from wm_ros.contract.schema import Contract
from wm_ros.sim import world
from wm_ros.sim.episode import run_episode
from wm_ros.sim.fleet import Fleet, FleetTick
from wm_ros.sim.simulator import Simulator

GAIN = np.array([[3.0], [-8.0], [2.0], [1.5], [-0.5]], np.float32)


def short(ticks: int) -> Contract:
    contract = schema.load("cartpole_swingup")
    return schema.parse({**contract.model_dump(mode="json"), "episode": {"duration_s": ticks * 0.02}}, "test")


def policy(observation: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.clip(observation @ GAIN, -10, 10)


def fleet(contract: Contract, count: int, seed: int = 3) -> Fleet:
    return Fleet([world.make(contract) for _ in range(count)], seed)


def run(drives: Fleet, ticks: int) -> list[FleetTick]:
    return [drives.step(np.stack([policy(o) for o in drives.observation])) for _ in range(ticks)]


@pytest.mark.parametrize("count", [1, 3])
def test_every_episode_is_the_one_of_lockstep_bit_for_bit(count: int) -> None:
    """`run_episode` is held equal to the nodes in lockstep by the tests of the node `sim`."""
    contract = short(40)
    ticks = run(fleet(contract, count), 80)
    for episode in range(2):
        rows = ticks[40 * episode : 40 * (episode + 1)]
        for i in range(count):
            resets = 1 + i + episode * count
            alone = run_episode(Simulator(contract), policy, seed=3, resets=resets)
            np.testing.assert_array_equal(np.stack([t.observation[i] for t in rows]), alone.observation[:-1])
            np.testing.assert_array_equal(np.stack([t.next_observation[i] for t in rows]), alone.observation[1:])
            np.testing.assert_array_equal(np.array([t.reward[i] for t in rows]), alone.reward)
            ended = rows[-1].ended[i]
            assert (ended.resets, ended.ticks) == (resets, 40) and ended.total_reward == pytest.approx(alone.total_reward)
        assert not any(t.ended for t in rows[:-1]) and not any(t.terminated.any() for t in rows)


def test_a_world_restored_goes_on_where_it_was_bit_for_bit() -> None:
    first = fleet(short(40), 2)
    run(first, 55)
    state = {name: array.copy() for name, array in first.state().items()}
    expected = run(first, 50)
    second = fleet(short(40), 2)
    second.restore(state)
    for ours, theirs in zip(run(second, 50), expected, strict=True):
        np.testing.assert_array_equal(ours.next_observation, theirs.next_observation)
        assert ours.ended == theirs.ended


def test_a_state_of_more_worlds_is_refused() -> None:
    with pytest.raises((KeyError, IndexError)):
        fleet(short(40), 3).restore(fleet(short(40), 2).state())


def test_a_terminated_episode_is_marked_and_the_next_one_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    from wm_ros.contract import rewards

    monkeypatch.setattr(rewards, "off_centre", lambda o, a, n: abs(n["slider.position"]) > 0.3, raising=False)
    data = yaml.safe_load(yaml.safe_dump(short(200).model_dump(mode="json")))
    data["termination"] = {"function": "wm_ros.contract.rewards:off_centre"}
    drives = fleet(schema.parse(data, "test"), 1)
    ticks = [drives.step(np.full((1, 1), 10.0, np.float32)) for _ in range(60)]
    ends = [k for k, t in enumerate(ticks) if t.ended]
    assert ends and all(ticks[k].terminated[0] == (k in ends) for k in range(60))
    last, following = ticks[ends[0]], ticks[ends[0] + 1]
    assert abs(last.next_observation[0, 0]) > 0.3 > abs(following.observation[0, 0])
