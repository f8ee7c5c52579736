"""The table of faults: what is put in, what must come of it, and the name that the reason must bear."""

from __future__ import annotations

import math
import resource
import signal
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import cartpole_bags
import psutil
import tiny_controller
from fault.harness import PASSING, Cell, Command, Scenario, SensorFault, Shape
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from wm_ros.contract.announcements import Segment
from wm_ros.contract.assembler import stamp_ns
from wm_ros.nodes.base import ERROR, OK, SEGMENT_QOS
from wm_ros.nodes.messages import time_message

NO_NEWS = ("command_timeout", "stale_observation")
"""Without observations there are no commands either: which of the two the gate sees first is chance."""


# ---- sensors ---------------------------------------------------------------------------------------------------------


def changed(change: Callable[[JointState], None]) -> SensorFault:
    """Sends a changed copy."""

    def fault(message: JointState) -> list[JointState]:
        copy = deepcopy(message)
        change(copy)
        return [copy]

    return fault


def stalled() -> SensorFault:
    """The first message, again and again."""
    kept: list[JointState] = []

    def fault(message: JointState) -> list[JointState]:
        kept[1:] = []
        kept.append(message)
        return kept[:1]

    return fault


def position(value: float) -> SensorFault:
    def change(message: JointState) -> None:
        message.position[0] = value

    return changed(change)


def late(seconds: float) -> SensorFault:
    def change(message: JointState) -> None:
        message.header.stamp = time_message(stamp_ns(message.header.stamp) + round(1e9 * seconds))

    return changed(change)


def shortened(message: JointState) -> None:
    message.velocity = message.velocity[:1]


def one_joint(message: JointState) -> None:
    message.name, message.position, message.velocity = message.name[:1], message.position[:1], message.velocity[:1]


def permuted(message: JointState) -> None:
    message.name, message.position, message.velocity = message.name[::-1], message.position[::-1], message.velocity[::-1]


def mended(cell: Cell) -> None:
    cell.fault = None


def sensor(name: str, injection: str, fault: Callable[[], SensorFault], outcome: str = "hold", quick: bool = True) -> Scenario:
    # A fault that begins with a message meets the last good command up to a period after that: three periods in all.
    return Scenario(
        name, injection, lambda cell: cell.break_sensor(fault()), outcome, NO_NEWS if outcome == "hold" else (), None, mended,
        periods=3.0, quick=quick,
    )  # fmt: skip


SENSORS = (
    sensor("sensor_dropout", "sensor messages stop", lambda: lambda message: []),
    sensor("sensor_stall", "the last sensor message again and again, stamp and all", stalled),
    sensor("sensor_nan", "a position is NaN", lambda: position(math.nan)),
    sensor("sensor_infinite", "a position is infinite", lambda: position(math.inf), quick=False),
    sensor("sensor_wrong_length", "one velocity too few", lambda: changed(shortened)),
    sensor("sensor_missing_joint", "a joint is missing", lambda: changed(one_joint), quick=False),
    sensor("sensor_permuted", "joints in another order", lambda: changed(permuted), "serves"),
    sensor("sensor_past", "stamps ten seconds in the past", lambda: late(-10.0)),
)


def jump_ahead(cell: Cell) -> int:
    cell.offset_ns += 1_000_000_000
    return time.monotonic_ns()


def clock(change: Callable[[int], Callable[[int], int]]) -> Callable[[Cell], int]:
    def inject(cell: Cell) -> int:
        cell.clock = change(time.time_ns())
        return time.monotonic_ns()

    return inject


def clock_mended(cell: Cell) -> None:
    cell.clock = lambda now: now


TIME = (
    Scenario("robot_clock_ahead", "the robot's clock jumps one second ahead", jump_ahead, "serves", quick=True),
    Scenario("clock_paused", "/clock stands still", clock(lambda at: lambda now: at), "serves", heal=clock_mended, quick=True),
    Scenario("clock_back", "/clock jumps 10 s back", clock(lambda at: lambda now: now - 10**10), "serves", heal=clock_mended),
    Scenario("clock_ahead", "/clock jumps an hour ahead", clock(lambda at: lambda now: now + 3600 * 10**9), "serves", heal=clock_mended),
)


# ---- processes -------------------------------------------------------------------------------------------------------


