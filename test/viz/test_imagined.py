"""Imagined frames in the report, computed anew from a recorded bag."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_controller as tiny
from camera_bags import every, raw_image, with_camera, write_with_camera
from PIL import Image

from wm_ros.contract.errors import UserError
from wm_ros.data.align import read_episodes
from wm_ros.runtime.controller import ControllerSession
from wm_ros.viz import imagined
from wm_ros.viz.report import write_report
from wm_ros.viz.theme import LIGHT

CONTRACT = with_camera(image={"height": 6, "width": 8})
TICKS = 40
TITLE = "What the cameras showed, and what was imagined"


def no_film(*_: Any, **__: Any) -> np.ndarray:
    raise UserError("no film")


def shade(tick: int) -> int:
    return 4 * tick


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with one bag, whose camera shows another shade at every tick."""
    pictures = every(TICKS, lambda k, stamp: raw_image(np.full((6, 8, 3), shade(k), np.uint8), stamp=stamp), step=1)
    write_with_camera(tmp_path / "bags" / "episode_0001", TICKS, CONTRACT, pictures)
    return tmp_path


def session(run: Path, **metadata: float) -> ControllerSession:
    return ControllerSession.load(tiny.looking(run / "controller.onnx", CONTRACT, dreams=True, **metadata), CONTRACT)


@pytest.mark.parametrize("stride", [1, 3])
def test_imagined_frames_stand_beside_those_of_their_own_time(run: Path, stride: int) -> None:
    (episode,) = read_episodes(run / "bags" / "episode_0001", CONTRACT)
    found = imagined.moments(session(run, plan_period_s=0.02 * stride), episode, "camera", count=2)
    assert [m.tick for m in found] == [0, (TICKS - stride) // 2]
    for moment in found:
        ahead = stride * np.arange(1, tiny.HORIZON + 1)
        np.testing.assert_allclose(moment.after_s, 0.02 * ahead)
        assert moment.shown[:, 0, 0, 0].tolist() == [shade(moment.tick + a) for a in ahead]
        assert moment.imagined[:, 0, 0, 0].tolist() == [shade(moment.tick) >> h for h in range(tiny.HORIZON)]


def test_of_the_future_no_more_is_shown_than_was_recorded(run: Path) -> None:
    (episode,) = read_episodes(run / "bags" / "episode_0001", CONTRACT)
    (first, last) = imagined.moments(session(run, plan_period_s=0.02 * 19), episode, "camera", count=2)
    assert len(first.after_s) == 2 and len(last.after_s) == 1
    assert imagined.moments(session(run, plan_period_s=0.02 * 41), episode, "camera") == []


def test_the_report_has_the_frames_where_a_controller_imagines_some(run: Path) -> None:
    session(run)
    page = write_report(run, no_film).read_text()
    assert TITLE in page
    data = re.search(r'alt="frames of the camera camera, and imagined ones" src="data:image/png;base64,([^"]+)"', page)
    assert data is not None
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data.group(1)))).convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10


def test_without_imagined_frames_the_report_says_nothing_of_them(run: Path) -> None:
    tiny.looking(run / "controller.onnx", CONTRACT)
    assert TITLE not in write_report(run, no_film).read_text()


def test_a_controller_that_does_not_fit_the_bags_is_told_and_stops_no_report(run: Path) -> None:
    other = with_camera(image={"height": 7, "width": 8})
    tiny.looking(run / "controller.onnx", other, dreams=True)
    page = write_report(run, no_film).read_text()
    assert TITLE in page and "made for another contract" in page


def test_a_grey_camera_is_drawn_grey() -> None:
    frames = np.full((2, 6, 8, 1), 128, np.uint8)
    data = imagined.picture([imagined.Moment(0, np.array([0.02, 0.04]), frames, frames)], 0.02, LIGHT, 6.0)
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert ((pixels == 128).all(axis=-1)).sum() > 100
