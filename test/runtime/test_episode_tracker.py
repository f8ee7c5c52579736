"""Rewards and ends of an episode, from observations and commands as they come."""

from typing import Any

import numpy as np
import pytest
import yaml

from wm_ros.contract import rewards, schema
from wm_ros.contract.resources import share_directory
from wm_ros.runtime.episode_tracker import PATIENCE, EpisodeTracker, Step
from wm_ros.sim.episode import run_episode
from wm_ros.sim.simulator import Simulator

PERIOD = 20_000_000
START = 7_000_000_000
TICKS = 10


def contract(**changes: Any) -> schema.Contract:
    data = yaml.safe_load((share_directory() / "config/contracts/cartpole_swingup.yaml").read_text())
    return schema.parse({**data, "episode": {"duration_s": TICKS * PERIOD * 1e-9}, **changes}, "test")


def vector(k: int) -> np.ndarray:
    return np.array([0.1 * k, np.sin(k), np.cos(k), 0.5, 1.0], dtype=np.float32)


def see(tracker: EpisodeTracker, ticks: "range | list[int]", silent: tuple[int, ...] = ()) -> list[Step]:
    """Shows observations and then their commands, but not the silent ones."""
    steps = []
    for k in ticks:
        steps += tracker.observe(START + k * PERIOD, vector(k))
        if k not in silent:
            tracker.command(START + k * PERIOD, np.array([float(k)]))
    return steps


def test_the_return_equals_that_of_the_episode_without_ros() -> None:
    shipped = schema.load("cartpole_swingup")
    random = np.random.default_rng(0)
    episode = run_episode(Simulator(shipped), lambda observation: random.uniform(-10, 10, 1))
    tracker = EpisodeTracker(shipped)
    steps = []
    for k, stamp in enumerate(episode.stamp):
        steps += tracker.observe(int(stamp), episode.observation[k])
        if k < len(episode):
            tracker.command(int(stamp), episode.action[k])
    np.testing.assert_array_equal(np.array([s.reward for s in steps], dtype=np.float32), episode.reward)
    assert tracker.outcome == "truncated" and tracker.total_reward == pytest.approx(episode.total_reward)
    assert [s.truncated for s in steps] == [False] * 499 + [True]
    assert [s.stamp_ns for s in steps] == episode.stamp[:-1].tolist()


def test_a_command_may_come_after_the_next_observation() -> None:
    on_time, late = EpisodeTracker(contract()), EpisodeTracker(contract())
    expected = see(on_time, range(4))
    see(late, range(2), silent=(1,))
    assert late.observe(START + 2 * PERIOD, vector(2)) == []
    late.command(START + 1 * PERIOD, np.array([1.0]))
    late.command(START + 2 * PERIOD, np.array([2.0]))
    assert late.observe(START + 3 * PERIOD, vector(3)) == expected[1:]
    assert late.lost_commands == 0


def test_a_lost_command_counts_as_the_one_before() -> None:
    tracker = EpisodeTracker(contract())
    steps = see(tracker, range(3 + PATIENCE), silent=(1,))
    assert tracker.lost_commands == 1 and len(steps) == 2 + PATIENCE
    repeated = EpisodeTracker(contract())
    repeated.observe(START, vector(0))
    repeated.command(START, np.array([0.0]))
    repeated.observe(START + PERIOD, vector(1))
    repeated.command(START + PERIOD, np.array([0.0]))
    assert steps[1].reward == repeated.observe(START + 2 * PERIOD, vector(2))[0].reward


def test_a_lost_observation_costs_no_tick() -> None:
    tracker = EpisodeTracker(contract())
    steps = see(tracker, [0, 1, 3, 4])
    assert [s.stamp_ns for s in steps] == [START + k * PERIOD for k in range(4)]
    assert steps[1].reward == steps[2].reward and tracker.lost_observations == 1 and tracker.ticks == 4


def test_the_episode_has_its_length_even_when_its_last_observation_is_lost() -> None:
    tracker = EpisodeTracker(contract())
    steps = see(tracker, [*range(TICKS), TICKS + 1])
    assert len(steps) == tracker.ticks == TICKS and steps[-1].truncated and tracker.outcome == "truncated"


def test_sensors_faster_than_control_make_no_more_ticks() -> None:
    slow, fast = EpisodeTracker(contract()), EpisodeTracker(contract())
    expected = see(slow, range(5))
    steps = []
    for i in range(4 * 4 + 1):
        stamp = START + i * PERIOD // 4
        # Between the ticks something else is seen, which must not count.
        steps += fast.observe(stamp, vector(i // 4) if i % 4 == 0 else vector(99) if i % 4 == 1 else vector(i // 4 + 1))
        if i % 4 == 0:
            fast.command(stamp, np.array([float(i // 4)]))
    assert len(steps) == len(expected) == 4 and fast.ticks == slow.ticks


def test_a_gap_stops_the_episode_at_the_observation_before_it() -> None:
    tracker = EpisodeTracker(contract())
    steps = see(tracker, [0, 1, 2, 9])
    assert tracker.outcome == "stopped" and tracker.ticks == len(steps) == 2
    assert tracker.last_stamp_ns == START + 2 * PERIOD
    assert see(tracker, [10, 11]) == []


def test_a_termination_ends_the_episode_and_is_no_truncation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "far", lambda o, a, n, *, limit: n["slider.position"] > limit, raising=False)
    tracker = EpisodeTracker(contract(termination={"function": "wm_ros.contract.rewards:far", "parameters": {"limit": 0.35}}))
    steps = see(tracker, range(TICKS))
    assert [s.terminated for s in steps] == [False, False, False, True] and not any(s.truncated for s in steps)
    assert tracker.outcome == "terminated"


def test_a_new_episode_forgets_the_last_one() -> None:
    tracker = EpisodeTracker(contract())
    see(tracker, range(4))
    tracker.begin()
    assert not tracker.begun and tracker.total_reward == 0.0 and tracker.ticks == 0
    assert len(see(tracker, range(3))) == 2
