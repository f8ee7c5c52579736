"""From episodes to controllers, without ROS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cartpole_bags
import numpy as np
import pytest
from cartpole_models import contract
from safetensors.numpy import load_file
from small_agents import PETS

from wm_ros.agents.pets import dynamics
from wm_ros.contract.announcements import ControllerNotice
from wm_ros.contract.errors import UserError
from wm_ros.data.align import read_episodes
from wm_ros.data.bag_hash import bag_hash
from wm_ros.data.episode import Episode
from wm_ros.runtime.artifact import TrainingBag
from wm_ros.runtime.controller import ControllerSession
from wm_ros.sim.episode import run_episode
from wm_ros.sim.simulator import Simulator
from wm_ros.training.config import AgentConfig
from wm_ros.training.fit import FitConfig
from wm_ros.training.pets_learner import PetsLearner

CONFIG = AgentConfig(pets=PETS, fit=FitConfig(steps=60, check_every=20, batch=32))
CARTPOLE = cartpole_bags.contract()
START = np.array([0.0, 0.0, -1.0, 0.0, 0.0], np.float32)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def episode(seed: int, ticks: int = 60) -> Episode:
    rng = np.random.default_rng(seed)
    return run_episode(Simulator(contract()), lambda observation: rng.uniform(-10, 10, 1), ticks, seed=seed)


def bag(number: int) -> TrainingBag:
    return TrainingBag(path=f"episode_{number:04d}", sha256=f"{number:064x}")


class Learned:
    """One life of a learner: explore, learn from an episode, learn from another."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.folder = folder
        self.learner = PetsLearner(contract(), CONFIG, folder, seed, lambda phase, fields: self.told.append((phase, fields)))
        self.notices: list[ControllerNotice] = [self.learner.explore()]
        for number in range(2):
            self.learner.add([episode(number)], bag(number))
            self.notices.append(self.learner.train())

    def metrics(self, version: int) -> dict[str, Any]:
        return json.loads((self.folder / f"{version:04d}" / "metrics.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    return Learned(tmp_path_factory.mktemp("models"))


def test_every_version_is_a_controller_that_the_robot_takes(learned: Learned) -> None:
    for version, notice in enumerate(learned.notices):
        session = ControllerSession.load(notice.path, contract(), expected_sha256=notice.sha256)
        assert session.notice == notice and session.metadata.version == version
        assert session.act(START).ok
    assert [n.agent for n in learned.notices] == ["explore", "pets", "pets"] and [n.episodes for n in learned.notices] == [0, 1, 2]
    assert Path(learned.notices[1].path) == learned.folder / "0001" / "controller.onnx"


def test_a_controller_names_the_bags_it_has_learned_from(learned: Learned) -> None:
    first, second = (ControllerSession.load(n.path, contract()).metadata for n in learned.notices[1:])
    assert first.training_bags == (bag(0),) and second.training_bags == (bag(0), bag(1))


def test_the_model_is_kept_beside_the_controller(learned: Learned) -> None:
    assert sorted(p.name for p in (learned.folder / "0002").iterdir()) == ["controller.onnx", "metrics.json", "model.safetensors"]
    saved = load_file(learned.folder / "0002" / "model.safetensors")
    model = dynamics(contract(), PETS, planning=False)
    assert {k: v.shape for k, v in saved.items()} == {k: tuple(v.shape) for k, v in model.state_dict().items()}
    observations = np.concatenate([episode(n).observation[:-1] for n in range(2)])
    rows = np.abs(saved["observation_mean"] - observations.mean(axis=0))
    assert (rows < 0.1 * observations.std(axis=0)).all()


def test_metrics_hold_what_a_report_needs(learned: Learned) -> None:
    first, second = learned.metrics(1), learned.metrics(2)
    assert first["open_loop"] is None, "before the first model nothing could be predicted"
    assert len(second["open_loop"]["rmse"]) == PETS.planner.horizon and second["open_loop"]["columns"] == list(contract().observation_names)
    assert (second["version"], second["episodes"], second["transitions"]) == (2, 2, 120)
    assert second["contract_hash"] == contract().hash and second["config"]["fit"]["steps"] == 60
    assert sorted(second["elites"]) == [0, 1, 2] and len(second["holdout_loss"]) == 3 and second["parity"] <= 1e-5


def test_progress_goes_through_its_phases(learned: Learned) -> None:
    phases = [phase for phase, fields in learned.told if fields["version"] == 2]
    assert phases == ["training"] * 3 + ["exporting", "ready"]
    ready = next(fields for phase, fields in learned.told if phase == "ready" and fields["version"] == 2)
    assert ready["metrics"]["open_loop_rmse"] == learned.metrics(2)["open_loop"]["normalized_rmse"][-1]


def test_the_same_seed_and_episodes_give_the_same_model(learned: Learned, tmp_path: Path) -> None:
    again, other = Learned(tmp_path / "again"), Learned(tmp_path / "other", seed=1)
    ours, theirs, others = (load_file(x.folder / "0002" / "model.safetensors") for x in (learned, again, other))
    assert all((ours[k] == theirs[k]).all() for k in ours)
    assert not all((ours[k] == others[k]).all() for k in ours)


def test_episodes_shorter_than_a_model_step_cannot_be_learned_from(tmp_path: Path) -> None:
    learner = PetsLearner(contract(), CONFIG, tmp_path, 0, lambda phase, fields: None)
    learner.add([episode(0, ticks=1)], bag(0))
    with pytest.raises(UserError, match="no episode has 2 ticks"):
        learner.train()
    assert not list(tmp_path.iterdir())


def test_a_learner_started_again_goes_on_with_its_newest_controller_and_its_bags(tmp_path: Path) -> None:
    def learner() -> PetsLearner:
        return PetsLearner(CARTPOLE, CONFIG, tmp_path / "models", 0, lambda phase, fields: None)

    paths = [cartpole_bags.write_cartpole(tmp_path / f"episode_{n:04d}", 40, of=CARTPOLE) for n in range(2)]
    bags = [TrainingBag(path=str(path), sha256=bag_hash(path)) for path in paths]
    first, warnings = learner(), list[str]()
    assert first.resume(warnings.append) is None
    first.explore()
    for recorded in bags:
        first.add(read_episodes(recorded.path, CARTPOLE), recorded)
    notice = first.train()

    second = learner()
    assert second.resume(warnings.append) == notice and not warnings
    assert second.counts == first.counts and second.bags == bags
    assert all(np.array_equal(a.observation, b.observation) for a, b in zip(first.episodes, second.episodes, strict=True))
    assert second.train().version == notice.version + 1

    (paths[0] / "metadata.yaml").write_text("changed")
    Path(second.path(2)).write_bytes(b"damaged")
    third = learner()
    assert third.resume(warnings.append) == notice and third.bags == bags[1:]
    assert len(warnings) == 2 and str(second.path(2)) in warnings[0] and "changed since" in warnings[1]


def test_every_learned_controller_comes_with_the_level_beside_which_its_plans_are_judged(learned: Learned) -> None:
    sessions = [ControllerSession.load(notice.path, contract()) for notice in learned.notices]
    assert sessions[0].disagreement_level is None, "version 0 has no model"
    for session in sessions[1:]:
        level = session.disagreement_level
        assert level is not None and level.level > 0 and level.data == "training" and len(level.scale) == 5
