"""The MuJoCo stand-in for a robot: commands and readings by joint name, frames and control ticks, without ROS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract, Start
from wm_ros.contract.schema import Simulator as Settings
from wm_ros.sim.mjcf import load_model

_MOVING = (int(mujoco.mjtJoint.mjJNT_SLIDE), int(mujoco.mjtJoint.mjJNT_HINGE))
_BAD_STATE = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)


@dataclass(frozen=True)
class Joints:
    """What the joint sensors read at one moment. J joints, in the order of the MJCF."""

    names: tuple[str, ...]
    position: NDArray[np.float64]
    """[J], m or rad."""
    velocity: NDArray[np.float64]
    """[J], m/s or rad/s."""
    effort: NDArray[np.float64]
    """[J], the actuators' force or torque over the last frame, N or N m."""


class Simulator:
    """One simulated robot.

    A *frame* is one MuJoCo step; a *tick* is one control period of a whole number of frames. Like a real actuator it falls back to
    the contract's hold when no command has come for `safety.command_timeout_s` of simulated time; it also holds from a reset to the
    first command.
    """

    def __init__(self, contract: Contract, beside: Path | None = None) -> None:
        """Loads the contract's MJCF.

        Args:
            contract: names the MJCF, its actuators and the start distribution.
            beside: the contract's folder, searched before the shipped `sim/` folder.

        Raises:
            UserError: the contract has no simulator, or its MJCF does not fit it.
        """
        self.contract = contract
        self.beside = beside
        settings, self.model = load_model(contract, beside)
        # MuJoCo's own handler writes MUJOCO_LOG.TXT into the working directory; `fault` says the same.
        mujoco.set_mju_user_warning(lambda text: None)
        # A diverged state shall stay visible: MuJoCo would silently start again from the default pose.
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        self.data = mujoco.MjData(self.model)
        self.frame_s = float(self.model.opt.timestep)
        self.frames_per_tick = _frames_per_tick(contract, self.frame_s, settings.mjcf)

        moving = [j for j in range(self.model.njnt) if int(self.model.jnt_type[j]) in _MOVING]
        self.joint_names = tuple(self.model.joint(j).name for j in moving)
        self.position_at = self.model.jnt_qposadr[moving]
        """Where the joints stand in qpos, [J]."""
        self.velocity_at = self.model.jnt_dofadr[moving]
        """Where they stand in qvel, [J]."""

        actuators = [_actuator(self.model, settings, name) for name in contract.action.names]
        self.control_at = np.array(actuators, dtype=np.intp)
        """Where the action's joints stand in ctrl, [A]."""
        self.scale = np.array([settings.actuators[name].scale for name in contract.action.names])
        """Contract units per unit of control, [A]."""
        self._hold_joints = (
            [self._joint_index(name, "action.joints", settings.mjcf) for name in contract.action.names]
            if contract.safety.hold == "last_position"
            else []
        )
        self._start_position = self._starts(settings.start_position, "simulator.start_position", settings.mjcf)
        self._start_velocity = self._starts(settings.start_velocity, "simulator.start_velocity", settings.mjcf)

        # The last frame that a command still drives: a timeout of 40 ms covers four frames of 10 ms.
        self.timeout_frames = max(1, round(contract.safety.command_timeout_s / self.frame_s))
        self._command_age: int | None = None
        self.holds = 0
        """How often a command has run out and hold took over."""
        self.fault: str | None = None
        """Why the simulation cannot go on before a reset; None while it is sound."""
        self._at_start()

    # ---- state ----------------------------------------------------------------------------------------------------

    def reset(self, seed: np.random.SeedSequence) -> None:
        """Puts the robot into a new start state, drawn from the contract's distributions."""
        random = np.random.default_rng(seed)
        mujoco.mj_resetData(self.model, self.data)
        for address, start in self._start_position:
            self.data.qpos[address] = random.normal(start.mean, start.std)
        for address, start in self._start_velocity:
            self.data.qvel[address] = random.normal(start.mean, start.std)
        self._at_start()

    def set_state(self, position: dict[str, float], velocity: dict[str, float]) -> None:
        """Puts the robot into a given state; joints not named go to the model's default."""
        mujoco.mj_resetData(self.model, self.data)
        for values, array, addresses in ((position, self.data.qpos, self.position_at), (velocity, self.data.qvel, self.velocity_at)):
            for name, value in values.items():
                array[addresses[self._joint_index(name, "state", "the model")]] = value
        self._at_start()

    def _at_start(self) -> None:
        self.fault = None
        self._command_age = None
        self._hold()
        mujoco.mj_forward(self.model, self.data)

    def joints(self) -> Joints:
        """The joints' present readings."""
        return Joints(
            self.joint_names,
            self.data.qpos[self.position_at],
            self.data.qvel[self.velocity_at],
            self.data.qfrc_actuator[self.velocity_at],
        )

    @property
    def time_s(self) -> float:
        """Simulated seconds since the reset."""
        return float(self.data.time)

    @property
    def holding(self) -> bool:
        """True while no command is in force."""
        return self._command_age is None

    # ---- commands -------------------------------------------------------------------------------------------------

    def command(self, action: NDArray[Any]) -> None:
        """Takes a command, in force from the next frame on.

        Args:
            action: [A] in contract units and in the contract's order, finite (`contract.commands` reads messages).
        """
        self.data.ctrl[self.control_at] = np.asarray(action, dtype=np.float64) / self.scale
        self._command_age = 0

    def _hold(self) -> None:
        hold = self.contract.safety.hold
        if hold == "zero":
            action = np.zeros(len(self.scale))
        elif hold == "last_position":
            action = self.data.qpos[self.position_at][self._hold_joints]
        else:
            action = np.array([hold[name] for name in self.contract.action.names])
        self.data.ctrl[self.control_at] = action / self.scale

    # ---- stepping -------------------------------------------------------------------------------------------------

    def step_frame(self) -> None:
        """One MuJoCo step. Does nothing once there is a `fault`."""
        if self.fault is not None:
            return
        if self._command_age is not None:
            if self._command_age >= self.timeout_frames:
                self._command_age = None
                self.holds += 1
                self._hold()
            else:
                self._command_age += 1
        mujoco.mj_step(self.model, self.data)
        if any(self.data.warning[w].number for w in _BAD_STATE) or not np.isfinite(self.data.qpos).all():
            self.fault = f"the simulation became unstable after {self.data.time:.3f} s: smaller commands, or a smaller timestep in the MJCF"

    def step_tick(self) -> None:
        """One control period."""
        for _ in range(self.frames_per_tick):
            self.step_frame()

    # ---- names ----------------------------------------------------------------------------------------------------

    def _joint_index(self, name: str, field: str, mjcf: str) -> int:
        if name not in self.joint_names:
            raise UserError(f"contract: {field}: {mjcf} has no sliding or hinge joint {name!r}; it has {', '.join(self.joint_names)}")
        return self.joint_names.index(name)

    def _starts(self, starts: dict[str, Start], field: str, mjcf: str) -> list[tuple[int, Start]]:
        # Sorted, so that the draws do not depend on the order in the contract's text.
        addresses = self.position_at if field.endswith("position") else self.velocity_at
        return [(int(addresses[self._joint_index(name, field, mjcf)]), starts[name]) for name in sorted(starts)]


def _frames_per_tick(contract: Contract, frame_s: float, mjcf: str) -> int:
    ratio = contract.control.period_s / frame_s
    if round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-6:
        raise UserError(
            f"contract: control.rate_hz: a period of {contract.control.period_s:g} s is no whole number of frames of {frame_s:g} s: "
            f"change the rate, or the timestep in {mjcf}"
        )
    return round(ratio)


def _actuator(model: Any, settings: Settings, joint: str) -> int:
    name = settings.actuators[joint].actuator
    index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_ACTUATOR, name)
    if index < 0:
        there = ", ".join(model.actuator(i).name for i in range(model.nu)) or "none"
        raise UserError(f"contract: simulator.actuators.{joint}: {settings.mjcf} has no actuator {name!r}; it has {there}")
    return int(index)
