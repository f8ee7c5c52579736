"""Learning in simulation: what is written, that a resumed training is the uninterrupted one, that what is refused is named."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from simulated_runs import plan, run
from small_sac import SAC

from wm_ros.contract.errors import UserError
from wm_ros.runtime.controller import ControllerSession
from wm_ros.sim import adapters
from wm_ros.sim.episode import run_episode
from wm_ros.sim.simulator import Simulator
from wm_ros.training import checkpoint, simulated
from wm_ros.training.simulated import SimulatedTraining


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SimulatedTraining:
    training = run(SimulatedTraining(plan(simulators=2), tmp_path_factory.mktemp("whole")))
    training.finish()
    return training


def test_frames_updates_and_evaluations_are_counted(whole: SimulatedTraining) -> None:
    # Two worlds with two frames per tick: 480 frames are 240 transitions, the first 64 of them random.
    assert whole.frames == 480 and whole.updates == 240 - 64
    assert [look.frames for look in whole.looks] == [200, 400, 480]
    train = [row for row in whole.episodes if row.purpose == "train"]
    assert len(train) == 240 // 30 and sorted(row.episode for row in train) == list(range(1, 9))
    assert sum(row.purpose == "evaluate" for row in whole.episodes) == 3 * 2


def test_everything_there_is_to_see_is_written(whole: SimulatedTraining) -> None:
    with (whole.folder / "returns.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["total_reward"]) for r in rows] == [r.total_reward for r in whole.episodes] and rows[0]["purpose"] == "train"
    with (whole.folder / "metrics.csv").open() as file:
        assert [int(r["frames"]) for r in csv.DictReader(file)] == [200, 400, 480]
    metrics = json.loads((whole.folder / "metrics.json").read_text())
    assert metrics["updates"] == 176 and metrics["seed"] == 4 and metrics["config"]["sac"]["width"] == SAC.width
    controllers = sorted(p.name for p in (whole.folder / "controllers").iterdir())
    assert controllers == ["0001.onnx", "0002.onnx", "0003.onnx"]
    assert (whole.folder / "controller.onnx").read_bytes() == (whole.folder / "controllers" / "0003.onnx").read_bytes()


def test_evaluation_returns_are_those_of_the_exported_file_in_lockstep(whole: SimulatedTraining) -> None:
    session = ControllerSession.load(whole.folder / "controller.onnx", whole.contract)
    session.reset(0)
    alone = run_episode(
        Simulator(whole.contract), lambda o: session.act(o).action, seed=whole.plan.seed + simulated.EVALUATION_SEEDS, resets=2
    )
    last = whole.episodes[-1]
    assert (last.purpose, last.episode, last.ticks) == ("evaluate", 2, 30) and last.total_reward == alone.total_reward


def test_the_normalizer_in_the_file_is_that_of_the_observations_so_far(whole: SimulatedTraining) -> None:
    networks, seen = whole.learner.networks, whole._buffer.state()["observation"]
    np.testing.assert_allclose(networks.observation_mean, seen.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(1 / networks.observation_rate, seen.std(0), rtol=1e-3)


@pytest.mark.parametrize("steps", [10, 76, 101])
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(whole: SimulatedTraining, steps: int, tmp_path: Path) -> None:
    """Stopped in the random steps, in the middle of two episodes, and just after an evaluation's steps."""
    run(SimulatedTraining(plan(simulators=2), tmp_path), steps).save()
    resumed = run(SimulatedTraining.resume(tmp_path))
    assert torch.equal(resumed.learner.policy.values, whole.learner.policy.values)
    assert torch.equal(resumed.learner.critics.values, whole.learner.critics.values)
    assert resumed.episodes == whole.episodes
    timed = {"seconds": 0.0, "latency_p50_ms": 0.0, "latency_p99_ms": 0.0}
    assert [replace(look, **timed) for look in resumed.looks] == [replace(look, **timed) for look in whole.looks]


def test_a_training_stopped_before_its_last_files_writes_them_when_it_is_resumed(tmp_path: Path) -> None:
    begun = run(SimulatedTraining(plan(frames=150, evaluate_every=1000), tmp_path))
    for name in ("controller.onnx", "returns.csv", "metrics.csv"):
        (tmp_path / name).unlink()
    resumed = SimulatedTraining.resume(tmp_path)
    assert resumed.finished and not resumed.due
    resumed.finish()
    assert (tmp_path / "controller.onnx").is_file() and json.loads((tmp_path / "metrics.json").read_text())["updates"] == begun.updates
    assert len((tmp_path / "returns.csv").read_text().splitlines()) == 1 + len(begun.episodes)


def test_the_seed_decides(tmp_path: Path) -> None:
    first, second = (run(SimulatedTraining(plan(seed=seed), tmp_path), 80) for seed in (1, 2))
    assert not torch.equal(first.learner.policy.values, second.learner.policy.values)


def test_an_environment_of_another_package_is_learned_in_too(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    contract = adapters.contract_of("gymnasium/InvertedPendulum-v5")
    training = run(SimulatedTraining(replace(plan(frames=100), contract=contract.canonical_json()), tmp_path))
    assert training.frames == 100 and training._buffer.state()["terminated"].any()
    assert ControllerSession.load(tmp_path / "controller.onnx", contract).contract.hash == contract.hash


def test_too_few_frames_to_learn_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"frames: 128 give 64 steps.*fit\.warm_up 64: give more frames"):
        SimulatedTraining(plan(frames=128), tmp_path)


def test_losses_that_are_not_finite_end_the_training_with_a_remedy(tmp_path: Path) -> None:
    training = run(SimulatedTraining(plan(), tmp_path), 70)
    training.learner.critics.values.fill_(float("nan"))
    training.step()
    with pytest.raises(UserError, match=r"no longer finite.*lower fit\.learning_rate"):
        training.evaluate()


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to go on with"):
        SimulatedTraining.resume(tmp_path)
    path = tmp_path / simulated.CHECKPOINT
    checkpoint.write(path, plan(), {"learner.target": torch.zeros(3)})
    with pytest.raises(UserError, match="damaged"):
        SimulatedTraining.resume(tmp_path)
