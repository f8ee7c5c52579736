"""What every node shares: validated parameters, autostart, diagnostics at 1 Hz, one clean way in and out."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.timer import Timer

from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.runtime.realtime import RealTime, enter, locked_bytes, scheduling

SENSOR_QOS = qos_profile_sensor_data
# Deep: in lockstep the simulator waits for its command only, and runs far ahead of whoever else listens, such as the logger.
LOCKSTEP_QOS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST)
COMMAND_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST)
LATCHED_QOS = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL, history=HistoryPolicy.KEEP_LAST
)
# Latched, and DDS itself notices within a second where the process behind it was killed; of every other topic it does so after 20 s.
SERVING_QOS = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
    liveliness=LivelinessPolicy.AUTOMATIC,
    liveliness_lease_duration=Duration(seconds=1),
)
SEGMENT_QOS = QoSProfile(
    depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL, history=HistoryPolicy.KEEP_LAST
)

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@dataclass(frozen=True)
class Param:
    """A declared parameter: its default, what it means, and the range or choices it must be in."""

    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    """May be changed while the node is active; others need a deactivated, cleaned-up node."""


COMMON = {
    "contract": Param("cartpole_swingup", "Contract: a YAML file, or the name of a shipped contract"),
    "autostart": Param(True, "Configure and activate by itself"),
    "mode": Param("realtime", "realtime: steady clock; lockstep: each step waits for its command", choices=("realtime", "lockstep")),
    "seed": Param(0, "Seed of every random draw of this node", low=0, high=2**31 - 1),
}


AWAITS = Param("", "Nodes that must listen before this one begins, with commas between them: who starts late misses nothing then")


REAL_TIME = {
    "realtime_priority": Param(
        0, "SCHED_FIFO priority of the node's threads, where the system permits it; 0: the ordinary scheduler", low=0, high=98
    ),
    "lock_memory": Param(False, "Keep the process's memory in RAM, touched ahead of time, where the system permits it"),
}
"""Of the nodes on the control path."""


def sensor_qos(mode: str) -> QoSProfile:
    """QoS of sensor topics: nothing may be lost in lockstep, nothing may wait in real time."""
    return LOCKSTEP_QOS if mode == "lockstep" else SENSOR_QOS


def command_qos(mode: str) -> QoSProfile:
    """QoS of commands: only the newest counts on a robot, while in lockstep the logger must get every one."""
    return LOCKSTEP_QOS if mode == "lockstep" else COMMAND_QOS


class WmNode(LifecycleNode):
    """Base of all nodes.

    A subclass gives `parameters`, and fills in `configure`, `activate`, `deactivate`, `cleanup` and `diagnose`. UserError from `configure`
    or `activate` is logged as one line and fails the transition; any other exception ends the node with status 1.
    """

    parameters: Mapping[str, Param] = {}

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._declared = {**COMMON, **self.parameters}
        self.active = False
        self.failure: BaseException | None = None
        """An unexpected error in a transition or in a thread of this node: a fault of the program; it ends the process with status 1."""
        # Before the declarations, so that overrides are checked too.
        self.add_on_set_parameters_callback(self._check_parameters)
        for key, param in self._declared.items():
            self._declare(key, param)
        self.contract: schema.Contract
        self._lasting: set[int] | None = None
        """Identities of the entities that `configure` did not make; None while unconfigured."""
        self._diagnostics_publisher: Any = None
        self._diagnostics_timer: Any = None

    # ---- for subclasses -------------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Reads parameters, loads files, makes publishers, subscriptions and services."""

    def activate(self) -> None:
        """Starts working."""

    def deactivate(self) -> None:
        """Stops working; safe to call at any time."""

    def cleanup(self) -> None:
        """Drops what `configure` made beyond ROS entities; safe to call twice."""

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """(level, message, key values) for the 1 Hz diagnostics."""
        return OK, "active" if self.active else "inactive", {}

    def param(self, name: str) -> Any:
        """Current value of a parameter."""
        return self.get_parameter(name).value

    def enter_real_time(self) -> None:
        """Does what the parameters of `REAL_TIME` ask for; the log says what was done and what was not permitted."""
        settings = RealTime(self.param("realtime_priority"), self.param("lock_memory"))
        for refusal in enter(settings):
            self.get_logger().warning(f"{refusal}; going on without")
        if settings.wanted:
            self.get_logger().info(f"scheduled as {scheduling()}, {locked_bytes() >> 20} MiB locked")

    @property
    def lockstep(self) -> bool:
        return bool(self.param("mode") == "lockstep")

    def unheard(self, publishers: Iterable[Publisher]) -> str:
        """Which of the nodes in the parameter `awaits` do not receive yet what is published; empty once all do.

        Discovery takes its time on a busy machine, and what a publisher sends before it is matched is lost to that subscriber.
        """
        awaited = [name.strip() for name in str(self.param("awaits")).split(",") if name.strip()]
        for publisher in publishers if awaited else ():
            topic = publisher.topic_name
            there = [i for i in self.get_subscriptions_info_by_topic(topic) if _match(publisher.qos_profile, i.qos_profile)]
            missing = sorted({*awaited} - {info.node_name for info in there})
            if missing:
                return f"{', '.join(missing)} to listen to {topic}"
            if publisher.get_subscription_count() < len(there):
                return f"the listeners of {topic} to be matched"
        return ""

    def create_timer(self, timer_period_sec: float, callback: Callable[[], None], **options: Any) -> Timer:
        """A timer on the steady clock: watchdogs and diagnostics go on while `/clock` stands still or jumps."""
        return super().create_timer(timer_period_sec, callback, **{"clock": Clock(clock_type=ClockType.STEADY_TIME), **options})

    # ---- lifecycle ------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._lasting = {id(entity) for entity, _ in self._entities()}

        def work() -> None:
            self.contract = schema.load(self.param("contract"))
            self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "diagnostics", 10)
            self._diagnostics_timer = self.create_timer(1.0, self._publish_diagnostics)
            self.configure()

        return self._transition("configure", work)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        def work() -> None:
            self.activate()
            self.active = True

        result = self._transition("activate", work)
        return super().on_activate(state) if result == TransitionCallbackReturn.SUCCESS else result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.active = False
        result = self._transition("deactivate", self.deactivate)
        return super().on_deactivate(state) if result == TransitionCallbackReturn.SUCCESS else result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("clean up", self._drop)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("shut down", self.close)

    def close(self) -> None:
        """Deactivates and cleans up, from any state."""
        if self.active:
            self.active = False
            self.deactivate()
        self._drop()

    def _entities(self) -> list[tuple[Any, Callable[[Any], Any]]]:
        """Everything that the node has in the ROS graph, each with what destroys it."""
        return [
            *((s, self.destroy_subscription) for s in self.subscriptions),
            *((t, self.destroy_timer) for t in self.timers),
            *((s, self.destroy_service) for s in self.services),
            *((c, self.destroy_client) for c in self.clients),
            *((p, self.destroy_publisher) for p in self.publishers),
        ]

    def _drop(self) -> None:
        """Undoes `configure`: without it, a node that is configured again would have every publisher twice."""
        self.cleanup()
        if self._lasting is None:
            return
        for entity, destroy in self._entities():
            if id(entity) not in self._lasting:
                destroy(entity)
        self._lasting = None

    def _transition(self, what: str, work: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            work()
        except UserError as error:
            for line in str(error).splitlines():
                self.get_logger().error(f"cannot {what}: {line}")
            self._drop()
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            # LifecycleNode would swallow it.
            self.failure = error
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    # ---- parameters and diagnostics -------------------------------------------------------------------------------

    def _declare(self, name: str, param: Param) -> None:
        where = f"{self.get_name()}: parameter {name}"
        try:
            self.declare_parameter(name, param.default, _descriptor(param))
        except InvalidParameterTypeException:
            given = self._parameter_overrides[name].value
            expected = type(param.default).__name__
            hint = f": write {float(given)}" if isinstance(param.default, float) and isinstance(given, int) else ""
            raise UserError(f"{where}: expected a value of type {expected}, got {given!r}{hint}") from None
        except InvalidParameterValueException:
            given = self._parameter_overrides[name].value
            allowed = f"one of {', '.join(param.choices)}" if param.choices else f"within [{param.low}, {param.high}]"
            raise UserError(f"{where}: {given!r} must be {allowed}") from None

    def _check_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        for parameter in parameters:
            declared = self._declared.get(parameter.name)
            if declared is None:
                continue
            if declared.choices and parameter.value not in declared.choices:
                return SetParametersResult(
                    successful=False, reason=f"{parameter.name}: {parameter.value!r} is none of {', '.join(declared.choices)}"
                )
            if self.active and not declared.live:
                reason = f"{parameter.name}: deactivate and clean up the node before changing it"
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def _publish_diagnostics(self) -> None:
        level, message, values = self.diagnose()
        status = DiagnosticStatus(
            level=level,
            name=self.get_fully_qualified_name().lstrip("/"),
            message=message,
            hardware_id=self.contract.robot,
            values=[KeyValue(key=k, value=f"{v:.6g}" if isinstance(v, float) else str(v)) for k, v in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics_publisher.publish(array)


def _match(offered: QoSProfile, wanted: QoSProfile) -> bool:
    """Whether a subscriber gets anything from such a publisher; rclpy's own check takes an endless deadline for a demand."""
    reliable = wanted.reliability != ReliabilityPolicy.RELIABLE or offered.reliability == ReliabilityPolicy.RELIABLE
    kept = wanted.durability != DurabilityPolicy.TRANSIENT_LOCAL or offered.durability == DurabilityPolicy.TRANSIENT_LOCAL
    return bool(reliable and kept)


def _descriptor(param: Param) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=param.description)
    if param.low is not None and param.high is not None:
        if isinstance(param.default, int) and not isinstance(param.default, bool):
            descriptor.integer_range = [IntegerRange(from_value=int(param.low), to_value=int(param.high), step=0)]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=float(param.low), to_value=float(param.high), step=0.0)]
    if param.choices:
        descriptor.additional_constraints = "one of " + ", ".join(param.choices)
    return descriptor


