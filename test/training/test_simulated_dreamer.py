"""Dreamer in simulation: episodes go into the replay as they were, a stop changes nothing, and one file drives the robot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cartpole_models import contract
from gl import pictures_or_skip
from one_thread import one_thread  # noqa: F401
from small_dreamer import config, fit

from wm_ros.agents.dreamer import V1, V2
from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.planners.cem import CEMConfig
from wm_ros.runtime.controller import ControllerSession
from wm_ros.training import simulated_kinds
from wm_ros.training.config import DreamerAgentConfig, load_policy_or_dreamer
from wm_ros.training.dreamer_learner import V1_FIT, V2_FIT
from wm_ros.training.simulated import SimulatedPlan
from wm_ros.training.simulated_dreamer import DreamerLook, DreamerTraining


def short() -> schema.Contract:
    """The cart-pole with episodes of 20 ticks."""
    data = contract().model_dump(mode="json")
    data["episode"]["duration_s"] = 20 * contract().control.period_s
    return schema.parse(data, "test")


def watched() -> schema.Contract:
    """The cart-pole with a camera of 16 x 16 pixels and episodes of 20 ticks."""
    data = schema.load("cartpole_balance_pixels").model_dump(mode="json")
    data["episode"]["duration_s"] = 20 * contract().control.period_s
    data["observation"][1]["image"] = {"height": 16, "width": 16, "encoding": "rgb8"}
    return schema.parse(data, "test")


def plan(frames: int = 240, simulators: int = 2, seed: int = 3, robot: schema.Contract | None = None, see: str = "all") -> SimulatedPlan:
    networks = replace(config(), world=replace(config().world, see=see, image_depth=2))
    agent = DreamerAgentConfig(networks, replace(fit(), train_ratio=8.0))
    text, test = (robot or short()).canonical_json(), {"wm_ros": "test"}
    return SimulatedPlan(text, agent, frames, 160, test, seed=seed, simulators=simulators, evaluations=1)


def run(training: DreamerTraining, steps: int = 10_000) -> DreamerTraining:
    for _ in range(steps):
        if training.due:
            training.evaluate()
        if training.finished:
            break
        training.step()
    return training


def folders(root: Path) -> list[Path]:
    made = [root / name for name in ("whole", "stopped")]
    for folder in made:
        folder.mkdir()
    return made


def begin(folder: Path, **changes: int) -> DreamerTraining:
    training = simulated_kinds.begin(plan(**changes), folder)
    assert isinstance(training, DreamerTraining)
    return training


def test_a_stop_in_the_middle_of_an_episode_changes_nothing(tmp_path: Path) -> None:
    first, second = folders(tmp_path)
    whole = run(begin(first))
    stopped = run(begin(second), 47)
    stopped.save()
    resumed = run(simulated_kinds.resume(second))  # type: ignore[arg-type]
    assert whole.updates == resumed.updates > 10
    expected, found = whole._state(), resumed._state()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        if name != "rest":  # which has the seconds of training
            assert torch.equal(tensor, found[name]), name
    assert [row.total_reward for row in whole.episodes] == [row.total_reward for row in resumed.episodes]
    assert isinstance(whole.looks[-1], DreamerLook) and whole.looks[-1].observation_loss > 0


def test_a_finished_training_made_longer_is_one_that_was_as_long_from_the_start(tmp_path: Path) -> None:
    first, second = folders(tmp_path)
    whole = run(begin(first, frames=480))
    short = run(begin(second))
    short.finish()
    short.done_with()
    longer = run(simulated_kinds.resume(second, frames=480))  # type: ignore[arg-type]
    assert whole.updates == longer.updates > short.updates > 10
    found = longer._state()
    for name, tensor in whole._state().items():
        if name != "rest":
            assert torch.equal(tensor, found[name]), name


def test_pixels_are_learned_from_and_drive_and_a_stop_changes_nothing_there_either(tmp_path: Path) -> None:
    pictures_or_skip()
    whole, stopped = (simulated_kinds.begin(plan(160, 1, robot=watched(), see="images"), folder) for folder in folders(tmp_path))
    run(whole)
    run(stopped, 71)
    stopped.save()
    held = stopped._buffer.state()["images.front"]
    assert held.dtype == np.uint8 and held.shape == (1, 75, 16, 16, 3) and len(np.unique(held[0, 10:20], axis=0)) > 1
    resumed = run(simulated_kinds.resume(stopped.folder))
    assert whole.updates == resumed.updates == 5
    for name, tensor in whole._state().items():
        if name != "rest":
            assert torch.equal(tensor, resumed._state()[name]), name
    resumed.finish()
    assert ControllerSession.load(resumed.folder / "controller.onnx", watched()).cameras == ("front",)
    assert resumed.looks[-1].parity < 1e-4


def test_a_planner_in_the_latent_space_drives_training_and_robot(tmp_path: Path) -> None:
    begun = plan(frames=160)
    planner = CEMConfig(horizon=2, candidates=8, iterations=1, elites=2)
    world = replace(begun.agent.dreamer.world, reward="gaussian")  # as in planet.yaml
    agent = replace(begun.agent, dreamer=replace(begun.agent.dreamer, act="planner", planner=planner, world=world))
    training = run(simulated_kinds.begin(replace(begun, agent=agent), tmp_path))
    training.finish()
    session = ControllerSession.load(tmp_path / "controller.onnx", short())
    assert session.metadata.agent == "dreamer" and {"latent", "actions", "model"} == set(session.metadata.noise)
    assert training.looks[-1].observation_loss > 0 and training.looks[-1].actor_loss == 0


def test_the_replay_holds_the_episodes_with_their_borders(tmp_path: Path) -> None:
    training = run(begin(tmp_path), 50)
    state = training._buffer.state()
    for world in range(2):
        np.testing.assert_array_equal(np.flatnonzero(state["first"][world]), [0, 21, 42])
        assert not state["terminated"][world].any()  # the contract's episodes are cut by time
        assert (state["reward"][world][[0, 21, 42]] == 0).all() and (state["action"][world][21] == 0).all()
    np.testing.assert_array_equal(state["observation"][:, -1], training._fleet.observation)


def test_the_replay_remembers_the_states_that_the_policy_acted_on(tmp_path: Path) -> None:
    training = run(begin(tmp_path, frames=480), 45)
    training._fleet.step(training._random())  # no update in between
    training._act(training._fleet.observation)
    remembered = training._buffer.state()["remembered.deter"]
    np.testing.assert_allclose(remembered[:, -1], training._carry["deter"].numpy(), atol=1e-3)
    assert (remembered[:, -1] != 0).any(-1).all()


def test_a_new_episode_begins_with_an_empty_carry(tmp_path: Path) -> None:
    training = run(begin(tmp_path), 59)
    assert all((held != 0).any() for held in training._carry.values())
    training.step()
    assert all((held == 0).all() for held in training._carry.values())


def test_the_exported_file_drives_the_robot_and_the_tables_are_written(tmp_path: Path) -> None:
    training = run(begin(tmp_path))
    training.finish()
    session = ControllerSession.load(tmp_path / "controller.onnx", short())
    assert session.metadata.agent == "dreamer" and set(session.metadata.carry) == {"deter", "stoch", "action"}
    assert "divergence" in (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert training.looks[-1].parity < 1e-4


def test_the_shipped_settings_are_those_of_the_versions_and_a_wrong_field_is_named(tmp_path: Path) -> None:
    assert isinstance(load_policy_or_dreamer("dreamer"), DreamerAgentConfig)
    assert load_policy_or_dreamer("planet").dreamer.act == "planner"
    assert load_policy_or_dreamer("dreamer_v1") == DreamerAgentConfig(V1, V1_FIT)
    assert load_policy_or_dreamer("dreamer_v2") == DreamerAgentConfig(V2, V2_FIT)
    path = tmp_path / "mine.yaml"
    path.write_text("dreamer: {rssm: {deters: 3}}\n")
    with pytest.raises(UserError, match=r"dreamer\.rssm\.deters: unknown field"):
        load_policy_or_dreamer(path)
    path.write_text("dreamer: {rssm: {deter: 30, blocks: 7}}\n")
    with pytest.raises(UserError, match="blocks 7 must be 0 or divide deter 30"):
        load_policy_or_dreamer(path)


def test_more_simulators_than_there_are_stretches_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fit\.length: the first stretch of 8 rows .* each of 9 simulators has given 7: "):
        begin(tmp_path, simulators=9, frames=2000)
