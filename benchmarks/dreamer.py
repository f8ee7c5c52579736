"""Dreamer: milliseconds per update of 16 stretches of 64 rows beside sheeprl's, and per policy step in onnxruntime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from wm_ros.agents.dreamer import V3, DreamerConfig, DreamerController
from wm_ros.cli.bench import Result
from wm_ros.contract import schema
from wm_ros.contract.schema import Contract
from wm_ros.export import controller as export
from wm_ros.export.template import template
from wm_ros.runtime.controller import ControllerSession
from wm_ros.runtime.heap import keep_freed_memory
from wm_ros.training.dreamer_learner import V3_FIT, DreamerFitConfig, DreamerLearner, SequenceBatch

OBSERVATIONS, ACTIONS = 17, 6
"""The half-cheetah's sizes."""
NO_PEER = "no peer"
PEER = "sheeprl"
PEER_PYTHON = "WM_ROS_SHEEPRL_PYTHON"
"""Environment variable: the interpreter of a virtual environment with sheeprl, which is kept out of this project's own."""
NOT_FOUND = f"{PEER} not found: {PEER_PYTHON}=/path/to/venv/bin/python names where it is installed"
LARGE = replace(
    V3,
    rssm=replace(V3.rssm, deter=512, hidden=512, classes=32),
    world=replace(V3.world, units=512),
    units=512,
)
"""The sizes of the usual torch versions of DreamerV3: 32 x 32 latents, 512 units everywhere."""


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    repeats: int
    steps: int
    """Policy steps."""


def run(quick: bool) -> Iterator[Result]:
    """Updates of V3 at two sizes, ours and the peer's in turns with every core, and the policy step of both with one."""
    sizes = Sizes(2, 200) if quick else Sizes(5, 2000)
    configs = {"1M": V3, "512 units": LARGE}
    for name, config in configs.items():
        yield update(sizes, f"DreamerV3 update, {name}", config, V3_FIT)
    for name, config in configs.items():
        yield policy_step(sizes, f"DreamerV3 policy step, {name}", config)


def update(sizes: Sizes, name: str, config: DreamerConfig, fit: DreamerFitConfig) -> Result:
    """One update of world model, actor and critic, with its noise."""
    threads, before = os.cpu_count() or 1, torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    learner = DreamerLearner(_robot(), config, fit, generator)
    shape = (fit.batch, fit.length)
    first = torch.zeros(shape, dtype=torch.bool)
    first[:: max(1, fit.batch // 4), fit.length // 2] = True
    batch = SequenceBatch(
        torch.randn((*shape, OBSERVATIONS), generator=generator),
        torch.rand((*shape, ACTIONS), generator=generator),
        torch.randn(shape, generator=generator),
        torch.zeros(shape, dtype=torch.bool),
        first,
    )
    keep_freed_memory()
    torch.set_num_threads(threads)
    peer = Peer.start(config, fit, threads)
    sides: dict[str, Callable[[], object]] = {"ours": lambda: learner.update(batch, learner.draw_noise(generator))}
    if peer is not None:
        sides["peer"] = peer.update
    times: dict[str, list[float]] = {side: [] for side in sides}
    try:
        for repeat in range(sizes.repeats + 1):
            for side, work in sides.items():
                started = time.perf_counter()
                work()
                if repeat:  # the first round warms up
                    times[side].append((time.perf_counter() - started) * 1e3)
    finally:
        torch.set_num_threads(before)
        if peer is not None:
            peer.close()
    settings = {
        "batch": f"{fit.batch} x {fit.length}",
        "horizon": fit.horizon,
        "parameters": sum(o.values.numel() for o in learner.optimizers.values()),
        "threads": threads,
        "repeats": sizes.repeats,
    }
    if peer is None:
        return Result(name, median(times["ours"]), 0.0, NOT_FOUND, "ms", higher_is_better=False, settings=settings)
    settings["peer's parameters"] = peer.parameters
    return Result(name, median(times["ours"]), median(times["peer"]), peer.version, "ms", higher_is_better=False, settings=settings)


class Peer:
    """sheeprl's DreamerV3 at equal sizes, in a process of its own (`dreamer_peer.py`)."""

    def __init__(self, process: subprocess.Popen[str], about: dict[str, str | int]) -> None:
        self._process, self.version = process, f"{PEER} {about['sheeprl']}, torch {about['torch']}"
        self.parameters = about["parameters"]

    @classmethod
    def start(cls, config: DreamerConfig, fit: DreamerFitConfig, threads: int) -> Peer | None:
        """Begins, or None where sheeprl is not installed."""
        python, rssm = os.environ.get(PEER_PYTHON, sys.executable), config.rssm
        if shutil.which(python) is None:
            return None
        sizes = {name: getattr(rssm, name) for name in ("groups", "classes", "deter", "hidden", "blocks")}
        sizes |= {name: getattr(fit, name) for name in ("batch", "length", "horizon")}
        sizes |= {"units": config.units, "observations": OBSERVATIONS, "actions": ACTIONS, "threads": threads}
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OMP_NUM_THREADS")}
        pipe = subprocess.PIPE
        command = [python, str(Path(__file__).with_name("dreamer_peer.py")), json.dumps(sizes)]
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment)
        assert process.stdout is not None
        found = process.stdout.readline()
        if not found.startswith("{"):
            process.kill()
            process.wait()
            return None
        return cls(process, json.loads(found))

    def update(self) -> None:
        """One update."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("1\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise RuntimeError(f"{self.version} ended: run benchmarks/dreamer_peer.py by hand to see why")

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def policy_step(sizes: Sizes, name: str, config: DreamerConfig) -> Result:
    """One tick of the controller as the robot runs it."""
    contract, observation = _robot(), np.ones(OBSERVATIONS, np.float32)
    controller = DreamerController(contract, config)
    controller.networks.initialize(torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "controller.onnx"
        export.write(path, template(controller, contract), controller, contract, export.Origin(version=1, seed=0))
        session = ControllerSession.load(path, contract)
    session.reset(0)

    def step() -> None:
        session.act(observation)
        session.prepare()

    times = _milliseconds(step, sizes.steps)
    settings = {"observations": OBSERVATIONS, "actions": ACTIONS, "threads": 1, "p99": f"{np.quantile(times, 0.99):.3g} ms"}
    return Result(name, median(times), 0.0, NO_PEER, "ms", higher_is_better=False, settings=settings)


def _milliseconds(work: Callable[[], object], repeats: int) -> list[float]:
    work()  # warms up
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1e3)
    return times


def _robot() -> Contract:
    """A robot of these sizes; nothing else of it matters here."""
    data = schema.load("cartpole_swingup").model_dump(mode="json")
    features = [{"joint": f"joint_{i}", "field": "position", "units": "rad"} for i in range(OBSERVATIONS)]
    joints = [{"name": f"motor_{i}", "low": -1.0, "high": 1.0, "units": "N"} for i in range(ACTIONS)]
    data |= {"name": "bench", "simulator": None, "observation": [{**data["observation"][0], "features": features}]}
    return schema.parse({**data, "action": {**data["action"], "joints": joints}}, "bench dreamer")
