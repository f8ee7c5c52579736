"""A control system of real processes in which faults are put, and what came of each: the safe action, when, and with which reason."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny_controller
import yaml
from fault.link import ENVIRONMENT, Link
from fault.load import Load
from peer import Peer, Process
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger

from wm_ros.bringup import exposure
from wm_ros.bringup.system import middleware_of_control_path
from wm_ros.contract import announcements, schema
from wm_ros.contract.announcements import ControllerNotice
from wm_ros.contract.resources import share_directory
from wm_ros.nodes.base import COMMAND_QOS, LATCHED_QOS, SENSOR_QOS
from wm_ros.nodes.messages import time_message

RATE_LIMIT = 200.0
"""Newtons per second, so that the limiter is at work while controllers change."""
LOCKSTEP_TIMEOUT_S = 0.1
"""After which the gate answers an observation itself, where time waits."""
PASSING = "tiny:"
"""Name of the controllers of these tests, as commands bear it."""

CONTROL_PATH = ("command_gate", "mpc", "policy_server")

SensorFault = Callable[[JointState], list[JointState]]
"""One sensor message → what is sent in its place."""


@dataclass(frozen=True)
class Shape:
    """What a cell is made of, besides gate, controller and robot."""

    plant: str = "thread"
    """`thread`: sensors come from the harness; `sim`: from the node `sim`."""
    others: tuple[str, ...] = ()
    """Nodes that stand around."""
    linked: bool = False
    """mpc runs in a network namespace of its own; needs root."""
    loaded: bool = False
    """Every processor is kept busy."""
    lockstep: bool = False
    """Simulated time waits for commands; with plant `sim` only."""
    seeing: bool = False
    """The robot has a camera, and its controllers look at it; with plant `sim` only, and needs OpenGL."""
    priority: int = 0
    """`realtime_priority` of the controllers, one more for the gate; 0: the ordinary scheduler."""


@dataclass(frozen=True)
class Command:
    """A line of the invariant monitor."""

    t_ns: int
    """When it came, on the steady clock."""
    source: str
    stamp_ns: int
    """Of the observation that it answers, on the robot's clock."""
    faults: tuple[str, ...]

    @property
    def held(self) -> str:
        """The reason of a hold; empty for a controller's command."""
        return self.source.removeprefix("hold:") if self.source.startswith("hold:") else ""


def write_contract(folder: Path, seeing: bool = False) -> Path:
    """The cart-pole with a rate limit, and with hold where an ensemble disagrees."""
    name = "cartpole_balance_pixels" if seeing else "cartpole_swingup"
    data = yaml.safe_load((share_directory() / f"config/contracts/{name}.yaml").read_text())
    data["action"]["joints"][0]["rate_limit"] = RATE_LIMIT
    data["safety"]["on_disagreement"] = "hold"
    path = folder / "faulty_robot.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def wide_agent(folder: Path) -> Path:
    """An agent whose training takes more memory than its first look at the world."""
    agent = {
        "pets": {
            "ensemble": {"members": 5, "elites": 2, "layers": 3, "width": 768},
            "planner": {"horizon": 2, "candidates": 4, "iterations": 1, "elites": 2, "kept": 1},
        },
        "fit": {"steps": 10**6, "check_every": 20, "batch": 256, "patience": 10**6},
    }
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(agent))
    return path