def steady_ns() -> int:
    """The steady clock, in nanoseconds."""
    return time.monotonic_ns()


def run(make: Callable[[], WmNode]) -> None:
    """Runs one node until Ctrl-C, SIGTERM or shutdown, and leaves with a status: 0 stopped, 1 a bug, 2 the user's fault.

    The node is brought up by itself where `autostart` says so. SIGINT and SIGTERM deactivate it first, so that files are closed.
    """
    node: WmNode | None = None
    stopping = False
    status = 0

    def stop(signum: int, frame: Any) -> None:
        nonlocal stopping
        stopping = True

    def thread_failed(args: threading.ExceptHookArgs) -> None:
        if node is not None and args.exc_value is not None:
            node.failure = args.exc_value

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    threading.excepthook = thread_failed
    try:
        _init()
        executor = _executor()
        node = make()
        executor.add_node(node)
        if node.param("autostart") and not _bring_up(node) and node.failure is None:
            status = 2
        else:
            gc.collect()
            gc.freeze()
            # Not spin(): with the PyPI wheels of Kilted it delivers neither timers nor signals, spin_once() does both.
            while not stopping and node.failure is None and rclpy.ok():
                executor.spin_once(0.1)
        if node.failure is not None:
            raise node.failure
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except Exception as error:
        text = "".join(traceback.format_exception(error)).rstrip()
        if node is None:
            print(text, file=sys.stderr)
        else:
            node.get_logger().fatal(f"stopped by an unexpected error, please report it:\n{text}")
        status = 1
    finally:
        status = _leave(node) or status
    sys.stdout.flush()
    sys.stderr.flush()
    if status:
        sys.exit(status)


def _executor() -> Executor:
    """The events executor where this rclpy has one (Kilted and newer): it takes less processor time per message."""
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()


def _init() -> None:
    try:
        rclpy.init(signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    except RuntimeError as error:
        raise UserError(f"ROS arguments: {' '.join(str(error).split())}") from None


def _leave(node: WmNode | None) -> int:
    """Closes the node; 1 where that failed."""
    status = 0
    if node is not None:
        try:
            node.close()
        except Exception as error:
            node.get_logger().fatal("could not stop cleanly:\n" + "".join(traceback.format_exception(error)).rstrip())
            status = 1
        node.destroy_node()
    rclpy.try_shutdown()
    return status


def _bring_up(node: WmNode) -> bool:
    success = TransitionCallbackReturn.SUCCESS
    return bool(node.trigger_configure() == success and node.trigger_activate() == success)


def default_threads() -> int:
    """Threads that one node may use for inference when nothing else is said: leave a core for the others."""
    return max(1, (os.cpu_count() or 2) - 1)
