"""What of a bag is drawn: a bounded number of points, spread evenly, on the robot's time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from camera_bags import every, raw_image, scene, with_camera, write_with_camera
from cartpole_bags import PERIOD, START, contract, write_cartpole

from wm_ros.data.bag_reader import Bag
from wm_ros.data.bag_writer import BagOptions
from wm_ros.data.recording import read_recording
from wm_ros.viz import bag_view


@pytest.mark.parametrize(("most", "step"), [(1000, 1), (150, 2), (60, 4), (7, 32)])
def test_of_a_long_bag_every_so_many_messages_are_kept_and_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, step: int
) -> None:
    monkeypatch.setattr(bag_view, "_MAX_POINTS", most)
    bag = Bag(write_cartpole(tmp_path / "bag", 200, options=BagOptions(chunk_bytes=3000)))
    whole = read_recording(bag, contract()).channels["joints"]
    kept = bag_view._samples(bag, contract(), "")["joints"]
    rows = np.unique([*range(0, 201, step), 200])
    assert kept.stamp.tolist() == (START + PERIOD * rows).tolist()
    np.testing.assert_array_equal(kept.raw, whole.raw[rows])


def test_of_a_camera_the_place_of_every_frame_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bag_view, "_MAX_POINTS", 5)
    pictures = every(40, lambda k, stamp: raw_image(scene(k), stamp=stamp))
    bag = Bag(write_with_camera(tmp_path / "bag", 40, with_camera(), pictures, options=BagOptions(chunk_bytes=9000)))
    kept = bag_view._samples(bag, with_camera(), "")["camera"]
    assert kept.images is not None and len(kept) == len(kept.images.where) == 21
    assert np.diff(kept.stamp).tolist() == [2 * PERIOD] * 20


def test_a_channel_without_messages_has_an_empty_row(tmp_path: Path) -> None:
    bag = Bag(write_cartpole(tmp_path / "bag", 20, skip_command=frozenset(range(20))))
    bag_view.draw(bag, contract(), tmp_path / "bag.png")
    assert (tmp_path / "bag.png").read_bytes().startswith(b"\x89PNG")
