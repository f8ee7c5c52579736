"""A policy learned from recorded bags, one after the other, without ROS."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cartpole_bags
import pytest
import torch

from wm_ros.agents.sac import SacConfig
from wm_ros.contract.errors import UserError
from wm_ros.data.align import read_episodes
from wm_ros.data.bag_hash import bag_hash
from wm_ros.runtime.artifact import TrainingBag
from wm_ros.runtime.controller import ControllerSession
from wm_ros.training.config import SacAgentConfig
from wm_ros.training.online_sac import CHECKPOINT, OnlineSac
from wm_ros.training.sac_learner import SacFitConfig

CONTRACT = cartpole_bags.contract()
CONFIG = SacAgentConfig(sac=SacConfig(layers=1, width=8), fit=SacFitConfig(batch=16, warm_up=60, capacity=500, updates_per_step=0.5))
TICKS = 40


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bags")
    return [cartpole_bags.write_cartpole(folder / f"episode_{i:04d}", TICKS + i) for i in range(3)]


def learner(folder: Path, config: SacAgentConfig = CONFIG) -> OnlineSac:
    folder.mkdir(exist_ok=True)
    return OnlineSac(CONTRACT, config, folder, 3, lambda phase, fields: None)


def read(into: OnlineSac, bag: Path) -> None:
    into.add(read_episodes(bag, CONTRACT), TrainingBag(path=str(bag), sha256=bag_hash(bag)))


def test_bags_of_the_warm_up_keep_the_robot_exploring_and_later_ones_each_give_a_policy(tmp_path: Path, bags: list[Path]) -> None:
    ours = learner(tmp_path)
    assert ours.explore().agent == "explore" and ours.version == 0
    read(ours, bags[0])
    notice = ours.train()
    assert (notice.agent, notice.version, notice.episodes, ours.updates) == ("explore", 1, 1, 0)
    read(ours, bags[1])
    notice = ours.train()
    past_warm_up = TICKS + TICKS + 1 - CONFIG.fit.warm_up
    assert (notice.agent, notice.version, ours.updates) == ("sac", 2, int(0.5 * past_warm_up))
    driving = ControllerSession.load(notice.path, CONTRACT, expected_sha256=notice.sha256)
    mean = ControllerSession.load(ours.path(2), CONTRACT)
    assert set(driving.metadata.noise) == {"action"} and not mean.metadata.noise
    assert [b.path for b in mean.metadata.training_bags] == [str(b) for b in bags[:2]]


def test_a_learner_that_was_killed_goes_on_bit_for_bit_with_the_buffer_filled_from_its_bags(tmp_path: Path, bags: list[Path]) -> None:
    whole = learner(tmp_path / "whole")
    whole.explore()
    for bag in bags:
        read(whole, bag)
        whole.train()
    first = learner(tmp_path / "killed")
    first.explore()
    for bag in bags[:2]:
        read(first, bag)
        driving = first.train()
    second = learner(tmp_path / "killed")
    assert second.resume(pytest.fail) == driving
    assert (second.version, second.updates, second.episodes, len(second.buffer)) == (2, first.updates, 2, 2 * TICKS + 1)
    read(second, bags[2])
    second.train()
    assert torch.equal(second.learner.policy.values, whole.learner.policy.values)
    assert torch.equal(second.learner.critics.values, whole.learner.critics.values)
    assert second.version == whole.version


def test_a_bag_that_changed_is_left_out_of_the_buffer_and_told(tmp_path: Path) -> None:
    bag = cartpole_bags.write_cartpole(tmp_path / "bag", 70)
    first = learner(tmp_path / "models")
    first.explore()
    read(first, bag)
    first.train()
    (mcap,) = bag.glob("*.mcap")
    mcap.write_bytes(mcap.read_bytes()[:-1] + b"x")
    told: list[str] = []
    second = learner(tmp_path / "models")
    assert second.resume(told.append) is not None
    assert len(told) == 1 and "changed since" in told[0] and len(second.buffer) == 0
    second.owed = 5.0
    with pytest.raises(UserError, match="0 transitions in the buffer"):
        second.train()


@pytest.mark.parametrize("how", ["damaged", "other networks"])
def test_a_checkpoint_that_does_not_fit_is_told_and_no_earlier_version_is_overwritten(tmp_path: Path, bags: list[Path], how: str) -> None:
    first = learner(tmp_path)
    first.explore()
    before = first.path(0).read_bytes()
    if how == "damaged":
        (tmp_path / CHECKPOINT).write_bytes(b"no checkpoint")
    told: list[str] = []
    config = CONFIG if how == "damaged" else replace(CONFIG, sac=SacConfig(layers=1, width=9))
    second = learner(tmp_path, config)
    assert second.resume(told.append) is None and len(told) == 1
    assert second.explore().version == 1 and first.path(0).read_bytes() == before


def test_a_training_that_diverges_keeps_the_last_policy(tmp_path: Path, bags: list[Path]) -> None:
    ours = learner(tmp_path, replace(CONFIG, fit=replace(CONFIG.fit, learning_rate=1e25, warm_up=16)))
    ours.explore()
    before = ours.learner.policy.values.clone()
    read(ours, bags[0])
    with pytest.raises(UserError, match="no longer finite"):
        ours.train()
    assert torch.equal(ours.learner.policy.values, before) and ours.version == 0 and not ours.path(1).exists()
