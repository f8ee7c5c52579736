"""The command gate as the process that users run; its judgement is tested in test/runtime, its promises in test/fault."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from peer import Peer, Process, contract_file, running
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import SetBool

from wm_ros.contract import schema
from wm_ros.contract.assembler import stamp_ns
from wm_ros.nodes.base import COMMAND_QOS, LOCKSTEP_QOS, OK
from wm_ros.nodes.messages import CommandForm, time_message

CONTRACT = schema.load("cartpole_swingup")
PERIOD = CONTRACT.control.period_ns


class Lockstep(Peer):
    """A simulator and its controllers, one message at a time."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.stamp = 10**9
        self.answers: list[JointState] = []
        self.mirrored: list[list[float]] = []
        self.sensors = self.node.create_publisher(JointState, "joint_states", LOCKSTEP_QOS)
        self.controllers = {s: self.node.create_publisher(JointState, f"{s}/command", COMMAND_QOS) for s in ("mpc", "policy")}
        self.node.create_subscription(JointState, "command", self.answers.append, 10)
        self.node.create_subscription(Float64MultiArray, "forward/commands", lambda m: self.mirrored.append(list(m.data)), 10)

    def step(self, **commands: float) -> JointState:
        """One observation, commands from the named controllers, and the gate's answer."""
        ends = [self.sensors, *(self.controllers[s] for s in commands)]
        self.wait(lambda: all(e.get_subscription_count() for e in ends), "the gate's subscriptions")
        self.stamp += PERIOD
        message = JointState(name=["slider", "hinge_1"], position=[0.0, 0.0], velocity=[0.0, 0.0])
        message.header.stamp = time_message(self.stamp)
        heard = len(self.answers)
        self.sensors.publish(message)
        for source, force in commands.items():
            self.controllers[source].publish(CommandForm(CONTRACT).fill([force], self.stamp, source))
        shown = time.monotonic()

        def answered() -> bool:
            nonlocal shown
            # As the simulator does: what was lost before discovery was complete is asked again.
            if time.monotonic() - shown > 0.5:
                shown = time.monotonic()
                self.sensors.publish(message)
            return any(stamp_ns(a.header.stamp) == self.stamp for a in self.answers[heard:])

        self.wait(answered, "the gate's answer")
        return self.answers[-1]

    def ask(self, service: str, yes: bool) -> str:
        answer = self.call(SetBool, f"command_gate/{service}", SetBool.Request(data=yes))
        assert answer.success
        return str(answer.message)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lockstep, Process]]:
    folder = tmp_path_factory.mktemp("gate")
    contract = contract_file(folder, action={"mirror_topic": "forward/commands"})
    peer = Lockstep("command_gate")
    with running("command_gate", peer.namespace, folder / "log", mode="lockstep", contract=contract, lockstep_timeout_s=0.2) as process:
        yield peer, process
    peer.close()


def test_a_disarmed_gate_answers_each_observation_with_hold(gate: tuple[Lockstep, Process]) -> None:
    peer, _ = gate
    for _ in range(3):
        answer = peer.step()
        assert answer.header.frame_id == "hold:disarmed" and list(answer.effort) == [0.0]


def test_an_armed_gate_passes_commands_on_within_limits_and_repeats_them_for_forward_controllers(gate: tuple[Lockstep, Process]) -> None:
    peer, _ = gate
    assert peer.ask("arm", True) == "armed"
    peer.mirrored.clear()
    for force, passed in ((2.5, 2.5), (50.0, 10.0), (-50.0, -10.0)):
        answer = peer.step(mpc=force)
        assert answer.header.frame_id == "mpc" and list(answer.effort) == [passed] and list(answer.name) == ["slider"]
    peer.wait(lambda: len(peer.mirrored) == 3, "the mirrored commands")
    assert peer.mirrored == [[2.5], [10.0], [-10.0]]
    assert peer.ask("arm", False) == "disarmed"


def test_the_selected_controller_is_heard(gate: tuple[Lockstep, Process]) -> None:
    peer, _ = gate
    peer.ask("arm", True)
    assert peer.ask("select", False) == "listening to policy/command"
    assert peer.step(policy=3.0).header.frame_id == "policy"
    assert peer.ask("select", True) == "listening to mpc/command"
    assert peer.step(mpc=3.0).header.frame_id == "mpc"
    peer.ask("arm", False)


def test_an_observation_that_no_command_answers_is_answered_with_hold_in_the_end(gate: tuple[Lockstep, Process]) -> None:
    peer, _ = gate
    peer.ask("arm", True)
    assert peer.step().header.frame_id == "hold:command_timeout"
    peer.ask("arm", False)


def test_diagnostics_tell_state_latency_and_interventions_by_reason(gate: tuple[Lockstep, Process]) -> None:
    peer, _ = gate
    peer.ask("arm", True)
    peer.step(mpc=99.0)
    peer.ask("arm", False)
    peer.step()
    level, text, values = peer.fresh_health("command_gate", lambda level, text, v: v["state"] == "disarmed", "diagnostics")
    assert level == OK and "disarmed" in text and values["reason"] == "disarmed"
    assert int(values["interventions.clipped"]) >= 1 and int(values["interventions.hold_disarmed"]) >= 1
    assert int(values["passed"]) >= 1 and float(values["latency_max_ms"]) > 0 and float(values["observation_to_command_max_ms"]) > 0
    assert {"rate_hz", "latency_p50_ms", "latency_p99_ms", "period_jitter_p99_ms", "observation_age_ms"} <= set(values)


def test_the_process_holds_neither_torch_nor_onnxruntime(gate: tuple[Lockstep, Process]) -> None:
    peer, process = gate
    peer.step()
    mapped = Path(f"/proc/{process.process.pid}/maps").read_text()
    assert "numpy" in mapped, "the check itself must see what is loaded"
    assert "torch" not in mapped and "onnxruntime" not in mapped
