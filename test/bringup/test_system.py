"""The description of the running system."""

from __future__ import annotations

import importlib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from wm_ros.bringup import exposure
from wm_ros.bringup.fields import field_docs
from wm_ros.bringup.system import NodeProcess, Program, SystemOptions, describe, describe_replay, describe_training
from wm_ros.contract import resources
from wm_ros.contract.errors import UserError


def nodes(options: SystemOptions) -> dict[str, NodeProcess]:
    return {p.name: p for p in describe(options) if isinstance(p, NodeProcess)}


def declared(name: str) -> set[str]:
    """Parameters that a node declares."""
    module = importlib.import_module(f"wm_ros.nodes.{name}")
    base = importlib.import_module("wm_ros.nodes.base")
    classes = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, base.WmNode) and c is not base.WmNode]
    assert len(classes) == 1, f"{name}: {classes}"
    return {*base.COMMON, *classes[0].parameters, "use_sim_time"}


FULL = SystemOptions(train=True, record=True, episodes=2, evaluate=1, standby=__file__)


@pytest.mark.parametrize("name", list(nodes(FULL)))
def test_every_described_parameter_is_one_that_the_node_declares(name: str) -> None:
    assert set(nodes(FULL)[name].parameters) <= declared(name)


def test_every_parameter_in_nodes_yaml_is_one_that_the_node_declares() -> None:
    text = (resources.share_directory() / "config" / "nodes.yaml").read_text()
    for key, entry in yaml.safe_load(text).items():
        assert set(entry["ros__parameters"]) <= declared(key.removeprefix("/**/"))


def test_the_gate_runs_in_every_system_and_the_simulator_only_where_there_is_no_robot() -> None:
    assert "command_gate" in nodes(SystemOptions()) and "sim" in nodes(SystemOptions())
    robot = nodes(SystemOptions(simulate=False))
    assert "command_gate" in robot and "sim" not in robot
    assert robot["episode_manager"].parameters["has_sim"] is False


def test_recording_and_training_are_left_out_when_not_asked_for() -> None:
    assert not {"logger", "trainer"} & set(nodes(SystemOptions(record=False)))
    assert {"logger", "trainer"} <= set(nodes(FULL))


def test_only_the_simulator_publishes_the_clock_and_it_does_not_follow_it() -> None:
    system = nodes(SystemOptions(use_sim_time=True))
    assert [n for n, p in system.items() if p.parameters.get("publish_clock")] == ["sim"]
    assert [n for n, p in system.items() if not p.parameters["use_sim_time"]] == ["sim"]


def test_training_beside_a_robot_gives_way_to_the_control_path() -> None:
    trainer = nodes(SystemOptions(train=True))["trainer"]
    assert trainer.nice > 0 and trainer.parameters["threads"] == 1
    assert all(p.nice == 0 for n, p in nodes(FULL).items() if n in ("sim", "mpc", "command_gate", "logger"))


