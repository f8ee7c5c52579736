"""MBPO in simulation: what is written, and that a resumed training is the uninterrupted one."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from simulated_runs import plan, run
from small_mbpo import AGENT

from wm_ros.runtime.controller import ControllerSession
from wm_ros.sim import adapters
from wm_ros.training.simulated_mbpo import MbpoLook, MbpoTraining


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> MbpoTraining:
    training = run(MbpoTraining(plan(agent=AGENT), tmp_path_factory.mktemp("whole")))
    training.finish()
    return training


def test_model_error_rollout_length_and_drop_rate_are_columns(whole: MbpoTraining) -> None:
    with (whole.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    # 480 frames are 240 transitions; the model is fitted after 64, 104, 144, 184 and 224 of them.
    assert [float(row["rollout_length"]) for row in rows] == [1.0, 3.0, 3.0]
    assert float(rows[-1]["model_error"]) > 0 and all(float(row["drop_rate"]) == 0.0 for row in rows)
    assert [float(row["imagined"]) for row in rows] == [160.0, 960.0, 480.0]
    metrics = json.loads((whole.folder / "metrics.json").read_text())
    assert metrics["agent"] == "mbpo" and metrics["config"]["mbpo"]["rollouts"] == 4 and metrics["updates"] == 240 - 64


def test_the_controller_has_the_signature_of_a_soft_actor_critic(whole: MbpoTraining) -> None:
    session = ControllerSession.load(whole.folder / "controller.onnx", whole.contract)
    assert session.metadata.agent == "mbpo" and not session.metadata.carry and not session.metadata.noise


@pytest.mark.parametrize("steps", [70, 130])
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(whole: MbpoTraining, steps: int, tmp_path: Path) -> None:
    """Stopped after the first fit, and in rollouts of two ticks."""
    run(MbpoTraining(plan(agent=AGENT), tmp_path), steps).save()
    resumed = run(MbpoTraining.resume(tmp_path))
    assert torch.equal(resumed.learner.policy.values, whole.learner.policy.values)
    assert resumed.episodes == whole.episodes
    timed = {"seconds": 0.0, "latency_p50_ms": 0.0, "latency_p99_ms": 0.0}
    assert all(isinstance(look, MbpoLook) for look in resumed.looks)
    assert [repr(replace(look, **timed)) for look in resumed.looks] == [repr(replace(look, **timed)) for look in whole.looks]


def test_an_environment_whose_reward_and_end_must_be_learned_is_learned_in_too(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    contract = adapters.contract_of("gymnasium/InvertedPendulum-v5")
    training = MbpoTraining(replace(plan(agent=AGENT, frames=150), contract=contract.canonical_json()), tmp_path)
    run(training)
    assert training.imagination.imagined.state()["terminated"].any()
    assert ControllerSession.load(tmp_path / "controller.onnx", contract).metadata.agent == "mbpo"
