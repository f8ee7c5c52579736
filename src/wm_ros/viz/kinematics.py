"""From observation vectors to places in the world, through the MuJoCo model of the contract's robot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.sim.mjcf import load_model

Array = NDArray[np.float64]


@dataclass(frozen=True)
class JointColumn:
    """Where in the observation vector a joint's position stands."""

    joint: str
    position_index: int
    """Index into MuJoCo's `qpos`."""
    velocity_index: int
    """Index into MuJoCo's degrees of freedom."""
    columns: tuple[int, ...]
    """One column, or sine and cosine."""

    def position(self, observation: Array) -> Array:
        """Position of the joint `[...]` out of observations `[..., O]`."""
        if len(self.columns) == 1:
            return observation[..., self.columns[0]]
        sine, cosine = (observation[..., c] for c in self.columns)
        return np.arctan2(sine, cosine)

    def spread(self, observation: Array, spread: Array) -> Array:
        """Standard deviation of the joint's position `[...]` out of the columns' `[..., O]`, to first order."""
        if len(self.columns) == 1:
            return np.abs(spread[..., self.columns[0]])
        first, second = self.columns
        sine, cosine, sine_std, cosine_std = observation[..., first], observation[..., second], spread[..., first], spread[..., second]
        # d atan2(s, c) = (c ds - s dc) / (s^2 + c^2)
        norm = np.maximum(sine**2 + cosine**2, 1e-6)
        return np.hypot(cosine * sine_std, sine * cosine_std) / norm


@dataclass(frozen=True)
class Geometry:
    """One visible geom of the robot or of its world, without its pose."""

    name: str
    kind: str
    """plane, sphere, capsule, ellipsoid, cylinder or box, as in MJCF."""
    size: tuple[float, float, float]
    """MuJoCo's `geom_size`: half sizes, or (radius, half length)."""
    color: tuple[float, float, float, float]
    moves: bool
    """False for what is fixed to the world."""


class Kinematics:
    """Forward kinematics of the contract's robot. One instance per thread: it owns MuJoCo state.

    Joints that the observation does not hold stay where the model has them by default.

    Args:
        contract: names the MJCF and the joints of the observation.
        tracked: site or body whose way is drawn for a plan; empty: the farthest end of the deepest body.
        beside: folder of the contract's file, where its MJCF may be.

    Raises:
        UserError: no MJCF, none of its joints observed, or no site or body called `tracked`.
    """

    def __init__(self, contract: Contract, tracked: str = "", beside: Path | None = None) -> None:
        _, self.model = load_model(contract, beside)
        self._data = mujoco.MjData(self.model)
        self.joints = _observed_joints(contract, self.model)
        self.geometry, self._geoms = _visible(self.model)
        mujoco.mj_kinematics(self.model, self._data)
        self._body, self._offset = self._find_tracked(tracked)

    def configuration(self, observation: Any) -> Array:
        """Observations `[..., O]` to MuJoCo's generalized positions `[..., nq]`."""
        observation = np.asarray(observation, dtype=np.float64)
        positions = np.broadcast_to(self.model.qpos0, (*observation.shape[:-1], self.model.nq)).copy()
        for joint in self.joints:
            positions[..., joint.position_index] = joint.position(observation)
        return positions

    def poses(self, observation: Any) -> tuple[Array, Array]:
        """Where the `geometry` is for one observation `[O]`.

        Returns:
            positions `[G, 3]` in metres and rotation matrices `[G, 3, 3]`, world frame.
        """
        self._place(self.configuration(observation))
        return self._data.geom_xpos[self._geoms].copy(), self._data.geom_xmat[self._geoms].reshape(-1, 3, 3).copy()

    def tracked(self, observation: Any) -> Array:
        """Places of the tracked point `[..., 3]`, world frame, for observations `[..., O]`."""
        positions = self.configuration(observation)
        flat = positions.reshape(-1, self.model.nq)
        points = np.empty((len(flat), 3))
        for i, configuration in enumerate(flat):
            self._place(configuration)
            points[i] = self._point()
        return points.reshape(*positions.shape[:-1], 3)

    def tracked_covariance(self, observation: Any, spread: Any) -> tuple[Array, Array]:
        """The tracked point and its covariance, to first order through the Jacobian.

        Args:
            observation: `[H, O]`.
            spread: standard deviations of the same columns `[H, O]`.

        Returns:
            places `[H, 3]` and covariances `[H, 3, 3]`.
        """
        observation, spread = np.asarray(observation, dtype=np.float64), np.asarray(spread, dtype=np.float64)
        positions = self.configuration(observation)
        points, covariances = np.empty((len(positions), 3)), np.empty((len(positions), 3, 3))
        jacobian = np.empty((3, self.model.nv))
        for i, configuration in enumerate(positions):
            self._place(configuration)
            mujoco.mj_comPos(self.model, self._data)
            points[i] = self._point()
            mujoco.mj_jac(self.model, self._data, jacobian, None, points[i], self._body)
            variance = np.zeros(self.model.nv)
            for joint in self.joints:
                variance[joint.velocity_index] = joint.spread(observation[i], spread[i]) ** 2
            covariances[i] = (jacobian * variance) @ jacobian.T
        return points, covariances

    def _place(self, configuration: Array) -> None:
        self._data.qpos[:] = configuration
        mujoco.mj_kinematics(self.model, self._data)

    def _point(self) -> Array:
        return self._data.xpos[self._body] + self._data.xmat[self._body].reshape(3, 3) @ self._offset

    def _find_tracked(self, name: str) -> tuple[int, Array]:
        """Body and offset `[3]` in its frame of the point to follow."""
        model = self.model
        if name:
            site = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, name)
            if site >= 0:
                return int(model.site_bodyid[site]), model.site_pos[site].copy()
            body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
            if body >= 0:
                return body, np.zeros(3)
            raise UserError(f"parameter tracked: the MJCF has no site or body {name!r}: name one of it, or leave the parameter empty")
        depths = np.zeros(model.nbody, dtype=int)
        for body in range(1, model.nbody):
            depths[body] = depths[model.body_parentid[body]] + 1
        # Of equally deep bodies the last one: the end of the last limb.
        deepest = int(np.flatnonzero(depths == depths.max())[-1])
        ends = [end for geom in np.flatnonzero(model.geom_bodyid == deepest) for end in _ends(model, int(geom))]
        # Exact ties (a symmetric body) go to the end with the larger coordinates, so that the choice does not hang on rounding.
        best = max(ends, key=lambda end: (round(float(np.linalg.norm(end)), 9), *end.tolist()), default=np.zeros(3))
        return deepest, best


