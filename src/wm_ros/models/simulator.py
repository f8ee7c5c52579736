"""The true MuJoCo simulator as a world model: perfect dynamics for any planner."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np
import torch
from mujoco.rollout import Rollout
from numpy.typing import NDArray
from torch import Tensor

from wm_ros.contract.errors import UserError
from wm_ros.contract.functions import reward_function, termination_function
from wm_ros.contract.schema import Contract, Feature
from wm_ros.models.world_model import Imagined, Step
from wm_ros.sim.mjcf import find_mjcf
from wm_ros.sim.sensors import check_channels
from wm_ros.sim.simulator import Simulator

_MAX = 1e10  # mjMAXVAL: MuJoCo calls a state, an acceleration or a control beyond it bad


class _Reading(NamedTuple):
    """Where one feature is read."""

    feature: Feature
    at: int
    """Column of MuJoCo's state for a position or a velocity, of its sensor data for an effort."""


class _Ticks(NamedTuple):
    """B rollouts of T control ticks, one frame's worth of reward arguments each."""

    before: Tensor
    """`[T, B, O]`"""
    after: Tensor
    """`[T, B, O]`, NaN from the tick on in which the simulation became unstable."""
    reward: Tensor
    """`[T, B]`, 0 after a termination, NaN where the observation is."""
    going_on: Tensor | None
    """`[T, B]`"""


