"""Marks for a 3-D viewer as plain data: the robot, the plan, its rivals and its doubts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from wm_ros.viz.kinematics import Geometry, Kinematics

Array = NDArray[np.float64]
Color = tuple[float, float, float, float]

FRAME = "world"
IDENTITY = (0.0, 0.0, 0.0, 1.0)
MAX_CANDIDATES = 24
"""More lines than that are a cloud, and cost the robot's computer time."""
MAX_POINTS = 40
"""Points of one candidate's line."""
ELLIPSOIDS = 10
SIGMAS = 2.0
"""An ellipsoid spans this many standard deviations to each side."""
MIN_AXIS_M = 0.004
"""Ellipsoids that the model is sure of stay visible, and no viewer likes an axis of zero."""
INFINITE_PLANE_M = 10.0
PLANE_THICKNESS_M = 0.002


@dataclass(frozen=True)
class Marker:
    """One mark in the frame `world`."""

    namespace: str
    id: int
    kind: str
    """cube, sphere, cylinder or line_strip."""
    color: Color
    """Red, green, blue, alpha in [0, 1]."""
    scale: tuple[float, float, float]
    """Full sizes in metres along the mark's own axes; a line_strip's width is the first."""
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    quaternion: tuple[float, float, float, float] = IDENTITY
    """x, y, z, w."""
    points: Array | None = None
    """`[N, 3]` of a line_strip, in metres."""


def robot(kinematics: Kinematics, observation: Any) -> list[Marker]:
    """The robot and its world as one observation `[O]` has them."""
    positions, rotations = kinematics.poses(observation)
    marks: list[Marker] = []
    for geometry, position, rotation in zip(kinematics.geometry, positions, rotations, strict=True):
        marks += _shapes(geometry, position, rotation, len(marks))
    return marks


def candidates(kinematics: Kinematics, observations: Any, returns: Any | None = None) -> list[Marker]:
    """Candidate plans as lines of the tracked point, shaded from poor to good by their return.

    Args:
        kinematics: of the robot.
        observations: `[K, H, O]`.
        returns: `[K]`; without them all are shaded alike.
    """
    observations = np.asarray(observations, dtype=np.float64)[:MAX_CANDIDATES]
    shades = np.full(len(observations), 0.5) if returns is None else _ranks(np.asarray(returns, dtype=np.float64)[:MAX_CANDIDATES])
    if len(shades) != len(observations):
        raise ValueError(f"{len(observations)} candidates, {len(shades)} returns")
    marks = []
    stride = max(1, -(-observations.shape[1] // MAX_POINTS))
    for i, (imagined, shade) in enumerate(zip(observations, shades, strict=True)):
        if not np.isfinite(imagined).all():
            continue
        points = kinematics.tracked(imagined[::stride])
        marks.append(Marker("candidates", i, "line_strip", shaded(float(shade)), (0.006 + 0.006 * float(shade), 0.0, 0.0), points=points))
    return marks


def plan(kinematics: Kinematics, observations: Any) -> Array:
    """The way of the tracked point under the plan: `[H, O]` to `[H', 3]`, places that are not finite left out."""
    points = kinematics.tracked(observations)
    return points[np.isfinite(points).all(axis=-1)]


def plan_line(points: Array) -> Marker:
    """The plan's way `[H, 3]` as a mark, for viewers without a path display."""
    return Marker("plan", 0, "line_strip", (1.0, 1.0, 1.0, 0.95), (0.018, 0.0, 0.0), points=points)


def spread(kinematics: Kinematics, observations: Any, deviations: Any) -> list[Marker]:
    """What the ensemble does not agree on, as ellipsoids of two standard deviations along the plan.

    Args:
        kinematics: of the robot.
        observations: the plan `[H, O]`.
        deviations: standard deviations over the members `[H, O]`.
    """
    observations, deviations = np.asarray(observations, dtype=np.float64), np.asarray(deviations, dtype=np.float64)
    if observations.shape != deviations.shape:
        raise ValueError(f"plan {observations.shape} and spread {deviations.shape} differ")
    rows = np.unique(np.linspace(0, len(observations) - 1, ELLIPSOIDS).round().astype(int))
    points, covariances = kinematics.tracked_covariance(observations[rows], deviations[rows])
    marks = []
    for i, (point, covariance) in enumerate(zip(points, covariances, strict=True)):
        if not (np.isfinite(point).all() and np.isfinite(covariance).all()):
            continue
        variances, axes = np.linalg.eigh(covariance)
        if np.linalg.det(axes) < 0:
            axes[:, 0] *= -1
        sizes = np.maximum(2 * SIGMAS * np.sqrt(np.maximum(variances, 0.0)), MIN_AXIS_M)
        marks.append(Marker("spread", i, "sphere", (0.72, 0.45, 0.95, 0.28), _triple(sizes), _triple(point), _quaternion(axes)))
    return marks


def shaded(share: float) -> Color:
    """Color of a candidate: dim blue at 0 (worst), bright amber at 1 (best)."""
    low, high = np.array([0.20, 0.36, 0.62, 0.25]), np.array([1.0, 0.78, 0.22, 0.9])
    red, green, blue, alpha = (low + (high - low) * share).tolist()
    return red, green, blue, alpha


def _ranks(returns: Array) -> Array:
    """Shares in [0, 1] by rank, so that one terrible candidate does not turn all others the same shade."""
    order = np.argsort(np.argsort(np.where(np.isfinite(returns), returns, -np.inf), kind="stable"), kind="stable")
    return order / max(1, len(returns) - 1)


def _shapes(geometry: Geometry, position: Array, rotation: Array, first: int) -> list[Marker]:
    """One geom as marks: a capsule takes three, everything else one."""
    a, b, c = geometry.size
    name = "robot" if geometry.moves else "world"

    def mark(kind: str, scale: tuple[float, float, float], place: Array, number: int) -> Marker:
        return Marker(name, first + number, kind, geometry.color, scale, _triple(place), _quaternion(rotation))

    if geometry.kind == "box":
        return [mark("cube", (2 * a, 2 * b, 2 * c), position, 0)]
    if geometry.kind == "plane":
        size = (2 * a or INFINITE_PLANE_M, 2 * b or INFINITE_PLANE_M, PLANE_THICKNESS_M)
        return [mark("cube", size, position - rotation[:, 2] * PLANE_THICKNESS_M / 2, 0)]
    if geometry.kind == "sphere":
        return [mark("sphere", (2 * a, 2 * a, 2 * a), position, 0)]
    if geometry.kind == "ellipsoid":
        return [mark("sphere", (2 * a, 2 * b, 2 * c), position, 0)]
    barrel = mark("cylinder", (2 * a, 2 * a, 2 * b), position, 0)
    if geometry.kind == "cylinder":
        return [barrel]
    ball = (2 * a, 2 * a, 2 * a)
    return [barrel, mark("sphere", ball, position + rotation[:, 2] * b, 1), mark("sphere", ball, position - rotation[:, 2] * b, 2)]


def _triple(values: Array) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _quaternion(rotation: Array) -> tuple[float, float, float, float]:
    """Rotation matrix `[3, 3]` to x, y, z, w."""
    wxyz = np.empty(4)
    mujoco.mju_mat2Quat(wxyz, np.ascontiguousarray(rotation).reshape(9))
    w, x, y, z = (float(v) for v in wxyz)
    return x, y, z, w
