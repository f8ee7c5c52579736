"""Agent configurations: what is wrong is named with its field."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from wm_ros.contract.errors import UserError
from wm_ros.planners.cem import CEMConfig
from wm_ros.planners.icem import ICEMConfig
from wm_ros.training import config
from wm_ros.training.config import AgentConfig, DreamerAgentConfig


def loaded(folder: Path, text: str) -> AgentConfig:
    path = folder / "agent.yaml"
    path.write_text(text)
    return config.load(path)


def test_the_shipped_configuration_can_be_loaded_by_its_name() -> None:
    assert config.load("pets").pets.ensemble.members >= 5


def test_the_family_of_the_model_and_its_targets_can_be_chosen(tmp_path: Path) -> None:
    given = loaded(tmp_path, "pets: {model: {family: mixture, components: 3, targets: {'*.velocity': absolute}}}").pets.model
    assert (given.family, given.components, given.targets) == ("mixture", 3, {"*.velocity": "absolute"})
    assert AgentConfig().pets.model.family == "gaussian"


def test_what_is_not_written_keeps_its_default(tmp_path: Path) -> None:
    given = loaded(tmp_path, "pets: {stride: 3, ensemble: {width: 17}}\nfit: {steps: 123}")
    default = AgentConfig()
    assert (given.pets.stride, given.pets.ensemble.width, given.fit.steps) == (3, 17, 123)
    assert given.pets.planner == default.pets.planner and given.pets.ensemble.layers == default.pets.ensemble.layers
    assert given.fit.batch == default.fit.batch


def test_the_planner_is_chosen_by_its_kind_and_is_icem_where_none_is_named(tmp_path: Path) -> None:
    given = loaded(tmp_path, "pets: {planner: {kind: cem, horizon: 7}}").pets.planner
    assert isinstance(given, CEMConfig) and (given.horizon, given.candidates) == (7, CEMConfig().candidates)
    assert loaded(tmp_path, "pets: {planner: {horizon: 7}}").pets.planner == ICEMConfig(horizon=7)


def test_from_bags_alone_nothing_is_explored() -> None:
    given, offline = config.load_policy_or_dreamer("plan2explore"), config.load_for_bags("plan2explore")
    assert isinstance(given, DreamerAgentConfig) and given.dreamer.explore > 0.0
    assert offline == replace(given, dreamer=replace(given.dreamer, explore=0.0))
    assert config.load_for_bags("mbpo_bags") == config.load_policy_or_dreamer("mbpo_bags")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("pts: {}", "pts: unknown field; there are pets, fit"),
        ("pets: {strid: 2}", "pets.strid: unknown field"),
        ("pets: {ensemble: {widht: 4}}", "pets.ensemble.widht: unknown field"),
        ("pets: {planner: {horizn: 4}}", "pets.planner.horizn: unknown field"),
        ("fit: {step: 4}", "fit.step: unknown field"),
        ("fit: {steps: many}", "fit.steps: "),
        ("pets: {ensemble: {width: wide}}", "pets.ensemble.width: "),
        ("pets: {stride: 0}", "stride 0 must be at least 1"),
        ("pets: {ensemble: {members: 2, elites: 3}}", "pets.ensemble: elites 3 must be between 1 and members 2"),
        ("pets: {planner: {candidates: 0}}", "pets.planner: "),
        ("pets: {planner: {kind: cem, elites: 500}}", "pets.planner: needs 1 <= elites 500 <= candidates 400"),
        ("pets: {planner: {kind: cem, kept: 2}}", "pets.planner.kept: unknown field"),
        ("pets: {planner: {kind: mppi, horizon: long}}", "pets.planner.horizon: "),
        ("pets: {planner: {kind: mcts}}", "fits into no ONNX graph"),
        ("pets: {planner: {kind: cme}}", "pets.planner.kind: no planner 'cme'; there are random_shooting, cem"),
        ("pets: {explorer: {std: -1.0}}", "pets.explorer: "),
        ("pets: {model: {family: gauss}}", "pets.model.family: "),
        ("pets: {model: {componnts: 3}}", "pets.model.componnts: unknown field"),
        ("pets: {model: {targets: {a: change}}}", "pets.model.targets"),
        ("pets: {sample: true, model: {family: deterministic}}", "sample: neither a deterministic model"),
        ("fit: {holdout: 1.5}", "fit: holdout 1.5"),
        ("fit: 3", "fit.: expected a mapping, found int"),
        ("- 1", "the file: expected a mapping, found list"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_a_fault_is_named_with_file_and_field(tmp_path: Path, text: str, field: str) -> None:
    with pytest.raises(UserError) as caught:
        loaded(tmp_path, text)
    assert str(tmp_path / "agent.yaml") in str(caught.value) and field in str(caught.value)


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(UserError, match=r"shipped: .*pets"):
        config.load("pest")