def test_the_control_path_has_single_threaded_numerics_and_the_trainer_has_not() -> None:
    system = nodes(FULL)
    assert system["mpc"].environment["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in system["trainer"].environment


def test_the_control_path_shares_no_memory_with_others_except_where_there_are_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (exposure.RANGE, exposure.TRANSPORTS, exposure.MIDDLEWARE, *exposure.PROFILES, *exposure.OTHERS):
        monkeypatch.delenv(name, raising=False)
    apart = exposure.without_shared_memory({}).items()
    assert {n for n, p in nodes(FULL).items() if apart <= p.environment.items()} == {"command_gate", "mpc", "policy_server"}
    with_pictures = nodes(replace(FULL, contract="cartpole_balance_pixels", standby=""))
    assert not [n for n, p in with_pictures.items() if apart <= p.environment.items()]


def test_every_node_gets_the_seed_and_the_mode() -> None:
    system = nodes(SystemOptions(seed=7, mode="lockstep"))
    assert {p.parameters["seed"] for p in system.values()} == {7}
    assert {p.parameters["mode"] for p in system.values()} == {"lockstep"}


def test_paths_are_absolute_since_nodes_may_run_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.onnx").write_bytes(b"")
    Path("p.yaml").write_text("")
    system = nodes(SystemOptions(controller="c.onnx", params_file="p.yaml", run_directory="r", train=True))
    assert system["mpc"].parameters["controller"] == str(tmp_path / "c.onnx")
    assert system["mpc"].params_files[-1] == str(tmp_path / "p.yaml")
    assert system["logger"].parameters["directory"] == str(tmp_path / "r" / "bags")
    assert system["trainer"].parameters["run_directory"] == str(tmp_path / "r")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"controller": "/no/such.onnx"}, "controller"),
        ({"params_file": "/no/such.yaml"}, "params_file"),
        ({"remap": ("joint_states",)}, "remap"),
        ({"mode": "lockstep", "simulate": False}, "lockstep"),
    ],
)
def test_what_can_never_work_is_refused_with_the_option_named(options: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        SystemOptions(**options)


def test_rviz_starts_only_on_demand_with_the_shipped_configuration() -> None:
    assert not [p for p in describe(SystemOptions()) if isinstance(p, Program)]
    (rviz,) = [p for p in describe(SystemOptions(use_rviz=True, namespace="cell")) if isinstance(p, Program)]
    assert rviz.command[0] == "rviz2" and rviz.command[2].endswith("config/wm_ros.rviz") and "__ns:=/cell" in rviz.command


def test_replay_plays_the_bag_under_the_same_names_beside_the_visualizer(tmp_path: Path) -> None:
    processes = describe_replay(SystemOptions(remap=("joint_states:=robot/joint_states",), namespace="/cell"), str(tmp_path))
    (play,) = [p for p in processes if isinstance(p, Program)]
    assert play.command[:4] == ("ros2", "bag", "play", str(tmp_path)) and "joint_states:=robot/joint_states" in play.command
    assert play.required and [p.name for p in processes if isinstance(p, NodeProcess)] == ["visualizer"]


def test_a_missing_bag_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing_here"):
        describe_replay(SystemOptions(), str(tmp_path / "nothing_here"))


def test_the_trainer_alone_can_run_beside_another_system() -> None:
    assert [p.name for p in describe_training(SystemOptions())] == ["trainer"]


def test_every_option_is_explained() -> None:
    docs = field_docs(SystemOptions)
    assert {f.name for f in fields(SystemOptions)} == set(docs) and all(docs.values())


def test_only_nodes_that_run_are_awaited() -> None:
    whole = nodes(SystemOptions())
    assert "logger" in whole["episode_manager"].parameters["awaits"] and "sim" in whole["command_gate"].parameters["awaits"]
    robot = nodes(SystemOptions(record=False, simulate=False))
    awaited = {name for p in robot.values() for name in p.parameters.get("awaits", "").split(",") if name}
    assert awaited <= set(robot)


def test_one_word_swaps_the_whole_stack() -> None:
    planning, acting = (nodes(SystemOptions(agent=agent, train=True, episodes=2)) for agent in ("pets", "sac"))
    assert "mpc" in planning and "policy_server" not in planning
    assert "policy_server" in acting and "mpc" not in acting
    for system, source in ((planning, "mpc"), (acting, "policy")):
        assert {system[name].parameters["source"] for name in ("command_gate", "episode_manager")} == {source}
    assert (planning["trainer"].parameters["agent"], acting["trainer"].parameters["agent"]) == ("pets", "sac")
    assert "policy_server" in acting["sim"].parameters["awaits"] and "mpc" not in acting["sim"].parameters["awaits"]


def test_the_other_server_runs_beside_where_it_is_given_a_controller(tmp_path: Path) -> None:
    drive, wait = tmp_path / "drive.onnx", tmp_path / "wait.onnx"
    for path in (drive, wait):
        path.write_bytes(b"")
    for agent, driver, other in (("pets", "mpc", "policy_server"), ("sac", "policy_server", "mpc")):
        system = nodes(SystemOptions(agent=agent, controller=str(drive), standby=str(wait)))
        assert (system[driver].parameters["controller"], system[other].parameters["controller"]) == (str(drive), str(wait))
    with pytest.raises(UserError, match="standby"):
        SystemOptions(standby="/no/such.onnx")


def test_a_robot_outlives_its_trainer_and_a_lockstep_series_does_not() -> None:
    assert nodes(SystemOptions(train=True))["trainer"].respawn
    assert not nodes(SystemOptions(train=True, mode="lockstep"))["trainer"].respawn


def test_a_policy_is_learned_while_the_robot_moves_on_except_in_lockstep() -> None:
    def waits(**options: Any) -> bool:
        return bool(nodes(SystemOptions(train=True, episodes=3, **options))["episode_manager"].parameters["wait_for_model"])

    assert not waits(agent="sac") and waits(agent="sac", mode="lockstep") and waits(agent="pets")
