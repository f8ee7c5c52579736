"""The contract's cameras on the simulated robot: what they show, when, and what is said where they cannot."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import psutil
import pytest
from gl import pictures_or_skip
from numpy.typing import NDArray

from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.sim import render, world
from wm_ros.sim.camera import Camera
from wm_ros.sim.cameras import Cameras
from wm_ros.sim.episode import reset_seed, run_episode
from wm_ros.sim.fleet import Fleet
from wm_ros.sim.simulator import Simulator

PIXELS = schema.load("cartpole_balance_pixels")


def changed(duration_s: float = 10.0, cameras: Any = None, **front: Any) -> Contract:
    """The shipped contract with other pictures."""
    data = PIXELS.model_dump(mode="json")
    data["episode"]["duration_s"] = duration_s
    data["observation"][1] |= {"image": {"height": 24, "width": 32, "encoding": "rgb8"}, **front}
    data["simulator"]["cameras"] = {"front": {"camera": "fixed"}} if cameras is None else cameras
    return schema.parse(data, "test")


def push(observation: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.array([8.0], np.float32)


def test_a_picture_is_as_large_as_the_contract_says_and_follows_the_robot() -> None:
    pictures_or_skip()
    robot = world.make(PIXELS)
    robot.reset(reset_seed(0, 1))
    before = robot.images()["front"]
    for _ in range(20):
        robot.step(push(np.zeros(5, np.float32)))
    after = robot.images()["front"]
    assert before.shape == (64, 64, 3) and before.dtype == np.uint8 and np.ptp(before) > 50
    assert np.abs(before.astype(int) - after).max() > 50


def test_grey_pictures_come_to_a_contract_that_wants_them() -> None:
    pictures_or_skip()
    robot = world.make(changed(image={"height": 10, "width": 12, "encoding": "mono8"}))
    robot.reset(reset_seed(0, 1))
    assert robot.images()["front"].shape == (10, 12, 1)


def test_a_slower_camera_shows_the_same_until_its_next_picture_is_due() -> None:
    pictures_or_skip()
    every = changed(cameras={"front": {"camera": "fixed", "every": 3}})
    slow, fast = (run_episode(Simulator(c), push, 7).images["front"] for c in (every, changed()))
    np.testing.assert_array_equal(np.asarray(slow), np.asarray(fast)[[0, 0, 0, 3, 3, 3, 6, 6]])
    assert (np.asarray(fast)[0] != np.asarray(fast)[6]).any()


def test_worlds_side_by_side_show_what_each_shows_alone_and_go_on_as_they_were() -> None:
    pictures_or_skip()
    contract = changed(duration_s=0.1)
    drives = Fleet([world.make(contract) for _ in range(2)], seed=3)
    first = drives.images["front"]
    ticks = [drives.step(np.full((2, 1), 8.0, np.float32)) for _ in range(7)]
    for i in range(2):
        alone = np.asarray(run_episode(Simulator(contract), push, seed=3, resets=1 + i).images["front"])
        np.testing.assert_array_equal(first[i], alone[0])
        np.testing.assert_array_equal(np.stack([t.next_images["front"][i] for t in ticks[:5]]), alone[1:])
    copy = Fleet([world.make(contract) for _ in range(2)], seed=3)
    copy.restore(drives.state())
    np.testing.assert_array_equal(copy.images["front"], drives.images["front"])


def test_without_gl_the_channel_and_the_remedy_are_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "BACKENDS", ("no_such_backend",))
    cameras = Cameras(PIXELS)
    with pytest.raises(UserError, match=r"observation\.front: no pictures of cartpole\.xml: .*install libegl1") as caught:
        cameras.warm_up(np.zeros(2))
    assert "\n" not in str(caught.value)


def test_no_process_of_a_camera_outlives_it() -> None:
    pictures_or_skip()
    camera = Camera(PIXELS, channel="front", width=8, height=8)
    camera.draw(np.zeros(2))
    assert camera._process is not None
    process = psutil.Process(camera._process.pid)
    del camera
    gc.collect()
    assert not process.is_running()


@pytest.mark.parametrize(
    ("cameras", "said"),
    [
        ({}, r"simulator\.cameras: nothing stands in for the camera observation\.front: add front: \{camera: NAME\} .* has fixed, follow"),
        ({"front": {"camera": "left"}}, r"simulator\.cameras\.front\.camera: .* no camera 'left'; it has fixed, follow"),
    ],
)
def test_a_camera_without_a_stand_in_is_named(cameras: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        world.make(changed(cameras=cameras))


@pytest.mark.parametrize(
    ("cameras", "said"),
    [
        ({"rear": {"camera": "fixed"}}, r"simulator.cameras: 'rear' is no image channel of the observation; there are \['front'\]"),
        ({"front": {"camera": "fixed", "every": 7}}, r"simulator.cameras.front.every: a picture gets 0.12 s old, and at most 0.1 s"),
        ({"front": {"camera": "fixed", "every": 0}}, "simulator.cameras.front.every"),
    ],
)
def test_stand_ins_that_cannot_serve_are_refused_by_the_contract(cameras: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        changed(cameras=cameras)


@pytest.mark.parametrize(
    ("front", "said"),
    [
        ({"type": "sensor_msgs/msg/CompressedImage"}, "cannot stand in for sensor_msgs/msg/CompressedImage"),
        ({"clock": "receive"}, r"observation\.front\.clock: a simulated camera stamps its pictures: set clock: header"),
    ],
)
def test_a_camera_that_the_simulator_cannot_be_is_refused(front: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        world.make(changed(**front))


def test_contracts_without_simulated_cameras_keep_their_hash() -> None:
    assert "cameras" not in schema.load("cartpole_swingup").canonical_json()
