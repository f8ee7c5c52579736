"""The running system, described once: which processes, with what parameters. Launch files and the supervisor both read it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wm_ros.bringup import exposure
from wm_ros.contract import resources, schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.runtime.agent_kind import SOURCES, Source, kind_of

TRAINER_NICE = 10
VIEW_NICE = 5

SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""For every process on the control path: a second thread in numpy costs more in wake-ups than it brings at these sizes."""

SERVERS: dict[Source, str] = {"mpc": "mpc", "policy": "policy_server"}
"""Whose commands → the node that sends them."""


@dataclass(frozen=True)
class SystemOptions:
    """What a user can choose; launch arguments and the options of `wm-ros up` have these names."""

    namespace: str = ""
    """ROS namespace of all nodes and topics, for instance cell_1; empty for none."""
    use_sim_time: bool = False
    """Nodes read the time from /clock, which the simulator then publishes."""
    contract: str = "cartpole_swingup"
    """Contract: a YAML file, or the name of one that ships with the package."""
    controller: str = ""
    """ONNX controller to drive with; empty: the newest one that a trainer announces on topic `model`."""
    standby: str = ""
    """ONNX controller of the other server beside it: of policy_server where mpc drives, of mpc where policy_server does. Service
    command_gate/select switches between them. Empty: only one server runs."""
    params_file: str = ""
    """YAML file of node parameters, read after config/nodes.yaml."""
    record: bool = True
    """Write a bag of every episode."""
    headless: bool = True
    """No camera images from the simulator."""
    use_rviz: bool = False
    """Start rviz2."""
    rviz_config: str = ""
    """rviz2 configuration; empty: config/wm_ros.rviz."""
    mode: Literal["realtime", "lockstep"] = "realtime"
    """realtime: the steady clock paces; lockstep: simulation as fast as the machine allows, each step waiting for its command."""
    autostart: bool = True
    """Nodes configure and activate themselves; otherwise `ros2 lifecycle` does."""
    log_level: Literal["debug", "info", "warn", "error", "fatal"] = "info"
    """Least severe log messages shown."""
    run_directory: str = "runs/up"
    """Folder for bags, controllers and logs."""
    simulate: bool = True
    """Start the simulator; without it the topics come from a robot."""
    train: bool = False
    """Start the trainer, which learns from every recorded bag and announces controllers on topic `model`."""
    agent: str = "pets"
    """Agent configuration: a YAML file, or the name of one in config/agents. It decides who drives, mpc (pets) or policy_server (sac),
    and what the trainer trains."""
    trainer_threads: int = 1
    """Threads of the trainer; 0: every core. One is the fastest for networks as small as the shipped agent's."""
    seed: int = 0
    """Seed of every random draw."""
    episodes: int = 0
    """Training episodes that run by themselves; each waits for the controller that has learned from the one before."""
    evaluate: int = 0
    """Evaluation episodes that run by themselves, after any training episodes."""
    first_episode: int = 0
    """Number of the first episode, where earlier ones were recorded before."""
    remap: tuple[str, ...] = ()
    """Topic remappings FROM:=TO for all nodes, such as joint_states:=/robot/joint_states."""

    def __post_init__(self) -> None:
        """Refuses what can never work, before anything has started."""
        for rule in self.remap:
            source, arrow, target = rule.partition(":=")
            if not (source and arrow and target):
                raise UserError(f"remap: {rule!r} is no remapping: write FROM:=TO, such as joint_states:=/robot/joint_states")
        if self.mode == "lockstep" and not self.simulate:
            raise UserError("mode: lockstep needs the simulator, a robot cannot wait: use mode realtime")
        for name in ("controller", "standby", "params_file", "rviz_config"):
            value = getattr(self, name)
            if value and not Path(value).expanduser().is_file():
                raise UserError(f"{name}: {value}: no such file")


@dataclass(frozen=True)
class NodeProcess:
    """One node in a process of its own: `wm_ros.nodes.<name>`, executable `<name>` in lib/wm_ros."""

    name: str
    parameters: Mapping[str, Any]
    params_files: tuple[str, ...] = ()
    """Read first, in this order; `parameters` wins over them."""
    remappings: tuple[tuple[str, str], ...] = ()
    namespace: str = ""
    log_level: str = "info"
    nice: int = 0
    """Scheduling niceness: 0 for the control path, more for what may wait."""
    environment: Mapping[str, str] = field(default_factory=dict)
    respawn: bool = False
    """Started again when it dies; otherwise its death ends the system."""

    @property
    def enclave(self) -> str:
        """Its keys and permissions where SROS 2 is switched on, as `config/sros2/policy.xml` names them."""
        return f"/wm_ros/{self.name}"


@dataclass(frozen=True)
class Program:
    """A program that is not ours, such as rviz2 or `ros2 bag play`."""

    name: str
    command: tuple[str, ...]
    required: bool = False
    """Whether its end ends the system."""


Process = NodeProcess | Program


