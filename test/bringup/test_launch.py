"""The launch files, against stand-ins with the signatures of launch and launch_ros, which do not come as wheels."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from wm_ros.bringup import exposure, launch
from wm_ros.bringup.launch import ARGUMENTS, options_from_text
from wm_ros.contract import resources
from wm_ros.contract.errors import UserError

LAUNCH = resources.share_directory() / "launch"


@dataclass
class DeclareLaunchArgument:
    name: str
    default_value: str | None = field(default=None, kw_only=True)
    description: str = field(default="", kw_only=True)
    choices: list[str] | None = field(default=None, kw_only=True)


@dataclass
class SetEnvironmentVariable:
    name: str
    value: str


@dataclass(kw_only=True)
class OpaqueFunction:
    function: Any


@dataclass(kw_only=True)
class Shutdown:
    reason: str


@dataclass(kw_only=True)
class ExecuteProcess:
    cmd: list[str]
    name: str
    output: str
    on_exit: Any = None


@dataclass(kw_only=True)
class LifecycleNode:
    package: str
    executable: str
    name: str
    namespace: str
    parameters: list[Any]
    remappings: list[tuple[str, str]]
    ros_arguments: list[str]
    additional_env: dict[str, str]
    output: str
    emulate_tty: bool
    prefix: str | None = None
    respawn: bool = False
    respawn_delay: float | None = None
    on_exit: Any = None


@dataclass
class ParameterValue:
    value: Any
    value_type: type = field(kw_only=True)


@dataclass
class LaunchDescription:
    entities: list[Any]


ACTIONS = (DeclareLaunchArgument, SetEnvironmentVariable, OpaqueFunction, Shutdown, ExecuteProcess)


@pytest.fixture(autouse=True)
def launch_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {
        "launch": {"LaunchDescription": LaunchDescription},
        "launch.actions": {c.__name__: c for c in ACTIONS},
        "launch_ros": {},
        "launch_ros.actions": {"LifecycleNode": LifecycleNode},
        "launch_ros.parameter_descriptions": {"ParameterValue": ParameterValue},
    }
    for name, members in contents.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)


def described(kind: str) -> tuple[dict[str, DeclareLaunchArgument], Any]:
    spec = importlib.util.spec_from_file_location("launch_file", LAUNCH / f"{kind}.launch.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    *before, build = module.generate_launch_description().entities
    return {a.name: a for a in before if isinstance(a, DeclareLaunchArgument)}, build.function


def started(kind: str, **given: str) -> list[Any]:
    arguments, build = described(kind)
    defaults = {a.name: a.default_value for a in arguments.values() if a.default_value is not None}
    return build(SimpleNamespace(launch_configurations={**defaults, **given}))


def by_name(actions: list[Any]) -> dict[str, Any]:
    return {a.name: a for a in actions}


def values(node: LifecycleNode) -> dict[str, Any]:
    return {k: getattr(v, "value", v) for k, v in node.parameters[-1].items()}


def test_sim_launch_takes_every_promised_argument() -> None:
    promised = {"namespace", "use_sim_time", "contract", "controller", "params_file", "record", "headless", "use_rviz", "rviz_config"}
    promised |= {"mode", "autostart", "log_level"}
    assert promised <= set(described("sim")[0])


@pytest.mark.parametrize("kind", list(ARGUMENTS))
def test_every_argument_is_described_and_has_a_default_unless_it_must_be_given(kind: str) -> None:
    arguments, _ = described(kind)
    assert all(a.description for a in arguments.values())
    assert [a.name for a in arguments.values() if a.default_value is None] == (["bag"] if kind == "replay" else [])


def test_there_is_a_launch_file_for_each_kind() -> None:
    assert {p.name.removesuffix(".launch.py") for p in LAUNCH.glob("*.launch.py")} == set(ARGUMENTS)


def test_sim_launch_starts_the_simulated_robot_with_the_given_arguments(tmp_path: Path) -> None:
    nodes = by_name(started("sim", namespace="/cell", mode="lockstep", seed="4", log_level="debug", run_directory=str(tmp_path)))
    assert set(nodes) == {"sim", "command_gate", "mpc", "logger", "episode_manager", "visualizer"}
    assert all(n.package == "wm_ros" and n.executable == n.name and n.namespace == "cell" for n in nodes.values())
    assert all(values(n)["mode"] == "lockstep" and values(n)["seed"] == 4 for n in nodes.values())
    assert nodes["mpc"].ros_arguments == ["--log-level", "debug", "--enclave", "/wm_ros/mpc"]
    assert nodes["mpc"].parameters[0].endswith("config/nodes.yaml")


def test_text_parameters_stay_text_for_launch_ros() -> None:
    mpc = by_name(started("sim"))["mpc"]
    assert mpc.parameters[-1]["contract"] == ParameterValue("cartpole_swingup", value_type=str)
    assert mpc.parameters[-1]["autostart"] is True


def test_robot_launch_has_no_simulator_and_renames_topics() -> None:
    nodes = by_name(started("robot", remap="joint_states:=/arm/joint_states command:=/arm/effort"))
    assert "sim" not in nodes and "command_gate" in nodes
    expected = [("joint_states", "/arm/joint_states"), ("command", "/arm/effort")]
    assert all(n.remappings == expected for n in nodes.values())


def test_train_launch_starts_the_trainer_alone_and_nicely() -> None:
    (trainer,) = started("train", agent="pets")
    assert trainer.executable == "trainer" and trainer.prefix == "nice -n 10"


def test_replay_launch_plays_the_bag_for_the_visualizer(tmp_path: Path) -> None:
    actions = by_name(started("replay", bag=str(tmp_path), use_rviz="true"))
    assert set(actions) == {"visualizer", "rviz2", "bag_play"}
    assert actions["bag_play"].cmd == ["ros2", "bag", "play", str(tmp_path)]


def test_a_node_that_dies_ends_the_launch_once_and_the_visualizer_is_started_again() -> None:
    nodes = by_name(started("sim"))
    (first,) = nodes["mpc"].on_exit(None, SimpleNamespace(is_shutdown=False))
    assert first == Shutdown(reason="mpc has ended")
    assert nodes["mpc"].on_exit(None, SimpleNamespace(is_shutdown=True)) is None
    assert nodes["visualizer"].respawn and nodes["visualizer"].on_exit is None


def test_a_faulty_argument_is_one_message_with_its_name() -> None:
    with pytest.raises(UserError, match="seed: 'many'"):
        started("sim", seed="many")
    with pytest.raises(UserError, match="no_such_contract"):
        started("sim", contract="no_such_contract")


@pytest.mark.parametrize(("name", "text"), [("record", "perhaps"), ("episodes", "1.5"), ("mode", "fast")])
def test_arguments_of_the_wrong_kind_are_refused(name: str, text: str) -> None:
    with pytest.raises(UserError, match=name):
        options_from_text({name: text})


def test_launched_nodes_listen_on_this_machine_only_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    def variables() -> dict[str, str]:
        return {a.name: a.value for a in launch.description("sim").entities if isinstance(a, SetEnvironmentVariable)}

    for name in (exposure.RANGE, *exposure.PROFILES, *exposure.OTHERS):
        monkeypatch.delenv(name, raising=False)
    assert variables() == exposure.defaults({}) and variables()[exposure.RANGE] == "LOCALHOST"
    monkeypatch.setenv(exposure.RANGE, "SUBNET")
    assert variables() == {}


@pytest.mark.parametrize("kind", ["sim", "robot"])
def test_the_agent_decides_in_a_launch_file_too_who_drives(kind: str) -> None:
    nodes = by_name(started(kind, agent="sac"))
    assert "policy_server" in nodes and "mpc" not in nodes
    assert values(nodes["command_gate"])["source"] == "policy"