def stop(name: str) -> Callable[[Cell], int]:
    return lambda cell: cell.signal(name, signal.SIGSTOP)


def go_on(name: str) -> Callable[[Cell], None]:
    def heal(cell: Cell) -> None:
        cell.signal(name, signal.SIGCONT)

    return heal


def kill(name: str) -> Callable[[Cell], int]:
    return lambda cell: cell.signal(name, signal.SIGKILL)


def again(name: str) -> Callable[[Cell], None]:
    def heal(cell: Cell) -> None:
        cell.start(name)

    return heal


def controller_again(cell: Cell) -> None:
    cell.start("mpc")
    cell.swap()
    cell.wait_for_passing()


def stop_under_paused_clock(cell: Cell) -> int:
    at = time.time_ns()
    cell.clock = lambda now: at
    return cell.signal("mpc", signal.SIGSTOP)


def both_mended(cell: Cell) -> None:
    clock_mended(cell)
    cell.signal("mpc", signal.SIGCONT)


def holds(cell: Cell) -> int:
    """How often the simulated actuator has fallen back to hold by itself."""
    return int(cell.fresh_health("sim", lambda *_: True, "the simulator's diagnostics")[2]["holds"])


def kill_before_actuator(cell: Cell) -> int:
    cell.noted = holds(cell)
    return cell.signal("command_gate", signal.SIGKILL)


def actuator_held(cell: Cell) -> None:
    assert holds(cell) > cell.noted, "the actuator did not hold"
    cell.start("command_gate")


def woken_twin(cell: Cell) -> int:
    """A frozen controller is replaced, drives nothing, and wakes up."""
    cell.signal("mpc", signal.SIGSTOP)
    cell.start("mpc", "mpc_2")
    cell.wait(lambda: cell.commands[-1].held, "hold")
    cell.wait_for_passing()
    now = time.monotonic_ns()
    cell.signal("mpc", signal.SIGCONT)
    return now


def all_again(cell: Cell) -> int:
    """Every node is killed, and started again in an order of chance."""
    for name in cell.rng.permutation(cell.nodes):
        cell.signal(str(name), signal.SIGKILL)
    for name in cell.rng.permutation(cell.nodes):
        cell.start(str(name))
    return time.monotonic_ns()


