"""Imagination runs beside the control loop: it takes what it can, and holds nobody up."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import numpy as np
import pytest
import tiny_controller as tiny
from camera_bags import with_camera

from wm_ros.contract.assembler import Observation
from wm_ros.runtime.answer import Answer
from wm_ros.runtime.control_ticks import Tick
from wm_ros.runtime.controller import ControllerSession
from wm_ros.runtime.imagination import Imagination, Imagined

CONTRACT = with_camera(image={"height": 6, "width": 8})
TIMEOUT_S = 60


@pytest.fixture
def session(tmp_path: Path) -> ControllerSession:
    return ControllerSession.load(tiny.looking(tmp_path / "c.onnx", CONTRACT, dreams=True), CONTRACT)


def answer(session: ControllerSession, stamp: int, shade: int = 80) -> Answer:
    observation = Observation(np.full(5, 0.5, np.float32), stamp, 0, {"camera": np.full((6, 8, 3), shade, np.uint8)}, {"camera": 0})
    return Answer(session, Tick(observation, 0, 0, 0), session.act(observation.vector, observation.images))


def test_a_tick_gives_frames_and_a_plan_with_its_stamp(session: ControllerSession) -> None:
    shown: queue.Queue[Imagined] = queue.Queue()
    imagination = Imagination(shown.put, pytest.fail)
    try:
        imagination.offer(answer(session, 7))
        got = shown.get(timeout=TIMEOUT_S)
    finally:
        imagination.close()
    assert (got.stamp_ns, got.controller) == (7, session.name) and got.frames.keys() == {"camera"}
    assert got.frames["camera"][:, 0, 0, 0].tolist() == [80 >> h for h in range(tiny.HORIZON)]
    assert got.plan_observation is not None and got.plan_observation.shape == (tiny.HORIZON, 5)
    assert got.plan_action is not None and got.plan_action.shape == (tiny.HORIZON, 1)


def test_ticks_that_come_meanwhile_are_left_out(session: ControllerSession) -> None:
    shown: queue.Queue[Imagined] = queue.Queue()
    entered, go_on = threading.Event(), threading.Event()

    def show(imagined: Imagined) -> None:
        shown.put(imagined)
        entered.set()
        assert go_on.wait(TIMEOUT_S)

    imagination = Imagination(show, pytest.fail)
    try:
        imagination.offer(answer(session, 1))
        assert entered.wait(TIMEOUT_S)
        for stamp in (2, 3):
            imagination.offer(answer(session, stamp))  # returns, although the last one is still being shown
    finally:
        go_on.set()
        imagination.close()
    assert [shown.get(timeout=TIMEOUT_S).stamp_ns] == [1] and shown.empty()


def test_a_graph_that_fails_is_told_and_the_next_tick_is_imagined(session: ControllerSession, monkeypatch: pytest.MonkeyPatch) -> None:
    told: queue.Queue[str] = queue.Queue()
    shown: queue.Queue[Imagined] = queue.Queue()
    imagine, faults = session.imagine, [RuntimeError("out of memory\nat node 7")]
    monkeypatch.setattr(session, "imagine", lambda inputs: (_ for _ in ()).throw(faults.pop()) if faults else imagine(inputs))
    imagination = Imagination(shown.put, told.put)
    try:
        imagination.offer(answer(session, 1))
        assert told.get(timeout=TIMEOUT_S) == f"{session.name} cannot imagine: out of memory"
        while shown.empty():
            imagination.offer(answer(session, 2))  # taken as soon as the failed one is over
        assert shown.get(timeout=TIMEOUT_S).stamp_ns == 2
    finally:
        imagination.close()


def test_a_controller_that_imagines_nothing_is_left_in_peace(tmp_path: Path) -> None:
    blind = ControllerSession.load(tiny.looking(tmp_path / "blind.onnx", CONTRACT), CONTRACT)
    imagination = Imagination(pytest.fail, pytest.fail)
    imagination.offer(answer(blind, 1))
    imagination.close()