class Cell(Peer):
    """A robot, a gate, a controller, and whatever nodes stand around: each a process, any of which can be harmed and started again.

    The robot is a thread of this process that publishes sensors at the control rate; with `plant="sim"` it is the node `sim`. Its commands
    are seen by the invariant monitor, another process. Nodes follow a /clock of this cell's own, which can be made to stand still or jump.
    """

    def __init__(self, name: str, folder: Path, shape: Shape = Shape(), seed: int = 0) -> None:
        self.link = Link() if shape.linked else None
        self._environment = dict(os.environ)
        if self.link is not None:
            os.environ.update(ENVIRONMENT)
        super().__init__(name)
        self.shape = shape
        self.rng = np.random.default_rng(seed)
        self.folder = folder
        self.contract_file = write_contract(folder, shape.seeing)
        self.contract = schema.load(self.contract_file)
        self.period_s = self.contract.control.period_s
        self.processes: dict[str, Process] = {}
        self.commands: list[Command] = []
        self.serving: list[ControllerNotice] = []
        self.fault: SensorFault | None = None
        self.fault_began_ns = 0
        self.offset_ns = 0
        """Of the robot's clock."""
        self.clock: Callable[[int], int] = lambda now: now
        """What /clock says, from system time."""
        self.noted = 0
        """What a fault's injection leaves for its healing."""
        self.version = 0
        """Of the newest controller file."""
        self._sensors = self.node.create_publisher(JointState, "joint_states", SENSOR_QOS) if shape.plant == "thread" else None
        self._clock = self.node.create_publisher(Clock, "clock", 10)
        self._models = self.node.create_publisher(String, "model", LATCHED_QOS)
        self._estop = self.node.create_publisher(Bool, "estop", 10)
        self.node.create_subscription(String, "mpc/controller", self._on_controller, LATCHED_QOS)
        self._stopping = threading.Event()
        self._monitor = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "fault.invariants",
                str(self.contract_file),
                *(["lockstep"] if shape.lockstep else []),
                "--ros-args",
                "-r",
                f"__ns:=/{self.namespace}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._speak)]
        for thread in self._threads:
            thread.start()
        self.load: Load | None = None
        try:
            for node in self.nodes:
                self.start(node)
            self.swap()
            if shape.lockstep:
                self.reset()
            self.arm()
            self.load = Load() if shape.loaded else None
        except BaseException:
            self.close()
            raise

    @property
    def nodes(self) -> tuple[str, ...]:
        """Those that a healthy cell runs."""
        return ("command_gate", "mpc", *(["sim"] if self.shape.plant == "sim" else []), *self.shape.others)

    # ---- the robot and its watcher --------------------------------------------------------------------------------

    def _speak(self) -> None:
        period_ns, due = self.contract.control.period_ns, time.monotonic_ns()
        while not self._stopping.is_set():
            now = time.time_ns()
            self._clock.publish(Clock(clock=time_message(self.clock(now))))
            if self._sensors is not None:
                message = JointState(name=["slider", "hinge_1"], position=[0.1, 0.0], velocity=[0.0, 0.0])
                message.header.stamp = time_message(now + self.offset_ns)
                fault = self.fault
                for sent in [message] if fault is None else fault(message):
                    self._sensors.publish(sent)
                if fault is not None and not self.fault_began_ns:
                    self.fault_began_ns = time.monotonic_ns()
            due += period_ns
            self._stopping.wait(max(0.0, 1e-9 * (due - time.monotonic_ns())))

    def _read(self) -> None:
        assert self._monitor.stdout is not None
        for text in self._monitor.stdout:
            line = json.loads(text)
            if "t" in line:
                self.commands.append(Command(line["t"], line["source"], line["stamp"], tuple(line["faults"])))

    def _on_controller(self, message: String) -> None:
        self.serving.append(announcements.read(ControllerNotice, message.data, "mpc/controller"))

    def break_sensor(self, fault: SensorFault) -> int:
        """From the next sensor message on; gives the steady time of the first one."""
        self.fault_began_ns, self.fault = 0, fault
        self.wait(lambda: self.fault_began_ns, "the sensor fault")
        return self.fault_began_ns

    # ---- nodes ----------------------------------------------------------------------------------------------------

    def start(self, node: str, name: str = "", **parameters: Any) -> Process:
        """Starts a node of the system, or starts it again."""
        given: dict[str, Any] = {"contract": self.contract_file, "use_sim_time": node != "sim"}
        if self.shape.lockstep:
            given |= {"mode": "lockstep", **({"lockstep_timeout_s": LOCKSTEP_TIMEOUT_S} if node == "command_gate" else {})}
        if self.shape.priority and node in CONTROL_PATH:
            given["realtime_priority"] = self.shape.priority + (node == "command_gate")
        serving = {"threads": 1, "model_folder": self.folder}
        given |= {
            "mpc": serving,
            "policy_server": serving,
            "logger": {"directory": self.folder / "bags"},
            "trainer": {"agent": wide_agent(self.folder), "run_directory": self.folder / "run", "bag_folder": self.folder},
        }.get(node, {})
        name = name or node
        process = Process(
            node,
            self.namespace,
            self.folder / f"{name}.log",
            around=self._around(node),
            # What it announces is its own affair here: the controllers of a cell come from the harness.
            remap=("model:=trained",) if node == "trainer" else (),
            environment=self._environment_of(node),
            **given,
            **parameters,
        )
        self.processes[name] = process
        return process

    def _environment_of(self, node: str) -> dict[str, str]:
        """As those who start a system give it."""
        apart = middleware_of_control_path(self.contract, os.environ) if node in CONTROL_PATH else {}
        return {**exposure.defaults(os.environ), **apart}

    def _around(self, node: str) -> Sequence[str]:
        if self.link is not None and node == "mpc":
            return self.link.inside
        # The simulator stands for hardware, which keeps time whatever this machine does.
        return ("chrt", "-f", str(self.shape.priority)) if self.shape.priority and node == "sim" else ()

    def signal(self, name: str, number: int) -> int:
        """Gives the steady time before the signal."""
        now = time.monotonic_ns()
        os.kill(self.processes[name].process.pid, number)
        if number == signal.SIGKILL:
            self.processes[name].process.wait()
        return now

    # ---- controllers ----------------------------------------------------------------------------------------------

    def announce(self, path: Path, version: int) -> int:
        """As a trainer would; gives the steady time before it."""
        self.wait(self._models.get_subscription_count, "mpc to listen to model")
        now = time.monotonic_ns()
        self._models.publish(String(data=tiny_controller.notice(path, self.contract, version).to_json()))
        return now

    def controller_file(self, make: Callable[..., Path] = tiny_controller.constant, **options: Any) -> Path:
        """A new file for this cell's contract."""
        self.version += 1
        return make(self.folder / f"c{self.version}.onnx", version=self.version, for_contract=self.contract, **options)

    def swap(self, force: float = 1.5) -> None:
        """Announces a good controller and waits until it serves."""
        looks = self.shape.seeing
        path = self.controller_file(tiny_controller.looking) if looks else self.controller_file(action=force)
        self.announce(path, self.version)
        self.wait(lambda: self.serving and self.serving[-1].version == self.version, "the announced controller to serve")

    # ---- the gate -------------------------------------------------------------------------------------------------

    def arm(self, yes: bool = True) -> None:
        """Until the gate agrees, and commands pass."""
        if not yes:
            assert self.ask(SetBool, "command_gate/arm", SetBool.Request(data=False)).success
            return
        self.wait(lambda: self.ask(SetBool, "command_gate/arm", SetBool.Request(data=True)).success, "the gate to arm")
        self.wait_for_passing()

    def reset(self) -> None:
        """Lets the simulator begin anew, once it is ready for it."""
        self.wait(lambda: self.ask(Trigger, "sim/reset", Trigger.Request()).success, "the simulator to reset")

    def press_estop(self, pressed: bool) -> int:
        """Gives the steady time before it."""
        self.wait(self._estop.get_subscription_count, "the gate to listen to estop")
        now = time.monotonic_ns()
        self._estop.publish(Bool(data=pressed))
        return now

    def wait_for_passing(self, count: int = 5) -> None:
        """The last few commands are the controller's."""
        begin = len(self.commands)
        self.wait(
            lambda: len(self.commands) >= begin + count and all(c.source.startswith(PASSING) for c in self.commands[-count:]),
            "commands to pass",
        )

    def ask(self, kind: Any, service: str, request: Any) -> Any:
        """Calls a service until somebody answers: a killed server is remembered for a while, and answers nobody."""
        client = self.node.create_client(kind, service)
        asked: list[Any] = []

        def answer() -> Any:
            if not asked or time.monotonic() - asked[-1][0] > 1.0:
                asked.append((time.monotonic(), client.call_async(request)))
            return next((future for _, future in asked if future.done()), None)

        try:
            self.wait(client.service_is_ready, f"service {service}")
            return self.wait(answer, f"the answer of {service}").result()
        finally:
            self.node.destroy_client(client)

    def intruder(self) -> Any:
        """A second publisher on the controller's topic."""
        return self.node.create_publisher(JointState, "mpc/command", COMMAND_QOS)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        try:
            return super().wait(condition, what)
        except AssertionError:
            self._note_stacks()
            raise

    def _note_stacks(self) -> None:
        """What every node said last, and where each of its threads is: into the folder, for who asks why it was waited for in vain."""
        (self.folder / "health.txt").write_text("\n".join(f"{node}: {health}" for node, health in self.health.items()), encoding="utf-8")
        for process in self.processes.values():
            if process.process.poll() is None:
                process.process.send_signal(signal.SIGCONT)
                process.process.send_signal(signal.SIGABRT)  # rclpy's events executor has switched on faulthandler

    def close(self) -> None:
        """Ends every process."""
        for process in self.processes.values():
            if process.process.poll() is None:
                process.process.send_signal(signal.SIGCONT)
                process.process.send_signal(signal.SIGINT)
        for process in self.processes.values():
            try:
                process.process.wait(20.0)
            except subprocess.TimeoutExpired:
                process.process.kill()
                process.process.wait()
        if self.load is not None:
            self.load.close()
        self._monitor.communicate("")
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        super().close()
        if self.link is not None:
            self.link.close()
            for name in ENVIRONMENT:
                os.environ.pop(name)
            os.environ.update(self._environment)


