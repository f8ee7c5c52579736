"""The mpc node as the process that users run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_controller
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from lockstep import PERIOD, Lockstep
from peer import Process, running
from std_msgs.msg import Float32MultiArray, String
from std_srvs.srv import Trigger

from wm_ros.contract import announcements
from wm_ros.contract.announcements import ControllerNotice
from wm_ros.contract.assembler import Assembler, stamp_ns
from wm_ros.nodes.base import LATCHED_QOS, OK, WARN
from wm_ros.nodes.messages import numpy_array
from wm_ros.runtime.controller import ControllerSession
from wm_ros.runtime.signature import SigningKey, new_key, signature_path

CONTRACT = tiny_controller.contract()
DIAGNOSTICS = {
    "rate_hz", "latency_p50_ms", "latency_p99_ms", "latency_max_ms", "period_jitter_p99_ms", "deadlines", "deadline_misses", "overruns",
    "late", "skipped", "refused", "followed", "observation_age_ms", "drops", "controller_version", "controller", "disagreement", "reason",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mpc")


@pytest.fixture(scope="module")
def feedback(folder: Path) -> Path:
    return tiny_controller.feedback(folder / "feedback.onnx")


@pytest.fixture(scope="module")
def served(folder: Path, feedback: Path) -> Iterator[tuple[Lockstep, Process]]:
    """A lockstep mpc that serves the feedback controller with seed 5."""
    peer = Lockstep("mpc_served")
    parameters: dict[str, Any] = {"controller": feedback, "mode": "lockstep", "seed": 5, "threads": 1}
    with running("mpc", peer.namespace, folder / "served.log", **parameters) as process:
        peer.wait_for_version(1)
        yield peer, process
    peer.close()


def test_every_observation_is_answered_with_its_stamp_and_the_controllers_own_action(
    served: tuple[Lockstep, Process], feedback: Path
) -> None:
    peer, _ = served
    twin = ControllerSession.load(feedback, CONTRACT)
    assembler = Assembler(CONTRACT)
    for episode in range(2):
        twin.reset([5, episode])
        for tick in range(5):
            answer = peer.ask(0.1 * tick)
            assert stamp_ns(answer.header.stamp) == peer.stamp
            assert answer.header.frame_id == twin.name and list(answer.name) == ["slider"]
            assembler.update("joints", peer.message(0.1 * tick), 0)
            observation = assembler.observe()
            assert observation is not None
            assert np.float32(answer.effort[0]) == twin.act(observation.vector).action[0]
        peer.stamp += 10**9  # a new episode


def test_the_serving_controller_is_told_to_whoever_asks_later(served: tuple[Lockstep, Process], feedback: Path) -> None:
    peer, _ = served
    late: list[str] = []
    subscription = peer.node.create_subscription(String, "mpc/controller", lambda m: late.append(m.data), LATCHED_QOS)
    peer.wait(lambda: late, "the latched notice")
    peer.node.destroy_subscription(subscription)
    assert announcements.read(ControllerNotice, late[0], "mpc/controller") == tiny_controller.notice(feedback)


def test_plans_are_shown_to_those_who_look(served: tuple[Lockstep, Process]) -> None:
    peer, _ = served
    shown: dict[str, Float32MultiArray] = {}
    for name in ("plan", "candidates", "returns", "spread"):
        peer.node.create_subscription(Float32MultiArray, f"mpc/{name}", lambda m, n=name: shown.update({n: m}), 10)

    def all_shown() -> bool:
        peer.ask(0.5)
        return len(shown) == 4

    peer.wait(all_shown, "plan, candidates, returns and spread")
    arrays = {name: numpy_array(message) for name, message in shown.items()}
    labels = {name: [d.label for d in message.layout.dim] for name, message in shown.items()}
    assert labels == {
        "plan": ["horizon", "column"],
        "candidates": ["candidate", "horizon", "column"],
        "returns": ["candidate"],
        "spread": ["horizon", "column"],
    }
    assert arrays["plan"].shape == (7, 6) and (arrays["plan"][:, 0] == 0.5).all()
    assert (arrays["plan"][:, 5] == arrays["plan"][0, 5]).all() and arrays["plan"][0, 5] > 0.5
    assert arrays["candidates"].shape == (3, 7, 5) and (arrays["spread"] == 0.25).all() and arrays["returns"].tolist() == [3, 2, 1]


def test_diagnostics_have_exactly_the_promised_keys(served: tuple[Lockstep, Process]) -> None:
    peer, _ = served
    peer.ask()
    level, _, values = peer.fresh_health("mpc", lambda level, text, values: values["controller"], "diagnostics")
    assert level == OK and set(values) == DIAGNOSTICS
    assert values["controller_version"] == "1" and float(values["latency_max_ms"]) > 0


def test_a_sensor_message_without_a_joint_is_dropped_counted_and_not_answered(served: tuple[Lockstep, Process]) -> None:
    peer, _ = served
    peer.ask()
    before = int(peer.fresh_health("mpc", lambda *_: True, "diagnostics")[2]["drops"])
    peer.stamp += PERIOD
    peer.sensors.publish(peer.message(0.5, names=("hinge_1",)))
    peer.fresh_health("mpc", lambda level, text, values: int(values["drops"]) == before + 1, "one drop")
    assert stamp_ns(peer.ask().header.stamp) == peer.stamp
    assert peer.stamp - PERIOD not in [stamp_ns(a.header.stamp) for a in peer.answers]


def test_loading_is_refused_where_the_parameter_names_no_file(served: tuple[Lockstep, Process], feedback: Path) -> None:
    peer, _ = served
    assert all(r.successful for r in peer.set("mpc", controller="/nowhere.onnx"))
    answer = peer.call(Trigger, "mpc/load")
    assert not answer.success and "/nowhere.onnx" in answer.message
    assert all(r.successful for r in peer.set("mpc", controller=str(tiny_controller.constant(feedback.with_name("two.onnx"), version=2))))
    assert peer.call(Trigger, "mpc/load").success
    peer.wait_for_version(2)
    assert list(peer.ask().effort) == [1.5]


def test_a_node_taken_down_and_brought_up_again_serves_again(served: tuple[Lockstep, Process]) -> None:
    peer, _ = served
    peer.ask()
    up = (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP, *up):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert peer.call(ChangeState, "mpc/change_state", request).success
    peer.wait(lambda: peer.node.count_publishers("mpc/command") == 1, "one publisher")
    assert stamp_ns(peer.ask().header.stamp) == peer.stamp


def test_the_process_holds_no_torch(served: tuple[Lockstep, Process]) -> None:
    peer, process = served
    peer.ask()
    mapped = Path(f"/proc/{process.process.pid}/maps").read_text()
    assert "onnxruntime" in mapped, "the check itself must see what is loaded"
    assert "torch" not in mapped


def test_announced_controllers_are_swapped_in_and_bad_ones_leave_the_old_one_serving(folder: Path) -> None:
    peer = Lockstep("mpc_announced")
    good, better = (tiny_controller.constant(folder / f"v{v}.onnx", float(v), version=v) for v in (1, 2))
    corrupt = folder / "corrupt.onnx"
    corrupt.write_bytes(good.read_bytes()[:200])
    foreign = tiny_controller.other_contract(folder / "foreign.onnx")
    outside = tiny_controller.constant(folder.parent / f"{folder.name}_outside.onnx", 9.0, version=9)
    (folder / "link.onnx").symlink_to(outside)
    with running("mpc", peer.namespace, folder / "announced.log", mode="lockstep", threads=1, model_folder=folder):
        peer.fresh_health("mpc", lambda level, text, v: v["reason"] == "waiting for a controller", "mpc to wait")
        peer.announce(tiny_controller.notice(good))
        peer.wait_for_version(1)
        for bad, word in (
            (tiny_controller.notice(corrupt, version=7), "corrupt.onnx"),
            (tiny_controller.notice(good, version=7).model_copy(update={"sha256": "0" * 64}), "sha256"),
            (tiny_controller.notice(foreign, version=7), "made for another contract"),
            (tiny_controller.notice(outside, version=9), "lies outside"),
            (tiny_controller.notice(folder / "link.onnx", version=9), "lies outside"),
            (tiny_controller.notice(foreign, version=7).model_copy(update={"contract_hash": "0" * 64}), "not for this robot"),
        ):
            peer.announce(bad)
            level, _, values = peer.fresh_health("mpc", lambda level, text, v, word=word: word in v["reason"], f"the reason {word}")
            assert level == WARN and values["controller_version"] == "1"
            assert list(peer.ask().effort) == [1.0]
        peer.models.publish(String(data="no JSON"))
        peer.announce(tiny_controller.notice(better, version=2))
        peer.wait_for_version(2)
        assert list(peer.ask().effort) == [2.0]
        assert peer.fresh_health("mpc", lambda level, text, v: not v["reason"], "no reason")[0] == OK
    peer.close()


def test_a_robot_with_a_trusted_key_serves_what_it_signed_and_goes_on_serving_when_an_unsigned_one_is_announced(folder: Path) -> None:
    peer = Lockstep("mpc_signed")
    new_key(folder / "key")
    key = SigningKey.load(folder / "key")
    signed, unsigned = (tiny_controller.constant(folder / f"{name}.onnx", 3.0, version=v) for v, name in ((1, "signed"), (2, "unsigned")))
    signature_path(signed).write_bytes(key.sign(tiny_controller.notice(signed).sha256))
    parameters: dict[str, Any] = {"model_folder": folder, "trusted_key": folder / "key.pub"}
    with running("mpc", peer.namespace, folder / "signed.log", mode="lockstep", threads=1, **parameters):
        peer.announce(tiny_controller.notice(signed))
        peer.wait_for_version(1)
        peer.announce(tiny_controller.notice(unsigned, version=2))
        level, _, values = peer.fresh_health("mpc", lambda level, text, v: "takes signed controllers only" in v["reason"], "the reason")
        assert level == WARN and values["controller_version"] == "1"
        assert list(peer.ask().effort) == [3.0]
    peer.close()


def test_an_output_that_is_not_finite_is_never_published(folder: Path) -> None:
    peer = Lockstep("mpc_nan")
    nan = tiny_controller.not_finite(folder / "nan.onnx")
    with running("mpc", peer.namespace, folder / "nan.log", mode="lockstep", threads=1, controller=nan):
        peer.wait_for_version(1)
        peer.show()
        level, _, values = peer.fresh_health("mpc", lambda level, text, v: v["reason"], "a reason")
        assert level == WARN and "not finite" in values["reason"] and peer.answers == []
    peer.close()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("controller", "/nowhere.onnx", ["/nowhere.onnx", "cannot read the controller"]),
        ("trusted_key", "/nowhere.pub", ["/nowhere.pub", "No such file"]),
        ("cpu_affinity", "x", ["cpu_affinity", "write a list such as"]),
        ("threads", "0", ["threads", "within [1, 256]"]),
        ("mode", "turbo", ["mode", "one of realtime, lockstep"]),
    ],
)
def test_a_parameter_that_cannot_be_used_gives_one_line_and_status_2(name: str, value: str, words: list[str]) -> None:
    command = [sys.executable, "-m", "wm_ros.nodes.mpc", "--ros-args", "-r", "__ns:=/mpc_bad", "-p", f"{name}:={value}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = (done.stdout + done.stderr).strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1, lines
    assert all(word in lines[0] for word in words), lines