def starved(cell: Cell) -> int:
    """The trainer may have no more memory than it has, and is given something to learn."""
    bag = cartpole_bags.write_cartpole(cell.folder / f"bag_{time.monotonic_ns()}", 80, of=cell.contract)
    cell.wait(lambda: "trainer" in cell.health, "the trainer to start")  # torch takes its time, and so does its first graph
    cell.fresh_health("trainer", lambda level, text, values: text == "waiting", "a trainer that waits")
    process = cell.processes["trainer"].process
    used = psutil.Process(process.pid).memory_info().vms
    resource.prlimit(process.pid, resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
    now = time.monotonic_ns()
    segment = Segment(path=str(bag), episode=cartpole_bags.state("ended", 80), contract_hash=cell.contract.hash, messages=1, bytes=1)
    publisher = cell.node.create_publisher(String, "log/segment", SEGMENT_QOS)
    publisher.publish(String(data=segment.to_json()))

    def noticed() -> bool:
        return process.poll() is not None or cell.health.get("trainer", (OK,))[0] == ERROR

    cell.wait(noticed, "the trainer to die of it, or to tell")
    cell.node.destroy_publisher(publisher)
    return now


def fed(cell: Cell) -> None:
    cell.processes["trainer"].process.kill()
    cell.processes["trainer"].process.wait()
    cell.start("trainer")


def cable_cut(cell: Cell) -> int:
    assert cell.link is not None
    now = time.monotonic_ns()
    cell.link.cut()
    return now


def cable_healed(cell: Cell) -> None:
    assert cell.link is not None
    cell.link.heal()


TRAINING = Shape(others=("trainer",))
BESIDE = ("logger", "episode_manager", "visualizer", "policy_server")
PROCESSES = (
    Scenario("mpc_stopped", "SIGSTOP of mpc", stop("mpc"), "hold", ("command_timeout",), None, go_on("mpc"), quick=True),
    Scenario(
        "mpc_stopped_clock_paused", "SIGSTOP of mpc while /clock stands still", stop_under_paused_clock, "hold", ("command_timeout",),
        heal=both_mended, quick=True,
    ),
    Scenario("mpc_killed", "kill -9 of mpc", kill("mpc"), "hold", ("command_timeout",), ("command_gate", "holding"), controller_again),
    Scenario(
        "mpc_woken", "mpc was frozen and replaced by another, and wakes up", woken_twin, "hold", ("two_publishers",), None,
        lambda cell: ended(cell, "mpc_2"), periods=0.0,
    ),
    Scenario("gate_stopped", "SIGSTOP of command_gate", stop("command_gate"), "silent", heal=go_on("command_gate"), quick=True),
    Scenario("gate_killed", "kill -9 of command_gate", kill("command_gate"), "silent", heal=again("command_gate"), rearm=True),
    *(Scenario(f"{n}_stopped", f"SIGSTOP of {n}", stop(n), "serves", heal=go_on(n), shape=Shape(others=BESIDE)) for n in BESIDE),
    *(Scenario(f"{n}_killed", f"kill -9 of {n}", kill(n), "serves", heal=again(n), shape=Shape(others=BESIDE)) for n in BESIDE),
    Scenario("sim_stopped", "SIGSTOP of sim", stop("sim"), "hold", NO_NEWS, None, go_on("sim"), periods=3.0, shape=Shape("sim")),
    Scenario("sim_killed", "kill -9 of sim", kill("sim"), "hold", NO_NEWS, None, again("sim"), periods=3.0, shape=Shape("sim")),
    Scenario(
        "gate_killed_sim", "kill -9 of command_gate, before the simulated actuator", kill_before_actuator, "silent",
        heal=actuator_held, rearm=True, shape=Shape("sim"),
    ),
    Scenario("trainer_stopped", "SIGSTOP of trainer", stop("trainer"), "serves", heal=go_on("trainer"), shape=TRAINING),
    Scenario("trainer_killed", "kill -9 of trainer", kill("trainer"), "serves", heal=again("trainer"), shape=TRAINING),
    Scenario("trainer_starved", "no more memory for the trainer", starved, "serves", heal=fed, shape=TRAINING),
    Scenario(
        "all_killed", "kill -9 of every node; the time is that of starting all of them again, in an order of chance", all_again,
        "hold", ("disarmed",), None, lambda cell: cell.swap(), rearm=True, periods=0.0, shape=Shape("sim", BESIDE),
    ),
    Scenario(
        "cable_cut", "the network between mpc and the others is cut", cable_cut, "hold", ("command_timeout",), None, cable_healed,
        periods=3.0,  # a period of them for the tool that cuts
        shape=Shape(linked=True),
    ),
)  # fmt: skip


# ---- more than one, or a person ----------------------------------------------------------------------------------------


def second_publisher() -> tuple[Callable[[Cell], int], Callable[[Cell], None]]:
    made = []

    def inject(cell: Cell) -> int:
        made.append(cell.intruder())
        return time.monotonic_ns()

    def heal(cell: Cell) -> None:
        cell.node.destroy_publisher(made.pop())

    return inject, heal


def second_stack(cell: Cell) -> int:
    """The mistake takes effect when its controller has started, so that is when time begins."""
    cell.start("command_gate", "gate_2")
    cell.start("mpc", "mpc_2")
    cell.wait(lambda: cell.node.count_publishers("mpc/command") == 2, "the second controller")
    return min(c.t_ns for c in cell.commands[-3:])


def ended(cell: Cell, *names: str) -> None:
    for name in names:
        assert cell.processes.pop(name).stop() == 0


def estop(cell: Cell) -> int:
    return cell.press_estop(True)


def estop_released(cell: Cell) -> None:
    cell.press_estop(False)


def disarm(cell: Cell) -> int:
    now = time.monotonic_ns()
    cell.arm(False)
    return now


_intrude, _leave = second_publisher()
PEOPLE = (
    Scenario(
        "two_publishers", "a second publisher on mpc/command", _intrude, "hold", ("two_publishers",), None, _leave, periods=0.0
    ),
    Scenario(
        "two_stacks", "a second gate and mpc in the same domain and namespace", second_stack, "hold", ("two_publishers",), None,
        lambda cell: ended(cell, "mpc_2", "gate_2"), periods=0.0,
    ),
    Scenario("estop", "the e-stop is pressed, and released", estop, "hold", ("estop",), heal=estop_released, rearm=True, quick=True),
    Scenario("disarmed", "somebody disarms", disarm, "hold", ("disarmed",), rearm=True),
)  # fmt: skip


# ---- controllers -----------------------------------------------------------------------------------------------------


def announced(make: Callable[[Cell], Path]) -> Callable[[Cell], int]:
    return lambda cell: cell.announce(make(cell), 99)


def corrupt(cell: Cell) -> Path:
    path = cell.controller_file()
    data = bytearray(path.read_bytes())
    data[10:60] = bytes(50)
    path.write_bytes(data)
    return path


def truncated(cell: Cell) -> Path:
    path = cell.controller_file()
    path.write_bytes(path.read_bytes()[:200])
    return path


def foreign(cell: Cell) -> Path:
    return tiny_controller.constant(cell.folder / "foreign.onnx")  # for the contract without a rate limit


def elsewhere(cell: Cell) -> Path:
    outside = cell.folder.parent / f"{cell.folder.name}_elsewhere.onnx"
    return tiny_controller.constant(outside, for_contract=cell.contract)


def not_finite(cell: Cell) -> int:
    path = cell.controller_file(action=math.nan)
    return served(cell, path)


def slow(cell: Cell) -> int:
    # Slower than any command may be old; where it is only somewhat slow, its commands pass between holds, as they should.
    return served(cell, tiny_controller.slow(cell.folder / "slow.onnx", rounds=8000, for_contract=cell.contract))


SLOW_TICK_S = 0.05
"""Of the controllers that hesitate: two and a half periods."""


def hesitating(cell: Cell, **when: int) -> Path:
    rounds = tiny_controller.rounds_for(cell.folder / "probe.onnx", SLOW_TICK_S, cell.contract)
    return cell.controller_file(tiny_controller.hesitating, rounds=rounds, **when)


def follows(command: Command) -> bool:
    """It is a row of an older plan."""
    return command.source.startswith(PASSING) and command.source.endswith("ms")


def slow_now_and_then(cell: Cell) -> int:
    path = hesitating(cell, every=8)
    cell.announce(path, cell.version)
    began, begin = time.monotonic_ns(), len(cell.commands)
    cell.wait(lambda: sum(follows(c) for c in cell.commands[begin:]) >= 6, "rows of the last plan")
    return began


def slow_for_good(cell: Cell) -> int:
    """Plans at first. The safe action is due from the moment on at which the plan that is followed ends, that is, is too old."""
    path = cell.controller_file(tiny_controller.hesitating, rounds=tiny_controller.rounds_for(cell.folder / "probe.onnx", 1.0), after=40)
    begin = len(cell.commands)
    cell.announce(path, cell.version)
    cell.wait(lambda: any(follows(c) for c in cell.commands[begin:]), "rows of the last plan")
    first = next(c for c in cell.commands[begin:] if follows(c))
    age_ns = round(1e6 * int(first.source.rpartition("+")[2].removesuffix("ms")))
    return first.t_ns - age_ns + round(1e9 * cell.contract.safety.max_plan_age_s)


def served(cell: Cell, path: Path) -> int:
    """Time begins when it serves."""
    count = len(cell.serving)
    cell.announce(path, 99)
    cell.wait(lambda: len(cell.serving) > count, "the bad controller to serve")
    return cell.commands[-1].t_ns


def disagreeing(cell: Cell) -> int:
    level = {"level": 1e-3, "quantile": 0.99, "scale": [1.0] * cell.contract.observation_size, "windows": 1, "data": "held_out"}
    return served(cell, cell.controller_file(tiny_controller.feedback, calibration={"disagreement": level}))


def replaced(cell: Cell) -> None:
    cell.swap()


def hundred_swaps(cell: Cell) -> int:
    now = time.monotonic_ns()
    for i in range(100):
        cell.swap(force=-4.0 if i % 2 else 4.0)
    return now


def bad_file(name: str, injection: str, make: Callable[[Cell], Path], words: str, quick: bool = False) -> Scenario:
    return Scenario(name, injection, announced(make), "serves", (), ("mpc", words), replaced, quick=quick)


CONTROLLERS = (
    bad_file("controller_corrupt", "a corrupt controller is announced", corrupt, "corrupt", True),
    bad_file("controller_truncated", "a truncated controller is announced", truncated, "onnx"),
    bad_file("controller_foreign", "a controller of another contract is announced", foreign, "another contract"),
    bad_file("controller_elsewhere", "a controller outside the model folder is announced", elsewhere, "lies outside"),
    Scenario(
        "controller_nan", "a controller that answers NaN serves", not_finite, "hold", ("command_timeout",), ("mpc", "not finite"), replaced,
        periods=3.0,
    ),
    Scenario(
        "controller_slow", "a controller that takes many periods serves", slow, "hold", ("command_timeout", "stale_plan"), None, replaced,
        periods=3.0,
    ),
    Scenario(
        "controller_hesitates", "a planner that takes two and a half periods on every eighth tick serves: rows of its last plan go out",
        slow_now_and_then, "serves", heal=replaced, quick=True,
    ),
    Scenario(
        "controller_tires", "a planner becomes slow for good; the time is from the end of the plan that it left", slow_for_good, "hold",
        ("command_timeout", "stale_plan"), ("mpc", "inference has been going on"), replaced, periods=2.0, quick=True,
    ),
    Scenario(
        "controller_disagrees", "a controller whose ensemble disagrees serves, where the contract wants hold", disagreeing, "hold",
        ("command_timeout",), ("mpc", "plans disagree"), replaced, periods=6.0, quick=True,
    ),
    Scenario("hundred_swaps", "a hundred controllers one after the other, while moving", hundred_swaps, "serves"),
)  # fmt: skip


# ---- cameras ---------------------------------------------------------------------------------------------------------

SEEING = Shape("sim", seeing=True)


def camera(kind: str, injection: str, words: str = "") -> Scenario:
    """A fault of the simulated camera; without words nobody can tell, and the controller goes on."""

    def inject(cell: Cell) -> int:
        assert cell.set("sim", camera_fault=kind)[0].successful
        return time.monotonic_ns()

    def heal(cell: Cell) -> None:
        assert cell.set("sim", camera_fault="none")[0].successful

    outcome, reasons, told = ("hold", NO_NEWS, ("mpc", words)) if words else ("serves", (), None)
    # The last sound picture may be used for 0.1 s, five periods, and another may be under way.
    return Scenario(f"camera_{kind}", injection, inject, outcome, reasons, told, heal, periods=8.0, shape=SEEING)


CAMERAS = (
    camera("dropout", "pictures stop", "image of channel front is"),
    camera("stall", "the last picture again and again, stamp and all", "image of channel front is"),
    camera("wrong_size", "pictures claim twice as many rows as they have", "mend the camera driver"),
    camera("wrong_encoding", "pictures in an encoding that nobody reads", "'rgb12' is not read"),
    camera("freeze", "the picture stands still while its stamps go on"),
)


# ---- disk ------------------------------------------------------------------------------------------------------------


def disk_full(cell: Cell) -> int:
    """Files of the logger may not grow any more, which it sees as it would see a full disk."""
    cell.ask(Trigger, "logger/start", Trigger.Request())
    pid = cell.processes["logger"].process.pid
    now = time.monotonic_ns()
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    return now


def disk_mended(cell: Cell) -> None:
    resource.prlimit(cell.processes["logger"].process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


DISK = (
    Scenario(
        "disk_full",
        "the disk is full while recording",
        disk_full,
        "serves",
        (),
        ("logger", "File too large"),
        disk_mended,
        shape=Shape(others=BESIDE),
    ),
)

# ---- on a busy machine -------------------------------------------------------------------------------------------------


def loaded(scenario: Scenario) -> Scenario:
    shape = replace(scenario.shape, loaded=True)
    return replace(
        scenario, name=f"{scenario.name}_loaded", injection=f"{scenario.injection}, every processor busy", shape=shape, quick=False
    )


UNDER_LOAD = (
    "sensor_dropout",
    "sensor_nan",
    "mpc_stopped",
    "mpc_killed",
    "gate_stopped",
    "gate_killed",
    "sim_stopped",
    "sim_killed",
    "estop",
)
BASIC = (*SENSORS, *TIME, *PROCESSES, *PEOPLE, *CONTROLLERS, *CAMERAS, *DISK)
SCENARIOS = (*BASIC, *(loaded(s) for s in BASIC if s.name in UNDER_LOAD))