@dataclass(frozen=True)
class Scenario:
    """One fault: how it is put in, and what must come of it."""

    name: str
    injection: str
    """In words."""
    inject: Callable[[Cell], int]
    """Puts it in; gives the steady time at which it began, in ns."""
    outcome: str
    """`hold`: the safe action until it is healed; `serves`: the controller's commands go on; `silent`: no command at all."""
    reasons: tuple[str, ...] = ()
    """With which the first hold may be named."""
    told: tuple[str, str] | None = None
    """A node, and words that its diagnostics must show."""
    heal: Callable[[Cell], None] = lambda cell: None
    rearm: bool = False
    """Commands pass again only after an explicit arm."""
    periods: float = 2.0
    """Control periods within which the safe action must come; 0 where it waits for DDS to discover something."""
    quick: bool = False
    """Short enough for the test suite."""
    shape: Shape = Shape()
    """Of the cell that it needs."""


@dataclass(frozen=True)
class Result:
    """What came of one injection."""

    scenario: Scenario
    seconds: float | None
    """To the safe action; None where none was due."""
    violations: tuple[str, ...]
    """What the invariant monitor, or the scenario's own outcome, found wrong."""


WATCHED = 15
"""Commands that are watched after the outcome: what was stopped must stay stopped, what served must go on."""