def _observed_joints(contract: Contract, model: Any) -> tuple[JointColumn, ...]:
    columns = {name: i for i, name in enumerate(contract.observation_names)}
    found = []
    for channel in contract.observation:
        for feature in channel.features:
            if feature.joint is None or feature.field != "position":
                continue
            joint = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, feature.joint)
            if joint < 0 or mujoco.mjtJoint(model.jnt_type[joint]) not in (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE):
                continue
            where = tuple(columns[c] for c in feature.columns)
            found.append(JointColumn(feature.joint, int(model.jnt_qposadr[joint]), int(model.jnt_dofadr[joint]), where))
    if not found:
        names = [model.joint(i).name for i in range(model.njnt)]
        raise UserError(
            f"contract {contract.name}: no observed joint position is a hinge or slide joint of the MJCF (its joints: {', '.join(names)}): "
            "give the joints the same names"
        )
    return tuple(found)


_KINDS = ("plane", "sphere", "capsule", "ellipsoid", "cylinder", "box")


def _visible(model: Any) -> tuple[tuple[Geometry, ...], NDArray[np.int64]]:
    """What can be drawn with plain shapes: meshes, height fields and invisible groups are left out."""
    geometry, geoms = [], []
    for i in range(model.ngeom):
        kind = mujoco.mjtGeom(model.geom_type[i]).name.removeprefix("mjGEOM_").lower()
        material = model.geom_matid[i]
        color = model.mat_rgba[material] if material >= 0 else model.geom_rgba[i]
        if kind not in _KINDS or model.geom_group[i] > 2 or color[3] == 0:
            continue
        a, b, c = model.geom_size[i].tolist()
        red, green, blue, alpha = color.tolist()
        moves = bool(model.body_weldid[model.geom_bodyid[i]])
        geometry.append(Geometry(model.geom(i).name or f"geom_{i}", kind, (a, b, c), (red, green, blue, alpha), moves))
        geoms.append(i)
    return tuple(geometry), np.array(geoms, dtype=np.int64)


def _ends(model: Any, geom: int) -> list[Array]:
    """Outermost points `[3]` of a geom's axes, in the frame of its body."""
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
    axes, size = rotation.reshape(3, 3), model.geom_size[geom]
    kind = mujoco.mjtGeom(model.geom_type[geom])
    if kind in (mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_CYLINDER):
        # The middle of the cap, not the skin: a pole's tip is where its length ends.
        reach = [size[1] * axes[:, 2]]
    elif kind in (mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_ELLIPSOID):
        reach = [size[i] * axes[:, i] for i in range(3)]
    else:
        reach = [np.zeros(3)]
    return [model.geom_pos[geom] + sign * r for r in reach for sign in (1.0, -1.0)]
