"""Tasks of dm_control and Gymnasium as contracts and worlds, without a contract written by hand."""

from __future__ import annotations

import difflib
import importlib
import math
import re
import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.rewards import outside
from wm_ros.contract.schema import ENVIRONMENT, Contract
from wm_ros.sim.world import Tick

OUTSIDE = f"{outside.__module__}:{outside.__name__}"
"""As a contract names it."""
REPEAT = {"dm_control": 2, "gymnasium": 1}
"""Environment steps per control tick, as published results of model-free learning have it."""


@dataclass(frozen=True)
class Step:
    """What one step of an environment gave."""

    observation: NDArray[np.float32]
    reward: float
    terminated: bool
    cut: bool


class Backend(Protocol):
    """One package's environment, with everything flat and named."""

    columns: list[str]
    joints: list[str]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    frame_s: float
    """Seconds of one step."""
    frames: float
    """Steps of an episode; infinite where the environment sets no limit."""
    termination: dict[str, Any] | None
    """As it stands in a contract; None where it never terminates."""

    def reset(self, seed: int) -> NDArray[np.float32]:
        """A new episode; the first observation [O]."""

    def step(self, action: NDArray[np.float32]) -> Step:
        """One step of the environment."""


def is_adapted(contract: Contract) -> bool:
    """Whether the contract's world is an environment of another package."""
    return contract.reward.function == ENVIRONMENT


def contract_of(name: str, repeat: int | None = None) -> Contract:
    """The contract of an environment: its flat observation, its action limits, its own reward.

    Args:
        name: such as `dm_control/walker_walk` or `gymnasium/Hopper-v5`.
        repeat: environment steps per control tick; by default 2 for dm_control, 1 for Gymnasium.

    Raises:
        UserError: no such environment, its package is not installed, or its spaces are not boxes.
    """
    backend = _open(name)
    package, _, task = name.partition("/")
    repeat = REPEAT[package] if repeat is None else repeat
    if repeat < 1:
        raise UserError(f"{name}: action repeat {repeat} must be at least 1")
    if not math.isfinite(backend.frames):
        raise UserError(f"{name}: its episodes have no end: wrap it in a package of yours that gives it a time limit")
    period = backend.frame_s * repeat
    zero_inside = bool(((backend.low <= 0) & (backend.high >= 0)).all())
    function = {"function": ENVIRONMENT, "parameters": {"environment": name, "repeat": float(repeat)}}
    return schema.parse(
        {
            "name": _identifier(f"{package}_{task}"),
            "robot": _identifier(task),
            "control": {"rate_hz": 1.0 / period},
            "observation": [
                {
                    "name": "state",
                    "topic": "state",
                    "type": "std_msgs/msg/Float64MultiArray",
                    "clock": "receive",
                    "max_age_s": 5.0 * period,
                    "features": [{"field": "data", "index": i, "units": "", "label": c} for i, c in enumerate(backend.columns)],
                }
            ],
            "action": {
                "interface": "effort",
                "joints": [
                    {"name": joint, "low": float(low), "high": float(high), "units": ""}
                    for joint, low, high in zip(backend.joints, backend.low, backend.high, strict=True)
                ],
            },
            "reward": function,
            "termination": backend.termination,
            "episode": {"duration_s": backend.frames * backend.frame_s},
            "safety": {
                "hold": "zero" if zero_inside else dict(zip(backend.joints, ((backend.low + backend.high) / 2).tolist(), strict=True)),
                "max_observation_age_s": 5.0 * period,
                "max_plan_age_s": 5.0 * period,
                "command_timeout_s": 2.0 * period,
            },
        },
        name,
    )


