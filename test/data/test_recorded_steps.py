"""Contracts that have no function for reward or termination take what was recorded."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from cartpole_bags import PERIOD, START, write_cartpole
from cartpole_bags import contract as analytic

from wm_ros.cli.contract import load_with_functions
from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.functions import reward_function, termination_function
from wm_ros.contract.schema import Contract
from wm_ros.data import bag_check
from wm_ros.data.align import read_episodes
from wm_ros.data.bag_reader import Bag
from wm_ros.data.recorded_steps import RecordedSteps
from wm_ros.runtime.episode_tracker import EpisodeTracker


@lru_cache
def contract(reward: str | None = "learned", termination: str | None = "learned", scale: float = 1.0) -> Contract:
    data = json.loads(analytic().canonical_json())
    if reward is not None:
        data["reward"] = {"function": reward, "scale": scale}
    data["termination"] = termination
    return schema.parse(data, "test")


def judged(k: int) -> tuple[float, bool]:
    return 0.5 * k - 3.0, False


def test_one_word_and_the_written_out_form_are_the_same_contract() -> None:
    data = json.loads(analytic().canonical_json())
    short, long = ({**data, "reward": value, "termination": value} for value in ("learned", {"function": "learned"}))
    assert schema.parse(short, "test").hash == schema.parse(long, "test").hash == contract().hash
    assert schema.from_json(contract().canonical_json(), "test") == contract() and not analytic().reward.learned
    with pytest.raises(UserError, match=r"termination: parameters: what is learned has none"):
        schema.parse({**data, "termination": {"function": "learned", "parameters": {"a": 1.0}}}, "test")


def test_recorded_rewards_stand_at_their_ticks_and_are_scaled(tmp_path: Path) -> None:
    of = contract(scale=2.0)
    (episode,) = read_episodes(write_cartpole(tmp_path / "bag", 12, of=of, judge=judged), of)
    np.testing.assert_allclose(episode.reward, [2.0 * (0.5 * k - 3.0) for k in range(12)], rtol=1e-6)
    assert episode.truncated and len(episode) == 12


def test_a_recorded_termination_ends_the_episode(tmp_path: Path) -> None:
    of = contract()
    (episode,) = read_episodes(write_cartpole(tmp_path / "bag", 12, of=of, judge=lambda k: (1.0, k >= 7)), of)
    assert len(episode) == 8 and bool(episode.terminated[-1]) and not episode.truncated


def test_learned_termination_with_a_reward_function_and_the_other_way_round(tmp_path: Path) -> None:
    ends, rewards = contract(reward=None), contract(termination=None)
    (first,) = read_episodes(write_cartpole(tmp_path / "ends", 12, of=ends, judge=lambda k: (99.0, k == 5)), ends)
    (second,) = read_episodes(write_cartpole(tmp_path / "rewards", 12, of=rewards, judge=lambda k: (99.0, k == 5)), rewards)
    (plain,) = read_episodes(write_cartpole(tmp_path / "plain", 12), analytic())
    assert len(first) == 6 and np.array_equal(first.reward, plain.reward[:6])
    assert len(second) == 12 and (second.reward == 99.0).all() and not second.terminated.any()


def test_a_tick_that_nobody_judged_splits_the_episode(tmp_path: Path) -> None:
    of = contract()
    parts = read_episodes(write_cartpole(tmp_path / "bag", 12, of=of, judge=lambda k: None if k == 4 else judged(k)), of)
    assert [len(p) for p in parts] == [4, 7] and parts[1].reward[0] == pytest.approx(-0.5)


def test_a_bag_without_recorded_rewards_is_refused_with_the_remedy(tmp_path: Path) -> None:
    of = contract()
    bag = write_cartpole(tmp_path / "bag", 12, of=of)
    with pytest.raises(UserError, match=r"no topic step .* reward and termination are learned: record it"):
        read_episodes(bag, of)
    report = bag_check.check(Bag(bag), of)
    assert not report.trainable and [p.severity for p in report.problems] == ["error"] and "no topic step" in report.problems[0].text
    silent = write_cartpole(tmp_path / "silent", 12, of=of, judge=lambda k: (float("nan"), False))
    with pytest.raises(UserError, match=r"no usable message on /step"):
        read_episodes(silent, of)


def test_rows_belong_to_the_tick_within_half_a_period_and_the_last_one_counts() -> None:
    stamps = START + np.array([-3, 0, 4, PERIOD + PERIOD // 2 - 1, 3 * PERIOD], np.int64)
    steps = RecordedSteps(stamps, np.arange(5.0), np.array([False, False, True, False, True]))
    reward, ended, known = steps.at(START + PERIOD * np.arange(5), PERIOD)
    assert known.tolist() == [True, True, False, True, False]
    assert reward.tolist() == [2.0, 3.0, 0.0, 4.0, 0.0] and ended.tolist() == [True, False, False, True, False]


def test_what_needs_a_function_says_so_and_what_does_not_goes_on(tmp_path: Path) -> None:
    for function in (reward_function, termination_function):
        with pytest.raises(UserError, match="it is learned, and this needs a function"):
            function(contract())
    path = tmp_path / "learned.yaml"
    path.write_text(contract().canonical_json())
    assert load_with_functions(str(path)) == contract()
    EpisodeTracker(contract())