def lasting_hold(commands: Sequence[Command], began_ns: int, reasons: tuple[str, ...]) -> Sequence[Command]:
    """The holds that have gone on since a fault, with nothing after them, once they are enough and one of them names the reason; else none.

    A command that still passes, because it was on its way or a busy machine had held for another reason before, makes time begin anew.
    """
    first = next((i + 1 for i in reversed(range(len(commands))) if not commands[i].held), 0)
    held = [c for c in commands[first:] if c.t_ns >= began_ns]
    return held if len(held) >= WATCHED and any(c.held in reasons for c in held) else ()


def play(cell: Cell, scenario: Scenario, pause_s: float = 0.0) -> Result:
    """Puts one fault into a healthy cell, watches, heals it, and leaves the cell healthy.

    Args:
        cell: of the scenario's plant and nodes.
        scenario: the fault.
        pause_s: before the injection, so that it meets every phase of the control period.
    """
    cell.wait_for_passing()
    begin = len(cell.commands)
    end = time.monotonic() + pause_s
    cell.wait(lambda: time.monotonic() >= end, "the moment of the fault")
    wrong: list[str] = []
    began_ns = scenario.inject(cell)
    seconds = None
    if scenario.outcome == "hold":
        held = cell.wait(lambda: lasting_hold(cell.commands[begin:], began_ns, scenario.reasons), f"a lasting hold ({scenario.name})")
        # Where DDS must discover something first, others may hold before; only the named reason is the answer.
        safe = held[0] if scenario.periods else next(c for c in held if c.held in scenario.reasons)
        seconds = 1e-9 * (safe.t_ns - began_ns)
    elif scenario.outcome == "serves":
        cell.wait_for_passing(WATCHED)
    else:
        last = cell.commands[-1].t_ns
        silent_ns = int(0.5e9)
        cell.wait(lambda: time.monotonic_ns() - max(last, cell.commands[-1].t_ns) > silent_ns, "silence")
        seconds = max(0.0, 1e-9 * (cell.commands[-1].t_ns - began_ns))
    if scenario.told is not None:
        node, words = scenario.told
        cell.fresh_health(node, lambda level, text, values: words in text or any(words in v for v in values.values()), f"{node}: {words}")
    if scenario.outcome == "serves":
        cell.wait_for_passing()
    scenario.heal(cell)
    if scenario.rearm:
        since = len(cell.commands)
        cell.wait(lambda: len(cell.commands) >= since + WATCHED, "commands after the healing")
        wrong += [f"{c.source} passed without an arm" for c in cell.commands[since:] if not c.held][:1]
        cell.arm()
    cell.wait_for_passing()
    wrong += [fault for c in cell.commands[begin:] for fault in c.faults]
    return Result(scenario, seconds, tuple(dict.fromkeys(wrong)))
