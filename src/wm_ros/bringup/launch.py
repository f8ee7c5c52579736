"""The described system as launch_ros actions. The only module that knows launch and launch_ros, imported when a launch file asks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from wm_ros.bringup import exposure
from wm_ros.bringup.fields import field_docs
from wm_ros.bringup.system import NodeProcess, Process, Program, SystemOptions, describe, describe_replay, describe_training
from wm_ros.contract.errors import UserError

COMMON = ("namespace", "use_sim_time", "contract", "params_file", "autostart", "log_level", "seed", "remap")
VIEW = ("use_rviz", "rviz_config")
DRIVE = ("agent", "controller", "standby", "record", "episodes", "evaluate", "first_episode", "run_directory", *VIEW)
TRAIN = ("agent", "trainer_threads", "run_directory")

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "sim": (*COMMON, *DRIVE, "mode", "headless", "train", "trainer_threads"),
    "robot": (*COMMON, *DRIVE),
    "train": (*COMMON, *TRAIN),
    "replay": (*COMMON, *VIEW),
}
"""Which options each launch file takes as arguments."""

FIXED: dict[str, dict[str, Any]] = {"sim": {}, "robot": {"simulate": False}, "train": {}, "replay": {}}
BAG = "Bag to play: the folder that holds its metadata.yaml"


def description(kind: Literal["sim", "robot", "train", "replay"]) -> Any:
    """A LaunchDescription: the arguments of one launch file, and the processes that follow from their values."""
    from launch import LaunchDescription
    from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable

    defaults, docs = SystemOptions(), field_docs(SystemOptions)
    arguments = [
        DeclareLaunchArgument(name, default_value=_text(getattr(defaults, name)), description=_one_line(docs[name]), **_choices(name))
        for name in dict.fromkeys(ARGUMENTS[kind])
    ]
    if kind == "replay":
        arguments.append(DeclareLaunchArgument("bag", description=BAG))

    def build(context: Any) -> list[Any]:
        # A UserError from here is reported by launch as one line, and ends it.
        values = context.launch_configurations
        options = options_from_text({name: values[name] for name in ARGUMENTS[kind]}, **FIXED[kind])
        return actions(_processes(kind, options, values.get("bag", "")))

    local = [SetEnvironmentVariable(name, value) for name, value in exposure.defaults(os.environ).items()]
    return LaunchDescription([*arguments, *local, OpaqueFunction(function=build)])


def _processes(kind: str, options: SystemOptions, bag: str) -> tuple[Process, ...]:
    if kind == "replay":
        return describe_replay(options, bag)
    return describe_training(options) if kind == "train" else describe(options)


def options_from_text(values: dict[str, str], **fixed: Any) -> SystemOptions:
    """Options from launch arguments, which are all text.

    Raises:
        UserError: a value is not what its option takes.
    """
    hints = get_type_hints(SystemOptions)
    parsed = {name: _parse(name, text, hints[name]) for name, text in values.items()}
    return SystemOptions(**{**parsed, **fixed})


def _parse(name: str, text: str, kind: Any) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise UserError(f"{name}: {text!r}: write true or false")
        return text.lower() in ("true", "1")
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise UserError(f"{name}: {text!r} is no whole number") from None
    if get_origin(kind) is tuple:
        return tuple(text.split())
    if get_origin(kind) is Literal and text not in get_args(kind):
        raise UserError(f"{name}: {text!r} is none of {', '.join(get_args(kind))}")
    return text


def actions(processes: Sequence[Process]) -> list[Any]:
    """launch_ros actions that run the described processes."""
    from launch.actions import ExecuteProcess, Shutdown
    from launch_ros.actions import LifecycleNode

    def end(name: str) -> Any:
        # Not after the first: launch reports every further shutdown as an error.
        return lambda event, context: None if context.is_shutdown else [Shutdown(reason=f"{name} has ended")]

    made: list[Any] = []
    for process in processes:
        if isinstance(process, Program):
            ending = {"on_exit": end(process.name)} if process.required else {}
            made.append(ExecuteProcess(cmd=list(process.command), name=process.name, output="screen", **ending))
        else:
            made.append(LifecycleNode(**_node_arguments(process), **({} if process.respawn else {"on_exit": end(process.name)})))
    return made


def _node_arguments(node: NodeProcess) -> dict[str, Any]:
    from launch_ros.parameter_descriptions import ParameterValue

    arguments: dict[str, Any] = {
        "package": "wm_ros",
        "executable": node.name,
        "name": node.name,
        "namespace": node.namespace,
        # launch_ros reads text as YAML unless it is told the type: a contract called 007 would become a number.
        "parameters": [
            *node.params_files,
            {key: ParameterValue(value, value_type=str) if isinstance(value, str) else value for key, value in node.parameters.items()},
        ],
        "remappings": list(node.remappings),
        "ros_arguments": ["--log-level", node.log_level, "--enclave", node.enclave],
        "additional_env": dict(node.environment),
        "output": "screen",
        "emulate_tty": True,
    }
    if node.nice:
        arguments["prefix"] = f"nice -n {node.nice}"
    if node.respawn:
        arguments |= {"respawn": True, "respawn_delay": 2.0}
    return arguments


def _choices(name: str) -> dict[str, list[str]]:
    hint = get_type_hints(SystemOptions)[name]
    if hint is bool:
        return {"choices": ["true", "false"]}
    return {"choices": list(get_args(hint))} if get_origin(hint) is Literal else {}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _one_line(text: str) -> str:
    return " ".join(text.split())
