"""Every planner with perfect dynamics: the true simulator as model, on every task, and how fast that simulator rolls out."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import mujoco
import numpy as np
import torch
import tyro
import yaml
from benchmarks.perfect_results import RANDOM, Cell, Results
from mujoco.rollout import Rollout
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from wm_ros.cli.bench import Result
from wm_ros.contract import resources, schema
from wm_ros.contract.assembler import encode
from wm_ros.contract.errors import UserError
from wm_ros.contract.functions import reward_function
from wm_ros.contract.schema import Contract
from wm_ros.data.episode import Episode
from wm_ros.models.simulator import SimulatorModel
from wm_ros.models.world_model import Imagined, Step
from wm_ros.planners.choice import CONFIGS, make
from wm_ros.planners.planner import PlannerConfig
from wm_ros.sim.episode import run_episode
from wm_ros.sim.simulator import Simulator


@dataclass(frozen=True)
class Options:
    """Runs what has not been run yet, and writes CSV, Markdown and plot after every episode."""

    out: Path = Path("docs/results")
    """Folder of `perfect_dynamics.csv`, `.md` and `.png`; episodes that stand there with the same settings are not run again."""
    settings: str = "perfect_dynamics"
    """A file like config/planners/perfect_dynamics.yaml, or its name."""
    tasks: tuple[str, ...] = ()
    """Contracts to run; all of the settings if none."""
    planners: tuple[str, ...] = ()
    """Planners to run; all if none."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of start states and noise."""
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """That roll out."""
    ticks: int | None = None
    """Length of an episode; the contract's own if None. Returns of shorter ones compare with nothing."""
    retime: bool = False
    """Measure the times of all plans anew, one after the other on a quiet machine; the returns stay."""


TIMED_TICKS = 40
"""Plans of one timing."""


