"""Soft actor-critic: gradient updates per second beside stable-baselines3; wall-clock per thousand environment steps, of MBPO as well."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from wm_ros.agents.sac import SacConfig
from wm_ros.cli.bench import Result
from wm_ros.contract import schema
from wm_ros.contract.schema import Contract
from wm_ros.data.transition_buffer import TransitionBuffer
from wm_ros.export.controller import versions
from wm_ros.training.config import MbpoAgentConfig, PolicyConfig, SacAgentConfig, load_as
from wm_ros.training.sac_learner import Batch, SacFitConfig, SacLearner
from wm_ros.training.simulated import SimulatedPlan, SimulatedTraining
from wm_ros.training.simulated_mbpo import MbpoTraining

OBSERVATIONS, ACTIONS, ROWS = 17, 6, 20_000
"""The half-cheetah's sizes."""
PEER = "stable-baselines3"
PEER_PYTHON = "WM_ROS_SB3_PYTHON"
"""Environment variable: the interpreter of a virtual environment with stable-baselines3, which is kept out of this project's own."""

# Runs in the peer's own interpreter and speaks by lines: the number of updates in, seconds out.
_PEER = textwrap.dedent("""
    import sys, time
    import gymnasium, numpy as np, stable_baselines3, torch
    from stable_baselines3.common.logger import Logger
    observations, actions, rows, batch, width, threads = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    class Empty(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (observations,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (actions,), np.float32)
        def reset(self, seed=None, options=None):
            return np.zeros(observations, np.float32), {}
    agent = stable_baselines3.SAC("MlpPolicy", Empty(), batch_size=batch, buffer_size=rows, device="cpu", seed=0,
                                  policy_kwargs={"net_arch": [width, width]})
    agent.set_logger(Logger(None, []))
    draw = np.random.default_rng(0)
    for _ in range(rows):
        row = draw.standard_normal((2, 1, observations)), draw.uniform(-1, 1, (1, actions)), draw.standard_normal(1)
        agent.replay_buffer.add(row[0][0], row[0][1], row[1], row[2], np.zeros(1), [{}])
    print(stable_baselines3.__version__, torch.__version__, flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        agent.train(int(line), batch)
        print(time.perf_counter() - started, flush=True)
""")


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    updates: int
    """Of one timing."""
    repeats: int
    frames: int
    """Of the short training that is timed."""
    mbpo_frames: int
    """Of that of MBPO, which does far more in each."""


def run(quick: bool) -> Iterator[Result]:
    """Updates per second with sampling, ours and the peer's in turns, on one thread and on two; then short trainings."""
    sizes = Sizes(100, 3, 3000, 1300) if quick else Sizes(500, 7, 10_000, 3000)
    rows = []
    for threads in sorted({1, min(2, os.cpu_count() or 1)}):
        rows.append(updates(sizes, threads))
        yield rows[-1]
    yield best(rows)
    yield training(sizes.frames, SacAgentConfig())
    yield training(sizes.mbpo_frames, load_as("mbpo", MbpoAgentConfig))


def best(rows: list[Result]) -> Result:
    """Each side with the number of threads that serves it best."""
    ours, peer = max(rows, key=lambda r: r.ours), max(rows, key=lambda r: r.peer)
    settings = {**ours.settings, "threads": f"{ours.settings['threads']}, peer {peer.settings['threads']}"}
    return replace(ours, name="SAC updates, each side at its best", peer=peer.peer, settings=settings)


def updates(sizes: Sizes, threads: int, config: SacConfig | None = None, fit: SacFitConfig | None = None) -> Result:
    """Gradient updates per second, each with its draw from the replay. Both sides use so many threads."""
    config, fit = config or SacConfig(), fit or SacFitConfig()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    sides: dict[str, Callable[[], float]] = {"ours": _ours(config, fit, sizes.updates)}
    peer = Peer.start(config, fit, threads)
    if peer is not None:
        sides["peer"] = lambda: sizes.updates / peer.seconds(sizes.updates)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    try:
        for repeat in range(sizes.repeats + 1):
            for name, side in sides.items():
                rate = side()
                if repeat:  # the first round warms up
                    rates[name].append(rate)
    finally:
        torch.set_num_threads(before)
        if peer is not None:
            peer.close()
    settings = {
        "networks": f"{config.layers} x {config.width}",
        "batch": fit.batch,
        "observations": OBSERVATIONS,
        "actions": ACTIONS,
        "threads": threads,
        "updates": sizes.updates,
        "repeats": sizes.repeats,
    }
    theirs = 0.0 if peer is None else median(rates["peer"])
    version = peer.version if peer is not None else f"{PEER} not found: {PEER_PYTHON}=/path/to/venv/bin/python names where it is installed"
    name = f"SAC updates, {threads} thread{'s' if threads > 1 else ''}"
    return Result(name, median(rates["ours"]), theirs, version, "updates/s", higher_is_better=True, settings=settings)