class Environment:
    """The world of a contract of `contract_of`."""

    def __init__(self, contract: Contract) -> None:
        """Opens the environment that the contract's reward names.

        Raises:
            UserError: there is none, or its observation or action is not what the contract says.
        """
        name, repeat = contract.reward.parameters.get("environment"), contract.reward.parameters.get("repeat", 1.0)
        where = f"contract {contract.name}: reward.parameters"
        if not isinstance(name, str):
            raise UserError(f"{where}.environment: expected a name such as dm_control/walker_walk, found {name!r}")
        if not isinstance(repeat, float) or repeat < 1 or repeat != round(repeat):
            raise UserError(f"{where}.repeat: expected a whole number from 1 on, found {repeat!r}")
        self.contract = contract
        self.frames_per_tick = round(repeat)
        self._backend = _open(name)
        for what, ours, theirs in (
            ("observation columns", list(contract.observation_names), self._backend.columns),
            ("action joints", list(contract.action.names), self._backend.joints),
        ):
            if ours != theirs:
                raise UserError(f"{where}.environment: {name} has the {what} {theirs}, the contract has {ours}: make the contract anew")

    def reset(self, seed: np.random.SeedSequence) -> NDArray[np.float32]:
        """See `World.reset`."""
        return self._backend.reset(int(seed.generate_state(1)[0]))

    def step(self, action: NDArray[np.float32]) -> Tick:
        """See `World.step`; an episode that ends between two ticks ends the tick.

        Raises:
            UserError: the environment gave a value that is not finite.
        """
        reward = 0.0
        for _ in range(self.frames_per_tick):
            step = self._backend.step(action)
            reward += step.reward
            if step.terminated or step.cut:
                break
        if not (np.isfinite(step.observation).all() and math.isfinite(reward)):
            raise UserError(f"contract {self.contract.name}: the environment gave a value that is not finite: smaller actions")
        return Tick(step.observation, reward, step.terminated, step.cut and not step.terminated)

    def images(self) -> dict[str, NDArray[np.uint8]]:
        """See `World.images`; these environments have no cameras."""
        return {}


class DmControl:
    """A task of the dm_control suite."""

    def __init__(self, name: str) -> None:
        suite = _package("dm_control.suite", "dm_control")
        task = name.partition("/")[2]
        tasks = {f"{domain}_{which}": (domain, which) for domain, which in suite.ALL_TASKS}
        if task not in tasks:
            raise UserError(_unknown(name, "dm_control", list(tasks)))
        # The generator is replaced with every reset; this one only keeps the first model from being drawn by the time of day.
        self._environment = suite.load(*tasks[task], task_kwargs={"random": 0})
        spec = self._environment.action_spec()
        shape = (math.prod(spec.shape),)
        self.low, self.high = (np.broadcast_to(np.asarray(side, np.float64), shape) for side in (spec.minimum, spec.maximum))
        self.columns = [column for key, part in self._environment.observation_spec().items() for column in _numbered(key, part.shape)]
        self.joints = _joints([self._environment.physics.model.id2name(i, "actuator") for i in range(shape[0])])
        self.frame_s = float(self._environment.control_timestep())
        self.frames = float(self._environment._step_limit)
        base = importlib.import_module("dm_control.rl.control").Task
        terminates = type(self._environment.task).get_termination is not base.get_termination
        self.termination: dict[str, Any] | None = {"function": ENVIRONMENT} if terminates else None

    def reset(self, seed: int) -> NDArray[np.float32]:
        """See `Backend.reset`."""
        # The suite's tasks draw from this generator and offer no other way to seed an episode.
        self._environment.task._random = np.random.RandomState(seed)
        return self._flat(self._environment.reset().observation)

    def step(self, action: NDArray[np.float32]) -> Step:
        """See `Backend.step`."""
        step = self._environment.step(action.astype(np.float64))
        terminated = bool(step.last()) and step.discount == 0.0
        return Step(self._flat(step.observation), float(step.reward), terminated, bool(step.last()) and not terminated)

    @staticmethod
    def _flat(observation: dict[str, Any]) -> NDArray[np.float32]:
        return np.concatenate([np.ravel(part) for part in observation.values()]).astype(np.float32)


