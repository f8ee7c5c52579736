"""The gate's promises through real processes: what arrives at the robot, and in which order."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_controller
from fault.robot import CONTRACT, Robot
from peer import Process, running

from wm_ros.nodes.messages import CommandForm

PUSH = "tiny:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate_promises")


@pytest.fixture(scope="module")
def robot(folder: Path) -> Iterator[Robot]:
    made = Robot("gate_promises")
    with running("command_gate", made.namespace, folder / "gate.log"):
        yield made
    made.close()


@pytest.fixture
def controller(robot: Robot, folder: Path) -> Iterator[Process]:
    """An mpc that pushes with 1.5 N; the gate is armed and passes that on."""
    path = tiny_controller.constant(folder / "push.onnx", 1.5)
    process = Process("mpc", robot.namespace, folder / "mpc.log", controller=path, threads=1)
    try:
        robot.speaking = True
        robot.arm_when_ready()
        robot.wait_for(PUSH, 10)
        assert list(robot.commands[-1].effort) == [1.5]
        robot.forget()
        yield process
        process.stop()
        robot.wait(lambda: robot.node.count_publishers("mpc/command") == 0 or process.process.returncode == -9, "mpc's topics to go")
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()


def test_a_gate_that_hears_no_sensors_or_no_controller_refuses_to_arm(robot: Robot) -> None:
    robot.speaking = False
    refused, why = robot.arm()
    assert not refused and "joint_states" in why
    robot.speaking = True
    robot.wait(lambda: "no fresh command on mpc/command" in robot.arm()[1], "the gate to hear the sensors")


def test_a_disarmed_gate_passes_nothing_on(robot: Robot, controller: Process) -> None:
    assert robot.arm(False) == (True, "disarmed")
    first = robot.wait_for("hold:disarmed", 10)
    robot.assert_held_to_the_end(first)


def test_a_pressed_estop_stops_until_it_is_released_and_the_gate_armed_again(robot: Robot, controller: Process) -> None:
    robot.press_estop(True)
    first = robot.wait_for("hold:estop", 10)
    refused, why = robot.arm()
    assert not refused and "still pressed" in why
    robot.press_estop(False)
    robot.wait_for("hold:estop", len(robot.sources) - first + 10)
    robot.assert_held_to_the_end(first)
    robot.arm_when_ready()
    robot.wait_for(PUSH, 5)


def test_sensors_that_fall_silent_bring_hold_and_commands_return_with_them(robot: Robot, controller: Process) -> None:
    robot.speaking = False
    first = robot.wait_for("hold:stale_observation", 3)
    robot.assert_held_to_the_end(first)
    assert "hold:command_timeout" in robot.sources[:first], "no observations, no commands: the gate saw that first"
    robot.speaking = True
    robot.wait_for(PUSH, 5)


def test_a_second_publisher_on_the_command_topic_brings_hold_until_it_leaves(robot: Robot, controller: Process) -> None:
    intruder = robot.publisher()
    first = robot.wait_for("hold:two_publishers", 5)
    robot.assert_held_to_the_end(first)
    robot.node.destroy_publisher(intruder)
    robot.wait_for(PUSH, 5)


def test_a_stopped_gate_leaves_hold_behind(folder: Path) -> None:
    robot = Robot("stopped_gate")
    try:
        with running("command_gate", robot.namespace, folder / "stopped.log"):
            publisher = robot.publisher()

            def push() -> bool:
                publisher.publish(CommandForm(CONTRACT).fill([2.0], robot.stamp_ns, "test"))
                return "test" in robot.sources

            robot.arm_when_ready(push)
            robot.wait(push, "a command to pass")
        robot.wait(lambda: robot.sources[-1] == "hold:disarmed", "the gate's last word")
    finally:
        robot.close()


@pytest.mark.parametrize(
    ("values", "names", "reason"),
    [
        ([math.nan], ["slider"], "not_finite"),
        ([math.inf], ["slider"], "not_finite"),
        ([1.0], ["hinge_1"], "wrong_names"),
        ([1.0, 1.0], ["slider"], "wrong_size"),
        ([1.0, 1.0], ["slider", "hinge_1"], "wrong_names"),
    ],
)
def test_a_bad_command_never_reaches_the_robot(robot: Robot, values: list[float], names: list[str], reason: str) -> None:
    """Last of those that share the gate: here the test itself is the controller."""
    publisher = robot.publisher()
    try:
        robot.speaking = True
        robot.arm_when_ready(lambda: publisher.publish(CommandForm(CONTRACT).fill([2.0], robot.stamp_ns, "test")))
        robot.forget()
        bad = False

        def control() -> bool:
            message = CommandForm(CONTRACT).fill([2.0], robot.stamp_ns, "test")
            if bad:
                message.name, message.effort, message.header.frame_id = names, values, "bad"
            publisher.publish(message)
            return any(s == (f"hold:{reason}" if bad else "test") for s in robot.sources)

        robot.wait(control, "a good command to pass")
        robot.forget()
        bad = True
        robot.wait(control, f"hold for {reason}")
        assert "bad" not in robot.sources
    finally:
        robot.node.destroy_publisher(publisher)
        robot.arm(False)


def test_a_controller_killed_with_9_brings_hold(folder: Path) -> None:
    robot = Robot("killed_controller")
    path = tiny_controller.constant(folder / "push.onnx", 1.5)
    process = Process("mpc", robot.namespace, folder / "killed.log", controller=path, threads=1)
    try:
        with running("command_gate", robot.namespace, folder / "killed_gate.log"):
            robot.arm_when_ready()
            robot.wait_for(PUSH, 5)
            robot.forget()
            assert process.stop(signal.SIGKILL) == -signal.SIGKILL
            first = robot.wait_for("hold:command_timeout", 10)
            robot.assert_held_to_the_end(first)
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()
        robot.close()
