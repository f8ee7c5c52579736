"""Dreamer from recordings alone: it learns what the recordings reward, and comes out the same after an interruption."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from one_thread import one_thread  # noqa: F401
from small_dreamer import config, fit
from small_mbpo import slider

from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data.episode import Episode
from wm_ros.export.controller import versions
from wm_ros.runtime.artifact import TrainingBag
from wm_ros.runtime.controller import ControllerSession
from wm_ros.training.bag_policy import BagPolicyPlan
from wm_ros.training.bag_set import BagSet
from wm_ros.training.config import DreamerAgentConfig
from wm_ros.training.dreamer_learner import V1_FIT
from wm_ros.training.offline_dreamer import OfflineDreamerTraining


def recordings(count: int = 8, ticks: int = 30, camera: bool = False) -> list[Episode]:
    """A slider that is rewarded for being on the right, driven at random."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(count):
        actions = rng.uniform(-1, 1, (ticks, 1)).astype(np.float32)
        position = np.concatenate([rng.uniform(-1, 1, (1, 1)), np.zeros((ticks, 1))]).astype(np.float32)
        for t in range(ticks):
            position[t + 1] = np.clip(position[t] + 0.3 * actions[t], -1, 1)
        images = {"front": np.broadcast_to(100 + 100 * position[:, :, None, None], (ticks + 1, 8, 8, 3)).astype(np.uint8)} if camera else {}
        columns = position, actions, position[1:, 0].copy(), np.zeros(ticks, np.bool_)
        episodes.append(Episode(*columns, True, np.arange(ticks + 1), images=images))
    return episodes


def camera_slider() -> Contract:
    data = slider().model_dump(mode="json")
    image = {"height": 8, "width": 8, "encoding": "rgb8"}
    data["observation"].append({"name": "front", "topic": "front", "type": "sensor_msgs/msg/Image", "max_age_s": 1.0, "image": image})
    return schema.parse(data, "test")


def training(folder: Path, updates: int, episodes: list[Episode] | None = None, robot: Contract | None = None) -> OfflineDreamerTraining:
    adam = replace(V1_FIT.optimizer, warm_up=0)
    rates = {"learning_rate": 5e-3, "actor_rate": 1e-2, "critic_rate": 5e-3, "optimizer": adam}
    agent = DreamerAgentConfig(config(), replace(fit(), discount=0.8, entropy=1e-4, **rates))
    bag = TrainingBag(path="memory", sha256="0" * 64)
    plan = BagPolicyPlan((robot or slider()).canonical_json(), agent, (bag,), (), versions(), updates)
    return OfflineDreamerTraining(plan, BagSet([bag], [recordings() if episodes is None else episodes]), folder)


def run(begun: OfflineDreamerTraining, until: int = 1 << 30) -> OfflineDreamerTraining:
    while not begun.finished and begun.updates < until:
        begun.step()
    return begun


def test_the_policy_goes_where_recordings_are_rewarded_and_files_say_how(tmp_path: Path) -> None:
    trained = run(training(tmp_path, 150))
    trained.finish()
    session = ControllerSession.load(tmp_path / "controller.onnx", slider())
    session.reset(0)
    position = np.full(1, -0.8, np.float32)
    for _ in range(15):
        position = np.clip(position + 0.3 * session.act(position).action, -1, 1).astype(np.float32)
        session.prepare()
    assert position[0] > 0.5
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [row["update"] for row in rows] == ["150"] and float(rows[0]["held_out_model_loss"]) > 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["episodes"] == 7 and len(metrics["held_out"]) == 1 and metrics["agent"] == "dreamer"


def test_an_interruption_changes_nothing(tmp_path: Path) -> None:
    whole, begun = run(training(tmp_path, 12)), run(training(tmp_path, 12), 5)
    state = begun._state()
    resumed = training(tmp_path, 12)
    resumed._restore(state)
    run(resumed)
    for name, tensor in whole._state().items():
        if name != "rest":
            assert torch.equal(tensor, resumed._state()[name]), name


def test_pictures_of_recordings_are_learned_from(tmp_path: Path) -> None:
    trained = run(training(tmp_path, 3, recordings(3, camera=True), camera_slider()))
    state = trained._buffer.state()
    assert state["images.front"].shape == (1, 2 * 31, 8, 8, 3)
    np.testing.assert_array_equal(state["images.front"][0, 0, 0, 0], (100 + 100 * state["observation"][0, 0]).astype(np.uint8).repeat(3))
    trained.finish()
    assert ControllerSession.load(tmp_path / "controller.onnx", camera_slider()).cameras == ("front",)


def test_recordings_shorter_than_a_stretch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"7 observations to learn from, and a stretch has fit\.length 8: give more bags"):
        training(tmp_path, 3, recordings(1, ticks=6))
