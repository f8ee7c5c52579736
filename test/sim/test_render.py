"""Pictures, where there is a GL library; without one a message that says which to install."""

import numpy as np
import pytest

from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.sim import render
from wm_ros.sim.camera import Camera

CONTRACT = schema.load("cartpole_swingup")


def test_pictures_show_the_pose() -> None:
    poses = {"slider": np.array([0.0, 0.0, 0.8]), "hinge_1": np.array([0.0, 1.0, 0.0])}
    try:
        pictures = render.render_frames(CONTRACT, poses, width=160, height=120)
    except UserError as error:
        pytest.skip(str(error))
    assert pictures.shape == (3, 120, 160, 3) and pictures.dtype == np.uint8
    orange = (pictures[..., 0] > 150) & (pictures[..., 2] < 110)
    columns = [np.nonzero(o)[1].mean() for o in orange]
    # Upright in the middle; tilted towards +x; upright, but to the right.
    assert columns[0] == pytest.approx(80, abs=3) and columns[1] > columns[0] + 3 and columns[2] > columns[0] + 10


def test_without_gl_one_message_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "BACKENDS", ("no_such_backend",))
    with pytest.raises(UserError, match=r"no pictures of cartpole\.xml: no_such_backend: .*install libegl1") as caught:
        render.render_frames(CONTRACT, {"slider": np.zeros(1)})
    assert "\n" not in str(caught.value)


def test_a_joint_or_camera_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="no joint wheel to draw; it has slider, hinge_1"):
        render.render_frames(CONTRACT, {"wheel": np.zeros(1)})
    assert CONTRACT.simulator is not None
    blind = CONTRACT.model_copy(update={"simulator": CONTRACT.simulator.model_copy(update={"camera": "left"})})
    with pytest.raises(UserError, match=r"simulator\.camera: .* no camera 'left'; it has fixed, follow"):
        render.render_frames(blind, {"slider": np.zeros(1)})


def test_a_camera_draws_pose_after_pose_and_none_once_closed() -> None:
    camera = Camera(CONTRACT, width=160, height=120)
    try:
        upright, tilted, again = (camera.draw(np.array([0.0, angle])) for angle in (0.0, 1.0, 0.0))
    except UserError as error:
        pytest.skip(str(error))
    finally:
        camera.close()
    assert upright is not None and tilted is not None and again is not None
    assert upright.shape == (120, 160, 3) and np.abs(upright.astype(int) - tilted).max() > 50
    np.testing.assert_array_equal(upright, again)
    assert camera.draw(np.zeros(2)) is None


def test_a_camera_without_gl_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "BACKENDS", ("no_such_backend",))
    with pytest.raises(UserError, match=r"no_such_backend: .*install libegl1"):
        Camera(CONTRACT).draw(np.zeros(2))