def training(frames: int, agent: PolicyConfig) -> Result:
    """Seconds per thousand environment steps of a whole training past its warm-up: simulation, acting, sampling, learning, with MBPO also
    fits of the model and rollouts in it. Settings: of the agent."""
    contract = schema.load("cartpole_swingup")
    plan = SimulatedPlan(contract.canonical_json(), agent, frames, frames, versions(), threads=1)
    kind, name = (MbpoTraining, "MBPO") if isinstance(agent, MbpoAgentConfig) else (SimulatedTraining, "SAC")
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        course = kind(plan, Path(folder))
        started = time.perf_counter()
        while not course.finished:
            if course.updates == 0:  # up to the last random action
                started, first = time.perf_counter(), course.frames
            course.step()
        seconds = (time.perf_counter() - started) / ((course.frames - first) / 2) * 1000
    torch.set_num_threads(before)
    networks = f"{agent.sac.layers} x {agent.sac.width}"
    settings = {"task": contract.name, "steps": frames // 2, "updates per step": agent.fit.updates_per_step, "networks": networks}
    settings |= {"batch": agent.fit.batch, "threads": 1}
    return Result(f"{name} training, with simulation", seconds, 0.0, "no peer", "s per 1000 steps", False, settings)


class Peer:
    """stable-baselines3 in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], version: str) -> None:
        self._process, self.version = process, version

    @classmethod
    def start(cls, config: SacConfig, fit: SacFitConfig, threads: int) -> Peer | None:
        """Begins, or None where stable-baselines3 is not installed."""
        python = os.environ.get(PEER_PYTHON, sys.executable)
        if shutil.which(python) is None:
            return None
        sizes = (OBSERVATIONS, ACTIONS, ROWS, fit.batch, config.width, threads)
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OMP_NUM_THREADS")}
        command = [python, "-W", "ignore", "-c", _PEER, *map(str, sizes)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment)
        assert process.stdout is not None
        found = process.stdout.readline().split()
        if len(found) != 2:
            process.wait()
            return None
        return cls(process, f"{PEER} {found[0]}, torch {found[1]}")

    def seconds(self, updates: int) -> float:
        """How long so many updates take."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{updates}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _ours(config: SacConfig, fit: SacFitConfig, count: int) -> Callable[[], float]:
    learner = SacLearner(_robot(), config, fit, torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    buffer = TransitionBuffer(ROWS, OBSERVATIONS, ACTIONS)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    action = rng.uniform(-1, 1, (ROWS, ACTIONS)).astype(np.float32)
    buffer.add(normal(ROWS, OBSERVATIONS), action, normal(ROWS), normal(ROWS, OBSERVATIONS), np.zeros(ROWS, np.bool_))

    def rate() -> float:
        started = time.perf_counter()
        for _ in range(count):
            batch = Batch.of(buffer.sample(rng, fit.batch, fit.discount))
            learner.update(batch, torch.from_numpy(normal(2, fit.batch, ACTIONS)))
        return count / (time.perf_counter() - started)

    return rate


def _robot() -> Contract:
    """A robot of these sizes; nothing else of it matters here."""
    data = schema.load("cartpole_swingup").model_dump(mode="json")
    features = [{"joint": f"joint_{i}", "field": "position", "units": "rad"} for i in range(OBSERVATIONS)]
    joints = [{"name": f"motor_{i}", "low": -1.0, "high": 1.0, "units": "N"} for i in range(ACTIONS)]
    data |= {"name": "bench", "simulator": None, "observation": [{**data["observation"][0], "features": features}]}
    return schema.parse({**data, "action": {**data["action"], "joints": joints}}, "bench sac")