def describe(options: SystemOptions) -> tuple[Process, ...]:
    """The processes of the running system, in the order in which they start.

    Raises:
        UserError: the contract is faulty, or the package's own configuration files are missing.
    """
    contract = schema.load(options.contract)  # once here, so that a fault is said once, and not by every node
    apart = middleware_of_control_path(contract, os.environ)
    driver = SOURCES[kind_of(options.agent)]
    nodes: list[Process] = []
    run = Path(options.run_directory).expanduser().resolve()
    logger, sim = ["logger"] * options.record, ["sim"] * options.simulate
    controllers = {SERVERS[driver]: options.controller}
    if options.standby:
        controllers[SERVERS["policy" if driver == "mpc" else "mpc"]] = options.standby
    if options.simulate:
        # The clock's source must not follow it.
        nodes.append(
            _node(
                options,
                "sim",
                publish_clock=options.use_sim_time,
                headless=options.headless,
                awaits=",".join(["command_gate", *controllers, "episode_manager", *logger]),
                use_sim_time=False,
            )
        )
    nodes.append(_node(options, "command_gate", environment=apart, source=driver, awaits=",".join(["episode_manager", *sim, *logger])))
    for server, controller in controllers.items():
        nodes.append(_node(options, server, environment=apart, controller=_absolute(controller), model_folder=str(run / "models")))
    if options.record:
        nodes.append(_node(options, "logger", directory=str(run / "bags")))
    if options.train:
        nodes.append(_trainer(options))
    nodes.append(
        _node(
            options,
            "episode_manager",
            auto=options.episodes,
            evaluate=options.evaluate,
            first_episode=options.first_episode,
            source=driver,
            wait_for_model=_waits_for_model(options, driver),
            has_sim=options.simulate,
            awaits=",".join(logger),
        )
    )
    nodes += _view(options)
    return tuple(nodes)


def middleware_of_control_path(contract: Contract, environment: Mapping[str, str]) -> Mapping[str, str]:
    """What gate and servers see besides. Pictures keep shared memory: they need many datagrams, of which some get lost."""
    return {} if contract.images else exposure.without_shared_memory(environment)


def _waits_for_model(options: SystemOptions, driver: Source) -> bool:
    """Whether each episode waits for what was learned from the one before."""
    if options.controller and options.episodes:
        return False  # a controller that the user names drives all episodes: nobody counts its version up
    # A policy is learned while the robot moves on; only where nothing is to depend on timing does the robot wait for it.
    return driver == "mpc" or options.mode == "lockstep" or not (options.train and options.episodes)


def describe_training(options: SystemOptions) -> tuple[Process, ...]:
    """Only the trainer, to run beside a system that another launch or machine runs."""
    return (_trainer(options),)


def describe_replay(options: SystemOptions, bag: str) -> tuple[Process, ...]:
    """A recorded bag played back for the visualizer and rviz2.

    Raises:
        UserError: there is no such bag.
    """
    path = Path(bag).expanduser()
    if not bag or not path.exists():
        raise UserError(f"bag: {bag or 'none given'}: no such bag: give the folder that holds its metadata.yaml")
    command = ["ros2", "bag", "play", str(path.resolve())]
    if options.use_sim_time:
        command += ["--clock", "50"]
    rules = list(options.remap)
    if options.namespace:
        command += ["--ros-args", "-r", f"__ns:=/{options.namespace.strip('/')}"]
    if rules:
        command += ["--remap", *rules]
    return (*_view(options), Program("bag_play", tuple(command), required=True))


def _view(options: SystemOptions) -> list[Process]:
    processes: list[Process] = [_node(options, "visualizer", nice=VIEW_NICE, respawn=True)]
    if options.use_rviz:
        config = options.rviz_config or str(resources.share_directory() / "config" / "wm_ros.rviz")
        namespace = ("-r", f"__ns:=/{options.namespace.strip('/')}") if options.namespace else ()
        processes.append(Program("rviz2", ("rviz2", "-d", config, "--ros-args", *namespace)))
    return processes


def _trainer(options: SystemOptions) -> NodeProcess:
    return _node(
        options,
        "trainer",
        single_thread=False,
        agent=options.agent,
        threads=options.trainer_threads,
        nice=TRAINER_NICE if options.mode == "realtime" else 0,
        # A robot drives on with the last good controller meanwhile. In lockstep the episodes wait for the trainer, so its end is theirs.
        respawn=options.mode == "realtime",
        run_directory=str(Path(options.run_directory).expanduser().resolve()),
    )


def _node(
    options: SystemOptions,
    name: str,
    *,
    nice: int = 0,
    respawn: bool = False,
    single_thread: bool = True,
    environment: Mapping[str, str] | None = None,
    **parameters: Any,
) -> NodeProcess:
    common = {
        "contract": _contract(options.contract),
        "autostart": options.autostart,
        "mode": options.mode,
        "seed": options.seed,
        "use_sim_time": options.use_sim_time,
    }
    defaults = resources.share_directory() / "config" / "nodes.yaml"
    files = (str(defaults), _absolute(options.params_file)) if options.params_file else (str(defaults),)
    return NodeProcess(
        name=name,
        parameters={**common, **parameters},
        params_files=files,
        remappings=tuple((source, target) for source, _, target in (rule.partition(":=") for rule in options.remap)),
        namespace=options.namespace.strip("/"),
        log_level=options.log_level,
        nice=nice,
        environment={**(SINGLE_THREAD if single_thread else {}), **(environment or {})},
        respawn=respawn,
    )


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve()) if path else ""


def _contract(name: str) -> str:
    """A file by its full path, since nodes may run elsewhere; a shipped contract by its name."""
    return _absolute(name) if Path(name).expanduser().is_file() else name
