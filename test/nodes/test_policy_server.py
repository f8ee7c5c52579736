"""The policy server as the process that users run; what it shares with mpc is tested there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_controller
from lockstep import PERIOD, Lockstep
from peer import Process, running

from wm_ros.contract.assembler import Assembler, stamp_ns
from wm_ros.nodes.base import OK, WARN
from wm_ros.runtime.controller import ControllerSession

CONTRACT = tiny_controller.contract()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policy")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[tuple[Lockstep, Process]]:
    """One that waits for announced policies, with seed 5."""
    peer = Lockstep("policy", source="policy")
    parameters = {"mode": "lockstep", "seed": 5, "threads": 1, "model_folder": folder}
    with running("policy_server", peer.namespace, folder / "log", **parameters) as process:
        yield peer, process
    peer.close()


def test_an_announced_policy_answers_every_observation_and_begins_each_episode_with_an_empty_carry(
    served: tuple[Lockstep, Process], folder: Path
) -> None:
    peer, _ = served
    path = tiny_controller.feedback(folder / "feedback.onnx")
    peer.announce(tiny_controller.notice(path))
    peer.wait_for_version(1)
    twin, assembler = ControllerSession.load(path, CONTRACT), Assembler(CONTRACT)
    for episode in range(2):
        twin.reset([5, episode])
        for tick in range(4):
            answer = peer.ask(0.1 * tick)
            assert stamp_ns(answer.header.stamp) == peer.stamp and answer.header.frame_id == twin.name
            assembler.update("joints", peer.message(0.1 * tick), 0)
            observation = assembler.observe()
            assert observation is not None
            assert np.float32(answer.effort[0]) == twin.act(observation.vector).action[0]
        peer.stamp += 10**9  # a new episode: the observations have a gap


def test_a_bad_policy_leaves_the_old_one_serving_and_a_better_one_is_swapped_in(served: tuple[Lockstep, Process], folder: Path) -> None:
    peer, _ = served
    peer.announce(tiny_controller.notice(tiny_controller.constant(folder / "v3.onnx", 3.0, version=3), version=3))
    peer.wait_for_version(3)
    peer.announce(tiny_controller.notice(tiny_controller.other_contract(folder / "foreign.onnx"), version=4))
    level, _, values = peer.fresh_health("policy_server", lambda level, text, v: "another contract" in v["reason"], "the refusal")
    assert level == WARN and values["controller_version"] == "3"
    assert list(peer.ask().effort) == [3.0]
    peer.announce(tiny_controller.notice(tiny_controller.constant(folder / "v5.onnx", 5.0, version=5), version=5))
    peer.wait_for_version(5)
    peer.stamp += PERIOD
    assert list(peer.ask().effort) == [5.0]
    assert peer.fresh_health("policy_server", lambda level, text, v: not v["reason"], "no reason")[0] == OK


def test_the_process_holds_no_torch_and_has_no_topics_of_mpc(served: tuple[Lockstep, Process]) -> None:
    peer, process = served
    mapped = Path(f"/proc/{process.process.pid}/maps").read_text()
    assert "onnxruntime" in mapped and "torch" not in mapped
    published = {name for name, _ in peer.node.get_publisher_names_and_types_by_node("policy_server", f"/{peer.namespace}")}
    assert {f"/{peer.namespace}/policy/{name}" for name in ("command", "controller")} <= published
    assert not [name for name in published if "/mpc/" in name]