class SimulatorModel:
    """The contract's MJCF, stepped in C, many rollouts at once (`mujoco.rollout`).

    Equal to `sim.simulator.Simulator` under the same commands. The state is taken from the observation, so every joint of the MJCF must be
    observed with position and velocity. Reward and termination are evaluated at every control tick, not once per model step. A rollout in
    which the simulation becomes unstable is NaN from there on, observation and reward.

    It has no gradients and is no network: planners that differentiate the model, and the export to ONNX, refuse it.
    """

    members = 1
    differentiable = False
    """Planners that want derivatives take differences."""

    def __init__(self, contract: Contract, stride: int = 1, threads: int | None = None, beside: Path | None = None) -> None:
        """Loads the contract's MJCF.

        Args:
            contract: with a `simulator`, and all joints observed.
            stride: ticks per step, at least 1.
            threads: that roll out; all processors of this process if None.
            beside: the contract's folder, searched for the MJCF before the shipped `sim/` folder.

        Raises:
            UserError: the contract has no simulator, its MJCF does not fit, or a joint's state cannot be told from the observation.
        """
        if stride < 1:
            raise ValueError(f"stride {stride} must be at least 1")
        if threads is not None and threads < 1:
            raise ValueError(f"threads {threads} must be at least 1")
        robot = Simulator(contract, beside)
        check_channels(contract, robot)
        self.stride, self.contract = stride, contract
        self.observation_size, self.action_size = contract.observation_size, contract.action_size
        self.threads = len(os.sched_getaffinity(0)) if threads is None else threads
        self.frames_per_tick = robot.frames_per_tick
        self._frame_s = robot.frame_s
        if robot.timeout_frames < robot.frames_per_tick:
            raise UserError(
                f"contract {contract.name}: safety.command_timeout_s: shorter than a control period, so no command lasts to the next: "
                f"make it at least {contract.control.period_s:g} s"
            )
        self._control_at, self._scale = robot.control_at, robot.scale
        self._states = _states(contract, robot)
        self._model, self._readings = _with_sensors(contract, robot, beside)
        self._widths = [len(r.feature.columns) for r in self._readings]
        self._reward, self._termination = reward_function(contract), termination_function(contract)
        self._data = [mujoco.MjData(self._model) for _ in range(self.threads)]
        self._pool = Rollout(nthread=self.threads if self.threads > 1 else 0)
        self._alone = Rollout(nthread=0)

    def noise_shape(self, horizon: int) -> None:
        """See `WorldModel.noise_shape`: the simulator draws nothing."""

    def rollout(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Imagined:
        """See `WorldModel.rollout`."""
        self._check(observation, actions)
        horizon, candidates = actions.shape[:2]
        ticks = self._ticks(observation.unsqueeze(0).expand(candidates, -1), actions)
        last = slice(self.stride - 1, None, self.stride)
        return Imagined(
            ticks.after[last].unsqueeze(1),
            ticks.reward.unflatten(0, (horizon, self.stride)).sum(dim=1).unsqueeze(1),
            None if ticks.going_on is None else ticks.going_on[last].unsqueeze(1),
        )

    def step(self, observation: Tensor, action: Tensor) -> Step:
        """See `WorldModel.step`."""
        self._check(observation, action)
        ticks = self._ticks(observation, action.unsqueeze(0))
        return Step(ticks.after[-1], ticks.reward.sum(dim=0), None if ticks.going_on is None else ticks.going_on[-1])

    def _ticks(self, observation: Tensor, actions: Tensor) -> _Ticks:
        """Every control tick of B rollouts from `observation [B, O]` under `actions [H, B, A]`, each held for `stride` ticks."""
        start, held = observation.detach().cpu().numpy(), actions.detach().cpu().numpy()
        columns = self._encoded(*self._simulated(self.states(start), held), start)  # [O, T + 1, B]
        seen = torch.from_numpy(columns.astype(start.dtype, copy=False)).to(observation.device).permute(1, 2, 0)
        before, after = seen[:-1], seen[1:]
        commands = actions.repeat_interleave(self.stride, dim=0)
        reward = self._reward(before, commands, after)
        # Some rewards of a NaN are a number, such as those that ask whether a threshold is passed.
        reward = torch.where(torch.isnan(after[..., 0]), torch.nan, reward)
        if self._termination is None:
            return _Ticks(before, after, reward, None)
        ended = self._termination(before, commands, after).to(reward.dtype)
        going_on = torch.cumprod(1.0 - ended, dim=0)
        until_now = torch.cat([torch.ones_like(going_on[:1]), going_on[:-1]])
        return _Ticks(before, after, torch.where(until_now > 0, reward, 0.0), going_on)

    def states(self, observation: NDArray[Any]) -> NDArray[np.float64]:
        """MuJoCo's full physics state `[B, 1 + nq + nv]` (time, qpos, qvel) of `observation [B, O]`."""
        states = np.zeros((len(observation), 1 + self._model.nq + self._model.nv))
        for at, column, pair in self._states:
            value = observation[:, column].astype(np.float64)
            states[:, at] = np.arctan2(value, observation[:, column + 1].astype(np.float64)) if pair else value
        return states

    def _simulated(self, states: NDArray[np.float64], actions: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """States and sensor data `[B, T, ...]` at the end of every tick."""
        horizon, rows = actions.shape[:2]
        control = np.zeros((rows, horizon, self._model.nu))
        control[..., self._control_at] = actions.transpose(1, 0, 2).astype(np.float64) / self._scale
        frames = horizon * self.stride * self.frames_per_tick
        reached = np.empty((rows, frames, states.shape[1]))
        sensed = np.empty((rows, frames, self._model.nsensordata))
        (self._alone if rows == 1 else self._pool).rollout(
            [self._model] * rows,
            self._data[:1] if rows == 1 else self._data,
            states,
            np.repeat(control, self.stride * self.frames_per_tick, axis=1),
            state=reached,
            sensordata=sensed,
            nstep=frames,
            control_spec=mujoco.mjtState.mjSTATE_CTRL.value,
            skip_checks=True,
        )
        ends = slice(self.frames_per_tick - 1, None, self.frames_per_tick)
        reached, sensed = reached[:, ends], sensed[:, ends]
        # MuJoCo puts zeros in place of a bad control.
        refused = (~(np.abs(control) < _MAX)).any(axis=-1).repeat(self.stride, axis=1)
        reached[np.logical_or.accumulate(self._unstable(reached) | refused, axis=1)] = np.nan
        return reached, sensed

    def _unstable(self, reached: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether the simulation has become unstable by the end of a tick `[B, T]`."""
        velocities = reached[..., 1 + self._model.nq :]
        sound = (np.abs(reached[..., 1:]) < _MAX).all(axis=-1)  # false for NaN
        # A bad acceleration shows in the velocity, one frame later.
        sound &= (np.abs(velocities) < _MAX * self._frame_s).all(axis=-1)
        # MuJoCo gives up on a rollout after a warning and repeats its last state: time stands still.
        frames = self.frames_per_tick * np.arange(1, reached.shape[1] + 1)
        sound &= reached[..., 0] > (frames - 0.5) * self._frame_s
        return ~sound

    def _encoded(self, reached: NDArray[np.float64], sensed: NDArray[np.float64], start: NDArray[Any]) -> NDArray[np.float64]:
        """Observation columns `[O, T + 1, B]` of the start and of every tick."""
        columns = np.empty((sum(self._widths), reached.shape[1] + 1, len(reached)))
        columns[:, 0] = start.T
        at = 0
        for (feature, place), width in zip(self._readings, self._widths, strict=True):
            value = (sensed if feature.field == "effort" else reached)[..., place].T
            if width == 2:
                np.sin(value, out=columns[at, 1:])
                np.cos(value, out=columns[at + 1, 1:])
            else:
                columns[at, 1:] = value
            at += width
        columns[:, 1:, :][:, np.isnan(reached[..., 0]).T] = np.nan
        return columns

    def _check(self, observation: Tensor, actions: Tensor) -> None:
        if torch.compiler.is_compiling():
            raise UserError(
                f"contract {self.contract.name}: the simulator is no network and cannot be exported: "
                "train a model from its bags (wm-ros train), and export that"
            )
        if torch.is_grad_enabled() and (observation.requires_grad or actions.requires_grad):
            raise UserError(
                f"contract {self.contract.name}: the simulator has no gradients: "
                "take a planner that needs none, or that takes differences of a model whose `differentiable` is False"
            )
        sizes = (self.observation_size, self.action_size)
        if (observation.shape[-1], actions.shape[-1]) != sizes:
            raise ValueError(
                f"observation {tuple(observation.shape)}, actions {tuple(actions.shape)}: "
                f"contract {self.contract.name} has {sizes[0]} observations and {sizes[1]} actions"
            )


def _states(contract: Contract, robot: Simulator) -> list[tuple[int, int, bool]]:
    """For every column of MuJoCo's state: its place, the observation's column it is read from, and whether that begins a sin/cos pair."""
    model = robot.model
    for joint in range(model.njnt):
        if model.joint(joint).name not in robot.joint_names:
            raise UserError(
                f"contract {contract.name}: simulator.mjcf: joint {model.joint(joint).name or joint!r} neither slides nor turns about one "
                "axis, so no JointState tells its state: the simulator cannot be a model of this robot"
            )
    if model.na > 0:
        raise UserError(
            f"contract {contract.name}: simulator.mjcf: an actuator has a state of its own, which is not observed: "
            "take actuators without dynamics, or another model"
        )
    features = [f for c in contract.observation for f in c.features]
    columns = np.cumsum([0, *(len(f.columns) for f in features)])
    seen = {(f.joint, f.field): (int(column), f.encoding == "sin_cos") for f, column in zip(features, columns, strict=False)}
    places = []
    for j, name in enumerate(robot.joint_names):
        for field, place in (("position", 1 + robot.position_at[j]), ("velocity", 1 + model.nq + robot.velocity_at[j])):
            if (name, field) not in seen:
                raise UserError(
                    f"contract {contract.name}: observation: the {field} of joint {name!r} is not observed, so the simulator cannot start "
                    "from an observation: add the feature, or take another model"
                )
            places.append((int(place), *seen[name, field]))
    return places


def _with_sensors(contract: Contract, robot: Simulator, beside: Path | None) -> tuple[Any, list[_Reading]]:
    """The compiled model, with a sensor for every effort that the contract observes, and where every feature is read."""
    features = [f for c in contract.observation for f in c.features]
    spec = mujoco.MjSpec.from_file(str(find_mjcf(contract, beside)))
    for name in {str(f.joint): None for f in features if f.field == "effort"}:
        spec.add_sensor(name=f"{name}.effort", type=mujoco.mjtSensor.mjSENS_JOINTACTFRC, objtype=mujoco.mjtObj.mjOBJ_JOINT, objname=name)
    model = spec.compile()
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    readings = []
    for feature in features:
        j = robot.joint_names.index(str(feature.joint))
        if feature.field == "effort":
            at = int(model.sensor(f"{feature.joint}.effort").adr[0])
        else:
            at = int(1 + robot.position_at[j] if feature.field == "position" else 1 + model.nq + robot.velocity_at[j])
        readings.append(_Reading(feature, at))
    return model, readings
