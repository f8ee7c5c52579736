"""Settings of MBPO: what they mean, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cartpole_models import contract
from small_sac import SAC

from wm_ros.agents.mbpo import LengthSchedule, MbpoConfig, MbpoController
from wm_ros.agents.sac import SacController
from wm_ros.contract.errors import UserError
from wm_ros.training import config


def test_rollouts_grow_linearly_between_two_numbers_of_transitions() -> None:
    hopper = LengthSchedule(first=1, last=15, begin=20_000, end=150_000)
    assert [hopper.at(n) for n in (0, 20_000, 85_000, 150_000, 10**6)] == [1, 1, 8, 15, 15]
    assert LengthSchedule().at(0) == LengthSchedule().at(10**6) == 1


def test_the_controller_is_the_policy_alone() -> None:
    ours, theirs = MbpoController(contract(), SAC), SacController(contract(), SAC)
    theirs.load_state_dict(ours.state_dict())
    observation = torch.linspace(-1.0, 1.0, contract().observation_size)
    mine, other = ours(observation, {}, {}), theirs(observation, {}, {})
    assert ours.agent == "mbpo" and torch.equal(mine["action"], other["action"]) and torch.equal(mine["value"], other["value"])


def test_the_shipped_settings_are_valid_and_say_what_they_are_for() -> None:
    loaded, explorer, from_bags = (config.load_as(name, config.MbpoAgentConfig) for name in ("mbpo", "explore", "mbpo_bags"))
    assert loaded.mbpo.lengths.at(0) == 40 and loaded.mbpo.exploration == 0.0 and loaded.fit.updates_per_step == 10.0
    assert loaded.sac.layer_norm == "critics"
    assert explorer.mbpo.exploration > 0.0
    assert from_bags.mbpo == MbpoConfig() and from_bags.model_fit.steps > loaded.model_fit.steps  # one fit is all there is
    assert isinstance(config.load_policy("sac"), config.SacAgentConfig)
    assert [config.is_policy(name) for name in ("mbpo", "mbpo_bags", "explore", "sac", "pets")] == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mbpo: {rollouts: 0}", "mbpo: rollouts 0 must be at least 1"),
        ("mbpo: {real_share: 1.5}", "mbpo: real_share 1.5 must be between 0 and 1"),
        ("mbpo: {pessimism: -1.0}", "mbpo: pessimism -1.0 must not be negative"),
        ("mbpo: {exploration: .inf}", "mbpo: exploration inf must not be negative"),
        ("mbpo: {lengths: {first: 3, last: 2}}", "mbpo.lengths: first 3 must be at least 1, and last 2 at least first"),
        ("mbpo: {lengths: {begin: 5, end: 5}}", "mbpo.lengths: begin 5 must not be negative, and end 5 must be above begin"),
        ("mbpo: {length: 3}", "mbpo.length: unknown field"),
        ("mbpo: {lengths: {most: 3}}", "mbpo.lengths.most: unknown field"),
        ("{mbpo: {}, planner: {}}", "planner: unknown field; there are mbpo, sac, fit, model_fit"),
        ("{mbpo: {}, fit: {batch: 64, warm_up: 10}}", "fit: warm_up 10 must be at least the batch of 64"),
        ("{mbpo: {model: {family: tree}}}", "mbpo.model.family"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        config.load_policy(tmp_path / "agent.yaml")
    assert said in str(refused.value) and "agent.yaml" in str(refused.value)
