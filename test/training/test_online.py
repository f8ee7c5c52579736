"""Policies learned from recorded bags, one after the other, without ROS."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cartpole_bags
import numpy as np
import pytest
import small_dreamer
import small_mbpo
import torch

from wm_ros.agents.sac import SacConfig
from wm_ros.contract.errors import UserError
from wm_ros.data.align import read_episodes
from wm_ros.data.bag_hash import bag_hash
from wm_ros.runtime.artifact import TrainingBag
from wm_ros.runtime.controller import ControllerSession
from wm_ros.training.config import DreamerAgentConfig, MbpoAgentConfig, SacAgentConfig
from wm_ros.training.mbpo_learner import MbpoFitConfig
from wm_ros.training.online import CHECKPOINT, OnlineTraining
from wm_ros.training.online_kinds import kind_for, paced
from wm_ros.training.online_sac import OnlineMbpo, OnlineSac
from wm_ros.training.sac_learner import SacFitConfig

CONTRACT = cartpole_bags.contract()
TICKS, WARM_UP, RATIO = 40, 60, 0.5
_SAC = SacConfig(layers=1, width=8)
_FIT: dict[str, Any] = {"batch": 16, "warm_up": WARM_UP, "capacity": 500, "updates_per_step": RATIO}
SAC = SacAgentConfig(sac=_SAC, fit=SacFitConfig(**_FIT))
AGENTS: dict[str, Any] = {
    "sac": SAC,
    "mbpo": MbpoAgentConfig(small_mbpo.MBPO, _SAC, MbpoFitConfig(**_FIT), small_mbpo.MODEL_FIT),
    "dreamer": DreamerAgentConfig(small_dreamer.config(), replace(small_dreamer.fit(), warm_up=WARM_UP, train_ratio=RATIO * 4 * 8)),
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bags")
    return [cartpole_bags.write_cartpole(folder / f"episode_{i:04d}", TICKS + i) for i in range(3)]


@pytest.fixture(params=AGENTS)
def agent(request: pytest.FixtureRequest) -> Any:
    return AGENTS[request.param]


def learner(folder: Path, agent: Any, report: Any = lambda phase, fields: None) -> OnlineTraining:
    folder.mkdir(exist_ok=True)
    return kind_for(agent)(CONTRACT, agent, folder, 3, report)


def sac(folder: Path, agent: SacAgentConfig = SAC) -> OnlineSac:
    made = learner(folder, agent)
    assert type(made) is OnlineSac
    return made


def read(into: OnlineTraining, bag: Path) -> None:
    into.add(read_episodes(bag, CONTRACT), TrainingBag(path=str(bag), sha256=bag_hash(bag)))


def weights(of: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in of.learner.networks.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_bags_of_the_warm_up_keep_the_robot_exploring_and_later_ones_each_give_a_policy(
    tmp_path: Path, bags: list[Path], agent: Any, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["agent"]
    ours = learner(tmp_path, agent)
    assert ours.explore().agent == "explore" and ours.version == 0
    read(ours, bags[0])
    notice = ours.train()
    assert (notice.agent, notice.version, notice.episodes, ours.updates) == ("explore", 1, 1, 0)
    read(ours, bags[1])
    notice = ours.train()
    past_warm_up = TICKS + TICKS + 1 - WARM_UP
    assert (notice.agent, notice.version, ours.updates) == (name, 2, int(RATIO * past_warm_up))
    driving = ControllerSession.load(notice.path, CONTRACT, expected_sha256=notice.sha256)
    mean = ControllerSession.load(ours.path(2), CONTRACT)
    assert set(driving.metadata.noise) - set(mean.metadata.noise) == {"action"}
    assert [b.path for b in mean.metadata.training_bags] == [str(b) for b in bags[:2]]


def test_a_learner_that_was_killed_goes_on_bit_for_bit_with_the_buffer_filled_from_its_bags(
    tmp_path: Path, bags: list[Path], agent: Any
) -> None:
    whole = learner(tmp_path / "whole", agent)
    whole.explore()
    for bag in bags:
        read(whole, bag)
        whole.train()
    first = learner(tmp_path / "killed", agent)
    first.explore()
    for bag in bags[:2]:
        read(first, bag)
        driving = first.train()
    second = learner(tmp_path / "killed", agent)
    assert second.resume(pytest.fail) == driving
    assert (second.version, second.updates, second.episodes, second.counts["transitions"]) == (2, first.updates, 2, 2 * TICKS + 1)
    read(second, bags[2])
    second.train()
    assert equal(weights(second), weights(whole)) and not equal(weights(second), weights(first))
    assert second.version == whole.version


def test_stretches_of_new_episodes_begin_where_the_model_was_and_at_zero_again_once_a_bag_is_gone(
    tmp_path: Path, bags: list[Path]
) -> None:
    def states(of: Any) -> Any:
        return of.buffer.memories()["remembered.deter"][0]

    agent = AGENTS["dreamer"]
    assert agent.fit.stored_states
    ours: Any = learner(tmp_path / "ours", agent)
    ours.explore()
    gone = shutil.copytree(bags[0], tmp_path / "gone")
    read(ours, gone)
    generator = ours._generator.get_state()
    read(ours, bags[1])
    rows = states(ours)
    assert rows.shape[0] == 2 * TICKS + 3 and rows[1:].any(axis=1).sum() >= 2 * TICKS + 1  # an episode's first may be zero
    (episode,) = read_episodes(bags[1], CONTRACT)
    followed = ours.learner.followed(episode, torch.Generator().set_state(generator)).deter
    np.testing.assert_array_equal(rows[TICKS + 1 :], followed.to(torch.float16).numpy())
    ours.train()

    again: Any = learner(tmp_path / "ours", agent)
    assert again.resume(pytest.fail) is not None
    np.testing.assert_array_equal(states(again), states(ours))
    shutil.rmtree(gone)
    told: list[str] = []
    lacking: Any = learner(tmp_path / "ours", agent)
    assert lacking.resume(told.append) is not None and len(told) == 1
    assert states(lacking).shape[0] == TICKS + 2 and not states(lacking).any()


def test_a_stop_in_the_middle_of_a_training_keeps_count_of_what_is_still_owed(tmp_path: Path, bags: list[Path]) -> None:
    class Stopped(Exception):
        pass

    def report(phase: str, fields: dict[str, Any]) -> None:
        if phase == "training" and fields["epoch"] >= 50:
            raise Stopped

    ours = learner(tmp_path, replace(SAC, fit=replace(SAC.fit, updates_per_step=4.0)), report)
    ours.explore()
    read(ours, bags[0])
    read(ours, bags[1])
    owed = ours.owed
    with pytest.raises(Stopped):
        ours.train()
    assert owed > 50 and (ours.updates, ours.owed) == (50, owed - 50)


def test_a_model_is_fitted_before_the_policy_learns_in_it_and_forgets_a_bag_that_is_gone(tmp_path: Path) -> None:
    kept, gone = (cartpole_bags.write_cartpole(tmp_path / name, ticks) for name, ticks in (("kept", 70), ("gone", 90)))
    agent = AGENTS["mbpo"]
    first = learner(tmp_path / "models", agent)
    assert isinstance(first, OnlineMbpo)
    first.explore()
    read(first, kept)
    read(first, gone)
    first.train()
    assert first.imagination.fits == 1 and first.imagination.learned_from == 160 and len(first.imagination.imagined) > 0
    for path in gone.glob("*"):
        path.unlink()
    told: list[str] = []
    second = learner(tmp_path / "models", agent)
    assert isinstance(second, OnlineMbpo) and second.resume(told.append) is not None
    assert len(told) == 1 and str(gone) in told[0]
    assert second.imagination.learned_from == 70
    read(second, cartpole_bags.write_cartpole(tmp_path / "new", 50))
    second.train()
    assert second.imagination.fits == 2


def test_a_bag_that_changed_is_left_out_of_the_buffer_and_told(tmp_path: Path) -> None:
    bag = cartpole_bags.write_cartpole(tmp_path / "bag", 70)
    first = sac(tmp_path / "models")
    first.explore()
    read(first, bag)
    first.train()
    (mcap,) = bag.glob("*.mcap")
    mcap.write_bytes(mcap.read_bytes()[:-1] + b"x")
    told: list[str] = []
    second = sac(tmp_path / "models")
    assert second.resume(told.append) is not None
    assert len(told) == 1 and "changed since" in told[0] and len(second.buffer) == 0
    second.owed = 5.0
    with pytest.raises(UserError, match="0 transitions in the buffer"):
        second.train()


def test_a_dreamer_without_a_whole_stretch_says_so(tmp_path: Path) -> None:
    ours = learner(tmp_path, AGENTS["dreamer"])
    ours.explore()
    ours.owed = 1.0
    with pytest.raises(UserError, match="0 observations in the buffer, a stretch has 8"):
        ours.train()


@pytest.mark.parametrize("how", ["damaged", "other settings", "another agent"])
def test_a_checkpoint_that_does_not_fit_is_told_and_no_earlier_version_is_overwritten(tmp_path: Path, how: str) -> None:
    first = learner(tmp_path, SAC)
    first.explore()
    before = first.path(0).read_bytes()
    if how == "damaged":
        (tmp_path / CHECKPOINT).write_bytes(b"no checkpoint")
    told: list[str] = []
    others = {"damaged": SAC, "other settings": replace(SAC, sac=SacConfig(layers=1, width=9)), "another agent": AGENTS["mbpo"]}
    second = learner(tmp_path, others[how])
    assert second.resume(told.append) is None
    assert len(told) == 1 and how in told[0]
    assert second.explore().version == 1 and first.path(0).read_bytes() == before


def test_a_training_that_diverges_keeps_the_last_policy(tmp_path: Path, bags: list[Path], agent: Any) -> None:
    rates = {name: 1e25 for name in ("learning_rate", "actor_rate", "critic_rate") if hasattr(agent.fit, name)}
    ours = learner(tmp_path, replace(agent, fit=replace(agent.fit, **rates, warm_up=16)))
    ours.explore()
    before = weights(ours)
    read(ours, bags[0])
    read(ours, bags[1])
    with pytest.raises(UserError, match=r"back to the last controller: set fit\.learning_rate lower"):
        ours.train()
    after = weights(ours)
    assert all(torch.equal(after[n], before[n]) for n in before if not n.startswith("observation_"))
    assert ours.version == 0 and not ours.path(1).exists() and ours.owed < 1.0


def test_a_ratio_means_updates_for_each_tick_for_every_agent(agent: Any) -> None:
    changed = paced(agent, 0.25, 0)
    assert changed.fit.updates_per_step == 0.25 and changed.fit.warm_up == WARM_UP
    assert paced(agent, 0.0, 100).fit == replace(agent.fit, warm_up=100)
    with pytest.raises(ValueError, match="warm_up 1 must be at least"):
        paced(agent, 0.0, 1)
