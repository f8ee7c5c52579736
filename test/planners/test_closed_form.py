"""Planners on quadratic problems, whose optima are a linear equation or a small box-constrained program away."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from planner_worlds import Linear
from torch import Tensor

from wm_ros.planners.cem import CEMConfig
from wm_ros.planners.choice import make
from wm_ros.planners.gradient import GradientConfig
from wm_ros.planners.icem import ICEMConfig
from wm_ros.planners.ilqr import ILQRConfig
from wm_ros.planners.mppi import MPPIConfig
from wm_ros.planners.plan import Plan
from wm_ros.planners.planner import PlannerConfig
from wm_ros.planners.random_shooting import RandomShootingConfig

START = torch.tensor([1.0, -0.5])
PLANNERS: dict[str, PlannerConfig] = {
    "cem": CEMConfig(horizon=4, candidates=300, iterations=12, elites=30),
    "icem": ICEMConfig(horizon=4, candidates=300, iterations=12, elites=30, noise_exponent=0.0),
    "mppi": MPPIConfig(horizon=4, candidates=2000, iterations=40, temperature=0.02, noise_exponent=0.0, std=0.25),
    "gradient": GradientConfig(horizon=4, starts=2, iterations=80, learning_rate=0.05),
    "ilqr": ILQRConfig(horizon=4, iterations=8, draws=0),
}
WIDE, NARROW = 4.0, 0.4


def planned(config: PlannerConfig, limit: float, world: Linear | None = None, seed: int = 0, **more: Any) -> Plan:
    world = world or Linear()
    planner = make(config, torch.full((world.action_size,), -limit), torch.full((world.action_size,), limit), **more)
    generator = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(shape, generator=generator) for name, shape in planner.noise_shapes(world).items()}
    carry = {name: torch.zeros(shape) for name, shape in planner.carry_shapes().items()}
    return planner(world, START, carry, noise)


def box_optimum(world: Linear, horizon: int, limit: float) -> tuple[Tensor, float]:
    """The best actions within the limits by brute force: every choice of what is at which limit, the rest by a linear equation."""
    p, linear = (t.double().numpy() for t in world.quadratic(START, horizon))
    best, lowest = np.zeros(len(linear)), np.inf
    for pattern in itertools.product((-limit, 0.0, limit), repeat=len(linear)):
        fixed = np.array(pattern)
        free = fixed == 0.0
        u = fixed.copy()
        if free.any():
            u[free] = np.linalg.solve(p[np.ix_(free, free)], -(linear + p @ fixed)[free])
        cost = 0.5 * u @ p @ u + linear @ u
        if np.abs(u).max() <= limit + 1e-12 and cost < lowest:
            best, lowest = u, cost
    return torch.from_numpy(best).float().reshape(horizon, -1), lowest


@pytest.mark.parametrize("limit", [WIDE, NARROW])
@pytest.mark.parametrize("name", PLANNERS)
def test_the_optimum_within_the_limits_is_found(name: str, limit: float) -> None:
    world = Linear()
    found = planned(PLANNERS[name], limit)
    optimum, _ = box_optimum(world, 4, limit)
    assert limit == WIDE or float(optimum.abs().max()) == pytest.approx(limit), "the narrow limits must bind"
    assert float((found.actions - optimum).abs().max()) < 0.05 * limit
    best = float(world.rollout(START, optimum.unsqueeze(1), None).reward.sum())
    assert best - 2e-3 * abs(best) <= float(found.value) <= best + 1e-5


def test_random_shooting_comes_as_near_as_the_spacing_of_its_draws() -> None:
    world, config = Linear(), RandomShootingConfig(horizon=1, candidates=4000)
    found, (optimum, _) = planned(config, WIDE, world), box_optimum(world, 1, WIDE)
    assert float((found.actions - optimum).abs().max()) < 20 * 2 * WIDE / 4000
    coarse = RandomShootingConfig(horizon=4, shown=1)
    more = [float(planned(replace(coarse, candidates=n), 1.0, world).value) for n in (3, 100, 3000)]
    assert more[0] < more[1] < more[2]


@pytest.mark.parametrize("exponent", [0.0, 2.0])
def test_each_action_of_random_shooting_is_drawn_evenly_over_the_limits(exponent: float) -> None:
    drawn: list[Tensor] = []

    class Spy(Linear):
        def rollout(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Any:
            drawn.append(actions)
            return super().rollout(observation, actions, noise)

    planned(RandomShootingConfig(horizon=6, candidates=5000, noise_exponent=exponent), 2.0, Spy())
    for h in range(6):
        counts = np.histogram(drawn[0][h, :5000, 0].numpy(), bins=10, range=(-2.0, 2.0))[0]
        assert counts.sum() == 5000 and abs(counts - 500).max() < 100


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("control_cost", [0.0, 0.3])
@pytest.mark.parametrize("exponent", [0.0, 1.5])
def test_mppi_is_the_softmax_mean_of_its_draws(relative: bool, control_cost: float, exponent: float) -> None:
    """Algorithm 2 of Williams et al. (2017) in double precision, with the covariance of the draws inverted as a matrix."""
    world, horizon = Linear(), 5
    config = MPPIConfig(
        horizon=horizon, candidates=64, iterations=1, temperature=0.5, relative=relative,
        std=0.3, noise_exponent=exponent, control_cost=control_cost,
    )  # fmt: skip
    planner = make(config, torch.tensor([-2.0]), torch.tensor([2.0]))
    generator = torch.Generator().manual_seed(3)
    noise = {"actions": torch.randn(planner.noise_shapes(world)["actions"], generator=generator)}
    nominal = torch.linspace(-0.4, 0.4, horizon).unsqueeze(1)
    found = planner(world, START, {"mean": nominal}, noise)

    color = 0.3 * planner.coloring.double().numpy()
    covariance, u = color @ color.T, nominal.double().numpy()[:, 0]
    draws = noise["actions"][0, :, 0].double().numpy() @ color.T
    sequences = np.clip(u + draws, -1, 1)
    cost = -world.rollout(START, 2 * torch.from_numpy(sequences).float().T.unsqueeze(-1), None).reward.sum(0)[0].double().numpy()
    cost = cost + control_cost * draws @ np.linalg.solve(covariance, u)
    scale = 0.5 * cost.std() if relative else 0.5
    weights = np.exp(-(cost - cost.min()) / scale)
    expected = 2 * weights @ sequences / weights.sum()
    np.testing.assert_allclose(found.actions[:, 0].numpy(), expected, atol=2e-5)


def test_mppi_moves_along_a_linear_return_by_variance_over_temperature() -> None:
    """For a Gaussian of variance σ² weighted by exp(g u / λ) the mean is σ² g / λ."""

    class Slope(Linear):
        def rollout(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Any:
            imagined = super().rollout(observation, actions, noise)
            return imagined._replace(reward=(0.2 * actions[..., 0]).unsqueeze(1))

    config = MPPIConfig(horizon=2, candidates=40_000, iterations=1, temperature=0.5, relative=False, std=0.1, noise_exponent=0.0)
    found = planned(config, 1.0, Slope())
    np.testing.assert_allclose(found.actions[:, 0].numpy(), 0.1**2 * 0.2 / 0.5, atol=0.002)