@dataclass(frozen=True)
class Entry:
    """One planner on one task."""

    task: str
    planner: str
    stride: int
    config: PlannerConfig | None
    """None for random actions."""

    def settings(self) -> dict[str, Any]:
        """What the figures depend on, as plain data."""
        contract = schema.load(self.task).hash
        return {"stride": self.stride, "contract": contract, "config": asdict(self.config) if self.config is not None else {}}

    def digest(self, ticks: int, threads: int) -> str:
        """Short name of the settings: another digest, another figure."""
        text = json.dumps([self.settings(), ticks, threads], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Task:
    """One block of the settings file."""

    horizon_s: float
    """How far plans look ahead."""
    stride: int
    """Control ticks of a model step."""
    planners: dict[str, dict[str, Any]]
    """Name → settings; `horizon_s` and `stride` among them go before the task's."""


def entries(name: str) -> list[Entry]:
    """The planners of every task in a settings file, with random actions first.

    Raises:
        UserError: no such file, or no valid settings; the message names task and planner.
    """
    path = resources.find("config/planners", name, ".yaml")
    try:
        tasks = TypeAdapter(dict[str, Task]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise UserError(f"{path}: no settings of planners: {' '.join(str(error).split())}") from None
    found = []
    for name, task in tasks.items():
        rate = schema.load(name).control.rate_hz
        found.append(Entry(name, RANDOM, 1, None))
        for planner, given in task.planners.items():
            own = {"stride": task.stride, "horizon_s": task.horizon_s, **given}
            stride, horizon_s = own.pop("stride"), own.pop("horizon_s")
            if planner not in CONFIGS:
                raise UserError(f"{path}: {name}.planners.{planner}: no such planner; there are {', '.join(CONFIGS)}")
            known = [f.name for f in fields(CONFIGS[planner]) if f.name not in ("kind", "horizon")]
            unknown = sorted(set(own) - set(known))
            if unknown:
                raise UserError(f"{path}: {name}.planners.{planner}: no setting {', '.join(unknown)}; there are {', '.join(known)}")
            try:
                config = TypeAdapter(CONFIGS[planner]).validate_python({"horizon": max(1, round(horizon_s * rate / stride)), **own})
            except ValidationError as error:
                raise UserError(f"{path}: {name}.planners.{planner}: {' '.join(str(error).split())}") from None
            found.append(Entry(name, planner, stride, config))
    return found


class Counting:
    """A world model that counts what is asked of it."""

    members = 1
    differentiable = False

    def __init__(self, model: SimulatorModel) -> None:
        self.model, self.stride, self.steps, self.seconds = model, model.stride, 0, 0.0
        self.observation_size, self.action_size = model.observation_size, model.action_size

    def noise_shape(self, horizon: int) -> None:
        return None

    def rollout(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Imagined:
        self.steps += actions.shape[0] * actions.shape[1]
        started = time.perf_counter()
        imagined = self.model.rollout(observation, actions, noise)
        self.seconds += time.perf_counter() - started
        return imagined

    def step(self, observation: Tensor, action: Tensor) -> Step:
        self.steps += len(observation)
        started = time.perf_counter()
        step = self.model.step(observation, action)
        self.seconds += time.perf_counter() - started
        return step


def limits(contract: Contract) -> tuple[Tensor, Tensor]:
    """`low [A]`, `high [A]` of the action."""
    low, high = ([getattr(joint, end) for joint in contract.action.joints] for end in ("low", "high"))
    return torch.tensor(low), torch.tensor(high)


def run_cell(entry: Entry, seed: int, threads: int, ticks: int) -> Cell:
    """One episode."""
    contract = schema.load(entry.task)
    act = _Random(contract, seed) if entry.config is None else _Planning(contract, entry, seed, threads)
    started = time.perf_counter()
    episode = run_episode(Simulator(contract), act, ticks, seed=seed)
    milliseconds = np.array(act.milliseconds[1:] or [0.0])  # the first plan warms up
    return Cell(
        task=entry.task,
        planner=entry.planner,
        seed=seed,
        digest=entry.digest(ticks, threads),
        ticks=len(episode),
        returned=float(episode.reward.sum()),
        suite_return=_suite_return(contract, episode),
        ms_p50=float(np.percentile(milliseconds, 50)),
        ms_p99=float(np.percentile(milliseconds, 99)),
        model_steps=act.steps / ticks,
        model_share=act.model_seconds / max(sum(act.milliseconds) / 1e3, 1e-9),
        no_plan=act.no_plan,
        wall_s=time.perf_counter() - started,
        settings=json.dumps({"stride": entry.stride, **_short(entry.config)}, separators=(",", ":")),
    )


def _short(config: PlannerConfig | None) -> dict[str, Any]:
    """The settings that differ from the planner's defaults, and the horizon."""
    if config is None:
        return {}
    defaults = asdict(type(config)())
    return {name: value for name, value in asdict(config).items() if name == "horizon" or value != defaults[name]}


class _Random:
    """Draws evenly over the limits and holds each draw for 0.1 s."""

    milliseconds: list[float] = []
    steps, model_seconds, no_plan = 0, 0.0, 0

    def __init__(self, contract: Contract, seed: int) -> None:
        low, high = (end.numpy() for end in limits(contract))
        held = max(1, round(0.1 * contract.control.rate_hz))
        draws = np.random.default_rng(seed).uniform(low, high, (contract.episode_ticks // held + 1, len(low)))
        self._actions = iter(np.repeat(draws, held, axis=0))

    def __call__(self, observation: Any) -> Any:
        return next(self._actions)


class _Planning:
    """Plans anew at every tick."""

    def __init__(self, contract: Contract, entry: Entry, seed: int, threads: int) -> None:
        assert entry.config is not None
        self._model = Counting(SimulatorModel(contract, entry.stride, threads))
        self._planner = make(entry.config, *limits(contract))
        self._shapes = self._planner.noise_shapes(self._model)
        self._carry = {name: torch.zeros(shape) for name, shape in self._planner.carry_shapes().items()}
        self._generator = torch.Generator().manual_seed(seed)
        self._hold = np.zeros(contract.action_size)
        self.milliseconds: list[float] = []
        self.no_plan = 0

    @property
    def steps(self) -> int:
        return self._model.steps

    @property
    def model_seconds(self) -> float:
        return self._model.seconds

    def __call__(self, observation: Any) -> Any:
        noise = {name: torch.randn(shape, generator=self._generator) for name, shape in self._shapes.items()}
        started = time.perf_counter()
        with torch.no_grad():
            plan = self._planner(self._model, torch.from_numpy(observation), self._carry, noise)
        self.milliseconds.append(1e3 * (time.perf_counter() - started))
        self._carry = plan.carry
        if not bool(plan.ok):
            self.no_plan += 1
            return self._hold
        return plan.action.numpy()


@lru_cache
def _suite_reward(task: str) -> Callable[[Any, Any, Any], Any] | None:
    """The suite's own reward for contracts that add a margin to it, None for the others."""
    data = schema.load(task).model_dump(mode="json")
    if "margin" not in data["reward"]["parameters"]:
        return None
    data["reward"]["parameters"]["margin"] = 0.0
    return reward_function(schema.parse(data, task))


def _suite_return(contract: Contract, episode: Episode) -> float:
    reward = _suite_reward(contract.name)
    if reward is None:
        return float(episode.reward.sum())
    return float(np.sum(reward(episode.observation[:-1], episode.action, episode.observation[1:])))


def bench(options: Options) -> Results:
    """Runs the cells that are missing, with progress on stderr."""
    torch.set_num_threads(1)  # the candidates' arithmetic is small, and the rollouts want the processors
    wanted = [
        (entry, seed)
        for entry in entries(options.settings)
        if (not options.tasks or entry.task in options.tasks) and (not options.planners or entry.planner in options.planners)
        for seed in options.seeds
    ]
    results = Results(options.out, "wm-ros bench perfect", options.threads, machine())
    digests = {entry: entry.digest(_ticks(entry, options), options.threads) for entry, _ in wanted}
    keys = [(entry.task, entry.planner, seed, digests[entry]) for entry, seed in wanted]
    missing = [(entry, seed) for (entry, seed), key in zip(wanted, keys, strict=True) if not results.has(key)]
    started = time.perf_counter()
    for i, (entry, seed) in enumerate(missing, start=1):
        cell = run_cell(entry, seed, options.threads, _ticks(entry, options))
        results.add(cell)
        left = (time.perf_counter() - started) / i * (len(missing) - i)
        print(
            f"[{i}/{len(missing)}] {cell.task} {cell.planner} seed {seed}: return {cell.returned:.0f}, {cell.ms_p50:.1f} ms per plan, "
            f"{cell.wall_s:.0f} s; about {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
    if options.retime:
        for entry in dict.fromkeys(entry for entry, _ in wanted if entry.config is not None):
            timed = run_cell(entry, 0, options.threads, TIMED_TICKS)
            print(f"{entry.task} {entry.planner}: {timed.ms_p50:.1f} ms per plan", file=sys.stderr, flush=True)
            for (other, _), key in zip(wanted, keys, strict=True):
                if other == entry:
                    results.retime(key, timed)
    results.write(keys)
    return results


def _ticks(entry: Entry, options: Options) -> int:
    return schema.load(entry.task).episode_ticks if options.ticks is None else options.ticks


def machine() -> str:
    """How many processors of which kind."""
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    return f"{len(os.sched_getaffinity(0))} x {model}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


# ---- the simulator's speed --------------------------------------------------------------------------------------------


def speed(task: str, candidates: int, horizon: int, repeats: int, threads: int) -> list[Result]:
    """Frames per second of `SimulatorModel.rollout` beside a loop of `mj_step` and `mujoco.rollout` at its best, in turns."""
    contract = schema.load(task)
    model, robot = SimulatorModel(contract, 1, threads), Simulator(contract)
    low, high = limits(contract)
    actions = low + (high - low) * torch.rand((horizon, candidates, len(low)), generator=torch.Generator().manual_seed(0))
    robot.reset(np.random.SeedSequence(0))
    size = mujoco.mj_stateSize(robot.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    start = np.zeros(size)
    start[1:] = np.concatenate([robot.data.qpos, robot.data.qvel])
    observation = torch.from_numpy(_observed(contract, robot))
    control = np.zeros((candidates, horizon, robot.model.nu))
    control[..., robot.control_at] = actions.transpose(0, 1).numpy() / robot.scale
    control = np.repeat(control, robot.frames_per_tick, axis=1)
    frames = control.shape[1]

    def loop() -> None:
        data = mujoco.MjData(robot.model)
        for n in range(candidates):
            mujoco.mj_setState(robot.model, data, start, mujoco.mjtState.mjSTATE_FULLPHYSICS)
            for u in control[n]:
                data.ctrl[:] = u
                mujoco.mj_step(robot.model, data)

    initial, reached = np.tile(start, (candidates, 1)), np.empty((candidates, frames, size))
    sensed = np.empty((candidates, frames, robot.model.nsensordata))

    def best(chunk: int, pool: Rollout, data: list[Any]) -> Callable[[], None]:
        def run() -> None:
            pool.rollout(
                [robot.model] * candidates,
                data,
                initial,
                control,
                state=reached,
                sensordata=sensed,
                nstep=frames,
                control_spec=mujoco.mjtState.mjSTATE_CTRL.value,
                skip_checks=True,
                chunk_size=chunk,
            )

        return run

    sides: dict[str, Callable[[], object]] = {"ours": lambda: model.rollout(observation, actions, None), "loop": loop}
    with Rollout(nthread=threads if threads > 1 else 0) as pool:
        data = [mujoco.MjData(robot.model) for _ in range(threads)]
        for chunk in sorted({1, max(1, candidates // (10 * threads)), max(1, candidates // threads)}):
            sides[f"rollout, chunks of {chunk}"] = best(chunk, pool, data)
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for repeat in range(repeats + 1):
            for name, side in sides.items():
                started = time.perf_counter()
                side()
                if repeat:  # the first round warms up
                    rates[name].append(candidates * frames / (time.perf_counter() - started))
    found = {name: median(values) for name, values in rates.items()}
    fastest = max((name for name in found if name.startswith("rollout")), key=lambda name: found[name])
    settings = {"candidates": candidates, "frames": frames, "threads": threads, "repeats": repeats}
    version = f"mujoco {mujoco.__version__}"
    peers = {f"{version}, mj_step in a loop, 1 thread": found["loop"], f"{version}, mujoco.{fastest}, states only": found[fastest]}
    return [
        Result(f"simulator as model, {task}", found["ours"], rate, peer, "frames/s", higher_is_better=True, settings=settings)
        for peer, rate in peers.items()
    ]


def _observed(contract: Contract, robot: Simulator) -> Any:
    joints = robot.joints()
    features = [f for channel in contract.observation for f in channel.features]
    return encode(contract, np.array([getattr(joints, f.field)[joints.names.index(str(f.joint))] for f in features]))


def run(quick: bool) -> list[Result]:
    """Speed of the simulator on every task, and each planner's mean return beside that of random actions."""
    torch.set_num_threads(1)
    options = Options(out=resources.share_directory() / "docs" / "results")
    tasks = list(dict.fromkeys(entry.task for entry in entries(options.settings)))
    horizon, repeats = (25, 3) if quick else (50, 9)
    speeds = [result for task in tasks for result in speed(task, 64, horizon, repeats, options.threads)]
    if not quick:
        return speeds + bench(options).against_random()
    with tempfile.TemporaryDirectory() as folder:
        return speeds + bench(replace(options, out=Path(folder), seeds=(0,), ticks=20)).against_random()


if __name__ == "__main__":
    try:
        bench(tyro.cli(Options))
    except UserError as error:
        sys.exit(f"error: {error}")
