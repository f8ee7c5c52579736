"""Marks of the robot and of its plans, against closed forms of the cart-pole and MuJoCo's own matrices."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from wm_ros.contract import resources, schema
from wm_ros.contract.errors import UserError
from wm_ros.viz import markers
from wm_ros.viz.kinematics import Kinematics


@pytest.fixture(scope="module")
def contract() -> schema.Contract:
    return schema.load("cartpole_swingup")


@pytest.fixture(scope="module")
def kinematics(contract: schema.Contract) -> Kinematics:
    return Kinematics(contract)


def observed(cart: float, angle: float) -> list[float]:
    """An observation of the cart-pole at rest."""
    return [cart, math.sin(angle), math.cos(angle), 0.0, 0.0]


def quaternion_matrix(q: tuple[float, float, float, float]) -> np.ndarray:
    x, y, z, w = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@pytest.mark.parametrize(("cart", "angle"), [(0.0, 0.0), (-1.2, 0.7), (0.4, math.pi), (1.0, -2.5)])
def test_tracked_point_is_the_tip_of_the_pole(kinematics: Kinematics, cart: float, angle: float) -> None:
    expected = [cart + math.sin(angle), 0.0, 1.0 + math.cos(angle)]
    np.testing.assert_allclose(kinematics.tracked(observed(cart, angle)), expected, atol=1e-6)


def test_tracked_point_can_be_a_body_of_the_users_choice(contract: schema.Contract) -> None:
    np.testing.assert_allclose(Kinematics(contract, "cart").tracked(observed(0.3, 1.0)), [0.3, 0.0, 1.0], atol=1e-6)
    with pytest.raises(UserError, match="no site or body 'elbow'"):
        Kinematics(contract, "elbow")


def test_robot_marks_move_with_the_joints_and_the_world_stays(kinematics: Kinematics) -> None:
    before, after = (markers.robot(kinematics, observed(cart, 0.5)) for cart in (0.0, 1.0))
    assert [(m.namespace, m.id, m.kind) for m in before] == [(m.namespace, m.id, m.kind) for m in after]
    assert len({m.id for m in before}) == len(before)
    for a, b in zip(before, after, strict=True):
        moved = 1.0 if a.namespace == "robot" else 0.0
        np.testing.assert_allclose(np.subtract(b.position, a.position), [moved, 0, 0], atol=1e-6)
    cart = next(m for m in before if m.kind == "cube" and m.namespace == "robot")
    np.testing.assert_allclose(cart.scale, (0.4, 0.3, 0.2))


def test_capsule_is_a_barrel_with_two_balls_at_its_ends(kinematics: Kinematics) -> None:
    angle = 0.9
    marks = [m for m in markers.robot(kinematics, observed(0.2, angle)) if m.namespace == "robot"]
    barrel = next(m for m in marks if m.kind == "cylinder" and math.isclose(m.scale[2], 1.0, abs_tol=1e-6))
    balls = [m for m in marks if m.kind == "sphere" and m.scale[0] == barrel.scale[0]]  # not the larger marker at the pole's end
    ends = sorted(m.position[2] for m in balls)
    np.testing.assert_allclose(ends, [1.0, 1.0 + math.cos(angle)], atol=1e-6)
    axis = quaternion_matrix(barrel.quaternion)[:, 2]
    np.testing.assert_allclose(np.abs(axis), np.abs([math.sin(angle), 0, math.cos(angle)]), atol=1e-6)


def test_better_candidates_are_brighter_and_nan_ones_are_left_out(kinematics: Kinematics) -> None:
    horizon = 90
    candidates = np.array([[observed(0.01 * t * k, 3.0) for t in range(horizon)] for k in range(4)])
    candidates[3, 5, 0] = np.nan
    marks = markers.candidates(kinematics, candidates, [5.0, 9.0, -1e9, 0.0])
    assert [m.id for m in marks] == [0, 1, 2]
    alphas = [m.color[3] for m in marks]
    assert alphas[1] > alphas[0] > alphas[2]
    assert all(m.points is not None and len(m.points) <= markers.MAX_POINTS for m in marks)
    with pytest.raises(ValueError, match="4 candidates, 3 returns"):
        markers.candidates(kinematics, candidates, [1.0, 2.0, 3.0])


def test_spread_ellipsoid_has_the_axes_of_the_pushed_forward_deviations(kinematics: Kinematics) -> None:
    """Upright pole: the cart's and the angle's deviations both move the tip along x."""
    angle_std, cart_std = 0.03, 0.04
    plan = np.array([observed(0.0, 0.0)])
    marks = markers.spread(kinematics, plan, np.array([[cart_std, angle_std, 0.5, 9.0, 9.0]]))
    assert len(marks) == 1
    rotation, sizes = quaternion_matrix(marks[0].quaternion), np.array(marks[0].scale)
    largest = int(sizes.argmax())
    np.testing.assert_allclose(sizes[largest], 2 * markers.SIGMAS * math.hypot(cart_std, angle_std), rtol=1e-3)
    np.testing.assert_allclose(np.abs(rotation[:, largest]), [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(np.delete(sizes, largest), markers.MIN_AXIS_M)


def test_covariance_agrees_with_sampling(kinematics: Kinematics) -> None:
    generator = np.random.default_rng(0)
    angle, deviations = 2.0, np.array([0.02, 0.01, 0.01, 0.0, 0.0])
    point, covariance = kinematics.tracked_covariance(np.array([observed(0.1, angle)]), deviations[None])
    samples = kinematics.tracked(np.array(observed(0.1, angle)) + generator.normal(size=(4000, 5)) * deviations)
    np.testing.assert_allclose(point[0], samples.mean(axis=0), atol=2e-3)
    np.testing.assert_allclose(covariance[0], np.cov(samples.T), atol=4e-5)


def test_any_mjcf_becomes_marks_and_unobserved_robots_are_refused(tmp_path: Path) -> None:
    (tmp_path / "arm.xml").write_text(
        """<mujoco><worldbody><geom type="plane" size="0 0 1"/>
        <body pos="0 0 1"><joint name="a" axis="0 1 0"/><geom type="ellipsoid" size="0.1 0.2 0.3"/>
        <body pos="1 0 0"><joint name="b" axis="0 1 0"/><geom type="sphere" size="0.1"/><geom type="sphere" size="0.5" rgba="0 0 0 0"/>
        <site name="hand" pos="0 0 -1"/></body></body></worldbody>
        <actuator><motor joint="a"/></actuator></mujoco>"""
    )
    data = yaml.safe_load(resources.find("config/contracts", "cartpole_swingup", ".yaml").read_text())
    data["observation"][0]["features"] = [{"joint": name, "field": "position", "units": "rad"} for name in "ab"]
    data["simulator"] = {"mjcf": "arm.xml", "actuators": {"slider": {"actuator": "a"}}}
    contract = schema.parse(data, "arm")
    arm = Kinematics(contract, "hand", tmp_path)
    kinds = [(m.namespace, m.kind) for m in markers.robot(arm, [0.0, 0.0])]
    assert kinds == [("world", "cube"), ("robot", "sphere"), ("robot", "sphere")]
    np.testing.assert_allclose(
        arm.tracked([[0.0, 0.0], [0.0, math.pi / 2], [math.pi / 2, 0.0]]), [[1, 0, 0], [0, 0, 1], [-1, 0, 0]], atol=1e-6
    )

    data["observation"][0]["features"] = [{"joint": "wheel", "field": "position", "units": "rad"}]
    with pytest.raises(UserError, match="its joints: a, b"):
        Kinematics(schema.parse(data, "arm"), "", tmp_path)
