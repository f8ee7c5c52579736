"""The only node that talks to the hardware: `mpc/command` or `policy/command` in, the contract's command topic out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rclpy.event_handler import QoSLivelinessChangedInfo, SubscriptionEventCallbacks, UnsupportedEventTypeError
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray, String
from std_srvs.srv import SetBool

from wm_ros.contract.assembler import stamp_ns
from wm_ros.nodes import base, messages
from wm_ros.nodes.base import Param
from wm_ros.runtime import plan_age
from wm_ros.runtime.gate import WATCHDOG_PERIODS, Gate, Outgoing, Proposal, Source
from wm_ros.runtime.statistics import Durations, Periods

INTERFACES = ("position", "velocity", "effort")


class CommandGateNode(base.WmNode):
    """Thin: every judgement is `runtime.gate`."""

    parameters: Mapping[str, Param] = {
        "awaits": base.AWAITS,
        "source": Param("mpc", "Whose commands pass until `~/select` says otherwise", choices=("mpc", "policy")),
        "lockstep_timeout_s": Param(5.0, "Lockstep: hold answers an observation that has waited this long", low=0.01, high=3600.0),
        "blend_s": Param(0.1, "Commands come back over this time after a hold, and after `~/select`; 0: at once", low=0.0, high=10.0),
        **base.REAL_TIME,
    }

    def __init__(self) -> None:
        super().__init__("command_gate")
        self._gate: Gate | None = None
        self._latency = Durations()
        self._observation_to_command = Durations()

    # ---- lifecycle --------------------------------------------------------------------------------------------------

    def configure(self) -> None:
        self.enter_real_time()
        contract = self.contract
        self._gate = Gate(contract, self.lockstep, self.param("lockstep_timeout_s"), self.param("blend_s"))
        self._gate.select(self.param("source"))
        self._periods = Periods(contract.control.period_ns)
        self._state = ""
        self._heard_ns: dict[Source, int] = {}
        self._complete_ns: dict[int, int] = {}
        self._form = messages.CommandForm(contract)
        self._command = self.create_publisher(JointState, contract.action.topic, base.command_qos(self.param("mode")))
        mirror = contract.action.mirror_topic
        self._mirror = None if mirror is None else self.create_publisher(Float64MultiArray, mirror, base.COMMAND_QOS)
        for channel in contract.observation:
            self.create_subscription(
                messages.message_class(channel.type),
                channel.topic,
                lambda message, name=channel.name: self._on_sensor(name, message),
                base.sensor_qos(self.param("mode")),
            )
        sources: tuple[Source, ...] = ("mpc", "policy")
        self._commands = {
            source: self.create_subscription(
                JointState,
                f"{source}/command",
                lambda message, s=source: self._on_command(s, message),
                base.command_qos(self.param("mode")),
            )
            for source in sources
        }
        self._dead: Counter[Source] = Counter()
        for source in sources:
            self._watch(source)
        self.create_subscription(Bool, contract.safety.estop_topic, self._on_estop, 10)
        self.create_service(SetBool, "~/arm", self._on_arm)
        self.create_service(SetBool, "~/select", self._on_select)
        self.create_timer(WATCHDOG_PERIODS * contract.control.period_s, self._on_watchdog)

    def deactivate(self) -> None:
        if self._gate is not None:
            self._send(self._gate.disarm(base.steady_ns()))

    def _watch(self, source: Source) -> None:
        """Learns of controllers that were killed, long before DDS forgets their publishers.

        Who serves has one publisher of commands and one of `<source>/controller`, which has a lease. It is made after the other, so that a
        dead one always stands for a dead publisher of commands.
        """

        def changed(info: QoSLivelinessChangedInfo) -> None:
            self._dead[source] = info.not_alive_count

        topic = f"{source}/controller"
        try:
            events = SubscriptionEventCallbacks(liveliness=changed)
            self.create_subscription(String, topic, lambda message: None, base.SERVING_QOS, event_callbacks=events)
        except UnsupportedEventTypeError:
            self.get_logger().warning("this middleware does not tell who is alive: a killed controller counts until it is forgotten")

    def _living_publishers(self, source: Source) -> int:
        """Publishers of a controller's commands whose process lives."""
        return int(self._commands[source].get_publisher_count()) - self._dead[source]

    # ---- in ---------------------------------------------------------------------------------------------------------

    def _on_sensor(self, channel: str, message: Any) -> None:
        if self.active and self._gate is not None:
            now = base.steady_ns()
            self._send(self._gate.sensor(channel, message, now))
            self._remember(now)

    def _on_command(self, source: Source, message: JointState) -> None:
        if not self.active or self._gate is None:
            return
        publishers = self._living_publishers(source)  # may wait for discovery: the time is read after it
        now = base.steady_ns()
        self._heard_ns[source] = now
        interface = self.contract.action.interface
        other = [i for i in INTERFACES if i != interface and len(getattr(message, i))]
        proposal = Proposal(
            message.name,
            getattr(message, interface),
            stamp_ns(message.header.stamp),
            message.header.frame_id,
            plan_age.age_ns(message.header.frame_id),
            malformed=f"{source}/command fills {other[0]}, the contract wants {interface}" if other else "",
        )
        outgoing = self._gate.command(source, proposal, now, publishers)
        self._send(outgoing)
        if outgoing is not None and not outgoing.reason:
            sent = base.steady_ns()
            self._latency.add_ns(sent - now)
            if outgoing.stamp_ns in self._complete_ns:
                self._observation_to_command.add_ns(sent - self._complete_ns[outgoing.stamp_ns])

    def _on_estop(self, message: Bool) -> None:
        if self._gate is not None:
            self._send(self._gate.estop(message.data, base.steady_ns()))

    def _on_watchdog(self) -> None:
        if self.active and self._gate is not None:
            self._gate.publishers(self._living_publishers(self._gate.source))
            self._send(self._gate.tick(base.steady_ns()))

    def _on_arm(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        gate = self._gate
        assert gate is not None
        refusal = ""
        if not self.active:
            refusal = "the node is not active: activate it first"
        elif request.data:
            refusal = self._not_ready() or gate.arm()
        else:
            self._send(gate.disarm(base.steady_ns()))
        response.success, response.message = not refusal, refusal or gate.state
        return response

    def _not_ready(self) -> str:
        """Why arming would only mean holding: sensors and controller must be heard first. In lockstep they wait for the reset."""
        assert self._gate is not None
        if self._gate.armed:
            return ""
        awaited = self.unheard((self._command,))
        if awaited or self.lockstep:
            return f"still waiting for {awaited}" if awaited else ""
        now, safety = base.steady_ns(), self.contract.safety
        age = self._gate.observation_age_ns(now)
        if age is None or age > safety.max_observation_age_s * 1e9:
            topics = ", ".join(c.topic for c in self.contract.observation)
            return f"no fresh observation: check that somebody publishes {topics}"
        heard = self._heard_ns.get(self._gate.source)
        if heard is None or now - heard > safety.max_plan_age_s * 1e9:
            return f"no fresh command on {self._gate.source}/command: start a controller, or select the other one"
        return ""

    def _on_select(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        assert self._gate is not None
        self._gate.select("mpc" if request.data else "policy")
        response.success, response.message = True, f"listening to {self._gate.source}/command"
        return response

    # ---- out --------------------------------------------------------------------------------------------------------

    def _send(self, outgoing: Outgoing | None) -> None:
        if outgoing is not None:
            self._command.publish(self._form.fill(outgoing.values, outgoing.stamp_ns, outgoing.controller))
            if self._mirror is not None:
                self._mirror.publish(Float64MultiArray(data=[float(v) for v in outgoing.values]))
            if not outgoing.reason:
                self._periods.event(base.steady_ns())
            else:
                self._periods.pause()
        self._tell_changes()

    def _tell_changes(self) -> None:
        """One log line whenever the gate begins to pass commands, or to hold for another reason."""
        assert self._gate is not None
        reason = self._gate.holding
        state = f"holding: {reason}" if reason else "passing commands" if self._gate.passed else self._gate.state
        if state != self._state:
            self._state = state
            # Two lines, since rclpy's loggers tie one severity to one line of code.
            if reason and reason not in ("disarmed", "no_command"):
                self.get_logger().warning(state)
            else:
                self.get_logger().info(state)

    def _remember(self, now: int) -> None:
        """When each of the last few observations was complete, by its stamp."""
        assert self._gate is not None
        stamp = self._gate.observation_stamp_ns
        if stamp is not None and stamp not in self._complete_ns:
            self._complete_ns[stamp] = now
            if len(self._complete_ns) > 16:
                del self._complete_ns[next(iter(self._complete_ns))]

    # ---- diagnostics ------------------------------------------------------------------------------------------------

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        gate, now = self._gate, base.steady_ns()
        assert gate is not None
        latency, whole, jitter = self._latency.summary(), self._observation_to_command.summary(), self._periods.jitter.summary()
        age, reason = gate.observation_age_ns(now), gate.reason(now)
        if self.lockstep:
            reason = reason or gate.holding  # each hold answers its observation, and nothing is wrong until the next one waits
        values: dict[str, Any] = {
            "rate_hz": self._periods.rate_hz(now),
            "latency_p50_ms": latency.p50_ms,
            "latency_p99_ms": latency.p99_ms,
            "latency_max_ms": latency.max_ms,
            "observation_to_command_p50_ms": whole.p50_ms,
            "observation_to_command_p99_ms": whole.p99_ms,
            "observation_to_command_max_ms": whole.max_ms,
            "period_jitter_p99_ms": jitter.p99_ms,
            "observation_age_ms": -1.0 if age is None else age * 1e-6,
            "state": gate.state,
            "source": gate.source,
            "passed": gate.passed,
            "followed": gate.followed,
            "held": gate.held,
            "reason": reason,
            "lacking": ",".join(gate.lacking(now)),
            "interventions": sum(gate.interventions.values()),
            **{f"interventions.{name}": count for name, count in sorted(gate.interventions.items()) if count},
        }
        troubled = gate.stopped or (gate.armed and reason not in ("", "no_command", "no_observation"))
        return (base.WARN if troubled else base.OK), f"{gate.state}{f', holding: {reason}' if reason else ''}", values


def main() -> None:
    """Entry point."""
    base.run(CommandGateNode)


if __name__ == "__main__":
    main()
