"""Ensemble training: member-samples per second of `training.fit` beside one torch module per member, and beside mbrl-lib."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wm_ros.cli.bench import Result
from wm_ros.contract import schema
from wm_ros.contract.schema import Contract
from wm_ros.models.dynamics import ObservationDynamics
from wm_ros.models.ensemble import EnsembleConfig
from wm_ros.models.transitions import Transitions
from wm_ros.training import config
from wm_ros.training.fit import fit

_ROWS = 5000
MBRL = "mbrl==0.2.0"


@dataclass(frozen=True)
class Sizes:
    """What is trained."""

    name: str
    observations: int
    actions: int
    ensemble: EnsembleConfig
    batch: int

    @property
    def inputs(self) -> int:
        return self.observations + self.actions


Step = Callable[[Tensor, Tensor], object]
"""One gradient step on inputs `[M, B, I]` and targets `[M, B, D]`."""


def run(quick: bool) -> list[Result]:
    """Member-samples per second at mbrl-lib's usual sizes and at those of the shipped agent; the sides take turns."""
    shipped = config.load("pets")
    pets, cartpole = shipped.pets, schema.load("cartpole_swingup")
    sizes = [
        # 17 observations and the reward out, 6 actions in: the half-cheetah of mbrl-lib's PETS example.
        Sizes("ensemble training, half-cheetah", 18, 5, EnsembleConfig(members=7, elites=5, layers=4, width=200), 256),
        Sizes(
            "ensemble training, cart-pole agent",
            cartpole.observation_size,
            pets.stride * cartpole.action_size,
            pets.ensemble,
            shipped.fit.batch,
        ),
    ]
    steps, repeats = (20, 3) if quick else (300, 7)
    return [result for s in sizes for result in _compare(s, steps, repeats)]


def _compare(sizes: Sizes, steps: int, repeats: int) -> list[Result]:
    rng = np.random.default_rng(0)
    observation, actions, following = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((_ROWS, sizes.observations), (_ROWS, 1, sizes.actions), (_ROWS, sizes.observations))
    )
    rows = Transitions(observation, actions, following)
    inputs = torch.from_numpy(np.concatenate([observation, actions[:, 0]], axis=1))
    targets = torch.from_numpy(following - observation)
    sides: dict[str, Callable[[], float]] = {
        "ours": lambda: _ours(sizes, rows, steps),
        "plain": lambda: _loop(_plain(sizes), sizes, inputs, targets, steps),
    }
    step = _mbrl(sizes)
    if step is not None:
        sides["mbrl"] = lambda: _loop(step, sizes, inputs, targets, steps)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, run in sides.items():
            rate = run()
            if repeat:  # the first round warms up
                rates[name].append(rate)
    e = sizes.ensemble
    settings = {
        "members": e.members,
        "layers": f"{e.layers} x {e.width}",
        "inputs": sizes.inputs,
        "outputs": f"2 x {sizes.observations}",
        "batch": sizes.batch,
        "steps": steps,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
    }
    ours = median(rates["ours"])

    def result(peer: float, version: str) -> Result:
        return Result(sizes.name, ours, peer, version, "member-samples/s", higher_is_better=True, settings=settings)

    absent = f"mbrl-lib is not installed here: pip install --no-deps {MBRL} hydra-core omegaconf termcolor gym"
    return [
        result(median(rates["plain"]), f"torch {torch.__version__}, one nn.Module per member"),
        result(median(rates["mbrl"]), f"mbrl-lib {_mbrl_version()}") if step is not None else result(0.0, absent),
    ]


def _ours(sizes: Sizes, rows: Transitions, steps: int) -> float:
    model = ObservationDynamics(_robot(sizes), sizes.ensemble, stride=1)
    model.network.initialize(torch.Generator().manual_seed(0))
    settings = replace(config.load("pets").fit, batch=sizes.batch, steps=steps, patience=steps)
    return fit(model, rows, settings, seed=0).samples_per_second


def _loop(step: Step, sizes: Sizes, inputs: Tensor, targets: Tensor, steps: int) -> float:
    """What a training loop around a model does: draw each member's batch, and step."""
    members, generator = sizes.ensemble.members, torch.Generator().manual_seed(0)
    bootstrap = torch.randint(len(inputs), (members, len(inputs)), generator=generator)
    member = torch.arange(members).unsqueeze(1)
    started = time.perf_counter()
    for _ in range(steps):
        pick = bootstrap[member, torch.randint(len(inputs), (members, sizes.batch), generator=generator)]
        step(inputs[pick], targets[pick])
    return steps * members * sizes.batch / (time.perf_counter() - started)


def _plain(sizes: Sizes) -> Step:
    """The same networks and loss, as most people write an ensemble: a list of modules and a loop."""
    e = sizes.ensemble
    widths = [sizes.inputs, *[e.width] * e.layers]

    def network() -> nn.Sequential:
        hidden = [layer for i, o in itertools.pairwise(widths) for layer in (nn.Linear(i, o), nn.SiLU())]
        return nn.Sequential(*hidden, nn.Linear(e.width, 2 * sizes.observations))

    networks = nn.ModuleList(network() for _ in range(e.members))
    low = nn.Parameter(torch.full((sizes.observations,), e.log_variance_low))
    high = nn.Parameter(torch.full((sizes.observations,), e.log_variance_high))
    optimizer = torch.optim.Adam([*networks.parameters(), low, high], lr=1e-3)

    def step(inputs: Tensor, targets: Tensor) -> float:
        loss = 0.01 * (high.sum() - low.sum())
        for m, member in enumerate(networks):
            mean, raw = member(inputs[m]).chunk(2, dim=-1)
            log_variance = low + nn.functional.softplus(high - nn.functional.softplus(high - raw) - low)
            loss = loss + ((mean - targets[m]) ** 2 * torch.exp(-log_variance) + log_variance).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def _mbrl(sizes: Sizes) -> Step | None:
    """mbrl-lib's ensemble and its own update; None where it is not installed."""
    try:
        from mbrl.models import GaussianMLP
    except ImportError:
        return None
    e = sizes.ensemble
    model = GaussianMLP(
        sizes.inputs,
        sizes.observations,
        "cpu",
        num_layers=e.layers,
        ensemble_size=e.members,
        hid_size=e.width,
        learn_logvar_bounds=True,
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(inputs: Tensor, targets: Tensor) -> Any:
        return model.update(inputs, optimizer, target=targets)

    return step


def _mbrl_version() -> str:
    from importlib import metadata

    return metadata.version("mbrl")


def _robot(sizes: Sizes) -> Contract:
    """A robot with so many plain observations and actions; nothing of it but the sizes matters here."""
    data = schema.load("cartpole_swingup").model_dump(mode="json")
    joints = ["rootx", *(f"joint_{i}" for i in range(1, sizes.observations))]
    features = [{"joint": joint, "field": "velocity", "units": "rad/s"} for joint in joints]
    channel = {**data["observation"][0], "features": features}
    actions = [{"name": f"motor_{i}", "low": -1.0, "high": 1.0, "units": "N"} for i in range(sizes.actions)]
    data |= {"name": "bench", "simulator": None, "observation": [channel], "action": {**data["action"], "joints": actions}}
    data["reward"] = {"function": "wm_ros.contract.rewards:cheetah_run", "parameters": {"speed": 1.0}}
    return schema.parse(data, "bench train")