class Gymnasium:
    """A Gymnasium environment with boxes for observation and action."""

    def __init__(self, name: str) -> None:
        gymnasium = _package("gymnasium", "gymnasium")
        task = name.partition("/")[2]
        if task not in gymnasium.registry:
            raise UserError(_unknown(name, "gymnasium", list(gymnasium.registry)))
        try:
            self._environment = gymnasium.make(task)
        except ImportError as error:
            raise UserError(f"{name}: {error}: pip install 'wm_ros[envs]'") from None
        self._spaces, core = gymnasium.spaces, self._environment.unwrapped
        action, observation = self._environment.action_space, self._environment.observation_space
        boxes = observation.spaces.values() if isinstance(observation, self._spaces.Dict) else [observation]
        if not isinstance(action, self._spaces.Box):
            raise UserError(f"{name}: its actions are {action}, not a box of numbers: these agents are for continuous actions")
        if not all(isinstance(box, self._spaces.Box) for box in boxes):
            raise UserError(f"{name}: its observations are {observation}, not boxes of numbers: choose another environment")
        self.low, self.high = (np.ravel(side).astype(np.float64) for side in (action.low, action.high))
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise UserError(f"{name}: its actions have no limits: wrap it with gymnasium.wrappers.RescaleAction")
        self._action_shape, self._action_type = action.shape, action.dtype
        size = int(self._spaces.flatdim(observation))
        structure = {k: n for k, n in getattr(core, "observation_structure", {}).items() if n and not k.startswith("skipped")}
        if sum(structure.values()) == size:
            self.columns = [f"{key}[{i}]" for key, n in structure.items() for i in range(n)]
        else:
            self.columns = [f"observation[{i}]" for i in range(size)]
        self.joints = _joints(_actuators(core, len(self.low)))
        self.frame_s = float(getattr(core, "dt", 1.0 / (self._environment.metadata.get("render_fps") or 50)))
        limit = self._environment.spec.max_episode_steps
        self.frames = math.inf if limit is None else float(limit)
        limits = _limits(core, self.columns)
        self.termination: dict[str, Any] | None = {"function": OUTSIDE, "parameters": limits} if limits else {"function": ENVIRONMENT}

    def reset(self, seed: int) -> NDArray[np.float32]:
        """See `Backend.reset`."""
        return self._flat(self._environment.reset(seed=seed)[0])

    def step(self, action: NDArray[np.float32]) -> Step:
        """See `Backend.step`."""
        given = action.astype(self._action_type).reshape(self._action_shape)
        observation, reward, terminated, truncated, _ = self._environment.step(given)
        return Step(self._flat(observation), float(reward), bool(terminated), bool(truncated))

    def _flat(self, observation: Any) -> NDArray[np.float32]:
        return np.asarray(self._spaces.flatten(self._environment.observation_space, observation), dtype=np.float32)


_BACKENDS: dict[str, type[DmControl] | type[Gymnasium]] = {"dm_control": DmControl, "gymnasium": Gymnasium}


def _open(name: str) -> Backend:
    package = name.partition("/")[0]
    if package not in _BACKENDS or "/" not in name:
        raise UserError(f"{name}: expected dm_control/DOMAIN_TASK or gymnasium/NAME, such as dm_control/walker_walk or gymnasium/Hopper-v5")
    return _BACKENDS[package](name)


def _package(module: str, package: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about displays, which nobody needs here
            return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{package} is not installed ({error}): pip install 'wm_ros[envs]'") from None


def _unknown(name: str, package: str, there: list[str]) -> str:
    near = difflib.get_close_matches(name.partition("/")[2], there, 3, 0.4) or sorted(there)[:3]
    return f"{name}: {package} has no such task; near it are {', '.join(near)}"


def _numbered(key: str, shape: tuple[int, ...]) -> list[str]:
    return [f"{key}[{i}]" for i in range(math.prod(shape))] if shape else [key]


def _actuators(environment: Any, count: int) -> list[str]:
    """Names of the actuators, or of the joints that they drive, where the environment is MuJoCo's."""
    model = getattr(environment, "model", None)
    if model is None or getattr(model, "nu", None) != count:
        return [""] * count
    return [model.actuator(i).name or model.joint(int(model.actuator_trnid[i, 0])).name for i in range(count)]


def _limits(environment: Any, columns: list[str]) -> dict[str, float]:
    """Heights and pitches at which one of MuJoCo's walkers has fallen, for `rewards.outside`; empty for other environments.

    Those that end an episode so see height and pitch first, as long as they do not see where they are. Hopper's range of ±100 for the
    rest is left out: its velocities are clipped to ±10 before anybody sees them.
    """
    needed = ("_terminate_when_unhealthy", "_exclude_current_positions_from_observation")
    if not all(getattr(environment, flag, False) for flag in needed):
        return {}
    ranges = [getattr(environment, f"_healthy_{what}_range", (-math.inf, math.inf)) for what in ("z", "angle")]
    sides = {
        f"{column}.{side}": float(limit)
        for column, limits in zip(columns, ranges, strict=False)
        for side, limit in zip(("low", "high"), limits, strict=True)
    }
    return {name: limit for name, limit in sides.items() if math.isfinite(limit)}


def _joints(names: list[str]) -> list[str]:
    fit = all(names) and len(set(names)) == len(names)
    return names if fit else [f"action[{i}]" for i in range(len(names))]


def _identifier(text: str) -> str:
    return re.sub(r"\W", "_", text)[:64]
