"""iLQR against the Riccati equation, its parts against differences and brute force, and what it does where it diverges."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from cartpole_models import contract, random_dynamics
from planner_worlds import Linear
from torch import Tensor

from wm_ros.export.template import graph_of
from wm_ros.models.simulator import SimulatorModel
from wm_ros.planners import box_qp
from wm_ros.planners.derivatives import by_autodiff, by_differences, hessian
from wm_ros.planners.ilqr import ILQR, ILQRConfig
from wm_ros.planners.plan import Plan

CONFIG = ILQRConfig(horizon=12, iterations=6, draws=0, regularization=1e-4)


def planned(config: ILQRConfig, world: Any, start: Tensor, limit: float, seed: int = 0, **more: Any) -> Plan:
    joints = getattr(world, "action_size", 1)
    planner = ILQR(config, torch.full((joints,), -limit), torch.full((joints,), limit), **more).to(start.dtype)
    generator = torch.Generator().manual_seed(seed)
    noise = {n: torch.randn(s, generator=generator, dtype=start.dtype) for n, s in planner.noise_shapes(world).items()}
    return planner(world, start, {"best": torch.zeros(config.horizon, joints, dtype=start.dtype)}, noise)


def double(world: Linear) -> Linear:
    return replace(world, a=world.a.double(), b=world.b.double(), q=world.q.double(), r=world.r.double())


def riccati(world: Linear, horizon: int) -> list[Tensor]:
    """Gains K_h of u_h = -K_h x_h for reward -(x'ᵀ Q x' + uᵀ R u): the discrete Riccati recursion from the end."""
    a, b, q, r = world.a, world.b, world.q, world.r
    p, gains = torch.zeros_like(a), []
    for _ in range(horizon):
        s = q + p
        gain = torch.linalg.solve(r + b.T @ s @ b, b.T @ s @ a)
        p = a.T @ s @ (a - b @ gain)
        gains.append(gain)
    return gains[::-1]


@pytest.mark.parametrize("joints", [1, 2, 3])
def test_a_linear_system_is_driven_by_the_riccati_gains(joints: int) -> None:
    generator = torch.Generator().manual_seed(joints)
    world = double(Linear(b=torch.randn(2, joints, generator=generator), r=0.2 * torch.eye(joints)))
    gains = riccati(world, 12)
    for start in torch.eye(2, dtype=torch.float64):
        plan = planned(CONFIG, world, start, 50.0)
        state = start
        for gain, action in zip(gains, plan.actions, strict=True):
            torch.testing.assert_close(action, -gain @ state, atol=1e-6, rtol=0)
            state = world.a @ state + world.b @ action


def test_over_a_long_horizon_the_first_action_is_that_of_the_stationary_gain() -> None:
    world = double(Linear())
    p = world.q
    for _ in range(5000):  # the fixed point of the Riccati recursion
        p = world.q + world.a.T @ p @ (world.a - world.b @ torch.linalg.solve(world.r + world.b.T @ p @ world.b, world.b.T @ p @ world.a))
    gain = torch.linalg.solve(world.r + world.b.T @ p @ world.b, world.b.T @ p @ world.a)
    first = [float(planned(replace(CONFIG, horizon=120), world, start, 50.0).action[0]) for start in torch.eye(2, dtype=torch.float64)]
    np.testing.assert_allclose(first, -gain[0].numpy(), atol=1e-6)


def test_a_terminal_value_takes_the_place_of_the_steps_behind_the_horizon() -> None:
    """With the exact value of the stationary problem, three steps act as a hundred do."""
    world = double(Linear())
    p = torch.zeros_like(world.q)
    for _ in range(5000):
        s = world.q + p
        p = world.a.T @ s @ (world.a - world.b @ torch.linalg.solve(world.r + world.b.T @ s @ world.b, world.b.T @ s @ world.a))
    start = torch.tensor([1.0, -0.5], dtype=torch.float64)
    short = planned(replace(CONFIG, horizon=3), world, start, 50.0, value=lambda x: -(x @ p * x).sum(dim=-1))
    long = planned(replace(CONFIG, horizon=120), world, start, 50.0)
    torch.testing.assert_close(short.actions, long.actions[:3], atol=1e-6, rtol=0)


def test_the_course_of_a_curved_problem_is_a_stationary_point() -> None:
    """With curved dynamics and the limits out of reach, the slope of the return along every action vanishes."""

    class Pendulum(Linear):
        def step(self, observation: Tensor, action: Tensor) -> Any:
            angle, speed = observation.unbind(-1)
            faster = speed + 0.2 * torch.sin(angle) + 0.2 * action[:, 0]
            after = torch.stack([angle + 0.2 * faster, faster], dim=-1)
            return super().step(observation, action)._replace(
                observation=after, reward=torch.cos(after[:, 0]) - 0.05 * after[:, 1] ** 2 - 0.02 * action[:, 0] ** 2
            )

    world, start = double(Pendulum()), torch.tensor([2.0, 0.0], dtype=torch.float64)
    plan = planned(replace(CONFIG, horizon=15, iterations=60), world, start, 100.0)
    slope = torch.func.grad(lambda u: world.rollout(start, u.unsqueeze(1), None).reward.sum())(plan.actions)
    assert float(slope.abs().max()) < 1e-5
    assert float(plan.value) > float(world.rollout(start, torch.zeros(15, 1, 1).double(), None).reward.sum()) + 1.0


@pytest.mark.parametrize("joints", [1, 2, 3, 4])
def test_the_quadratic_program_is_that_of_brute_force(joints: int) -> None:
    rng = np.random.default_rng(joints)
    for _ in range(25):
        root = rng.standard_normal((joints, joints))
        h, q = root @ root.T + 0.05 * np.eye(joints), 2 * rng.standard_normal(joints)
        low, high = -rng.uniform(0, 1, joints), rng.uniform(0, 1, joints)
        best, lowest = np.zeros(joints), math.inf
        for pattern in itertools.product((0, 1, 2), repeat=joints):
            x = np.choose(pattern, (np.zeros(joints), low, high))
            free = np.array(pattern) == 0
            if free.any():
                x[free] = np.linalg.solve(h[np.ix_(free, free)], -(q + h @ x)[free])
            cost = 0.5 * x @ h @ x + q @ x
            if (x >= low - 1e-12).all() and (x <= high + 1e-12).all() and cost < lowest:
                best, lowest = x, cost
        solved = box_qp.solve(*(torch.from_numpy(t) for t in (h, q, low, high)), iterations=12)
        np.testing.assert_allclose(solved.x.numpy(), best, atol=1e-6)
        free = (best > low + 1e-9) & (best < high - 1e-9)
        expected = np.zeros((joints, joints))
        expected[np.ix_(free, free)] = np.linalg.inv(h[np.ix_(free, free)])
        np.testing.assert_allclose(solved.inverse.numpy(), expected, atol=1e-6)
        assert bool(solved.definite)


def test_the_quadratic_program_fits_into_a_graph() -> None:
    class Program(torch.nn.Module):
        def forward(self, h: Tensor, q: Tensor) -> tuple[Tensor, ...]:
            solved = box_qp.solve(h, q, torch.full_like(q, -0.4), torch.full_like(q, 0.6), 2)
            return solved.x, solved.inverse, solved.definite.to(q.dtype)

    generator = torch.Generator().manual_seed(0)
    root, q = torch.randn(5, 3, 3, generator=generator), torch.randn(5, 3, generator=generator)
    h = root @ root.mT + 0.3 * torch.eye(3)
    graph = graph_of(Program(), (h, q), ["h", "q"], ["x", "inverse", "definite"])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for got, expected in zip(session.run(None, {"h": h.numpy(), "q": q.numpy()}), Program()(h, q), strict=True):
        np.testing.assert_allclose(got, expected.numpy(), atol=1e-5, rtol=1e-5)


def test_a_matrix_that_is_not_definite_is_told() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 5):
        for _ in range(20):
            matrix = rng.standard_normal((size, size))
            matrix = matrix + matrix.T + rng.uniform(-1, 4) * np.eye(size)
            inverse, pivot = box_qp.inverse_definite(torch.from_numpy(matrix))
            assert bool(pivot > 0) == bool(np.linalg.eigvalsh(matrix)[0] > 0)
            np.testing.assert_allclose(inverse.numpy(), np.linalg.inv(matrix), rtol=1e-6, atol=1e-6)


def test_derivatives_of_a_network_are_those_of_differences() -> None:
    model = random_dynamics(stride=2, sample=False).double()

    def step(z: Tensor) -> tuple[Tensor, Tensor]:
        made = model.step(z[:, :5], z[:, 5:])
        return made.observation, made.reward

    z = torch.randn(7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([0.3, 1, 1, 1, 1, 3])
    exact, near = by_autodiff(step, z), by_differences(step, z, 1e-4)
    for name in ("jacobian", "gradient", "hessian"):
        torch.testing.assert_close(getattr(exact, name), getattr(near, name), atol=2e-6, rtol=1e-5)
    assert exact.jacobian.shape == (7, 5, 6) and exact.hessian.shape == (7, 6, 6)


def test_a_hessian_is_that_of_the_formula() -> None:
    z = torch.tensor([[0.3, -1.2], [2.0, 0.5]], dtype=torch.float64)
    x, y = z.unbind(-1)
    crossed = 2 * y * torch.cos(x)
    rows = [torch.stack([-torch.sin(x) * y**2, crossed], -1), torch.stack([crossed, 2 * torch.sin(x)], -1)]
    expected = torch.stack(rows, -2)
    torch.testing.assert_close(hessian(lambda p: torch.sin(p[:, 0]) * p[:, 1] ** 2, z), expected)


def test_the_simulator_is_planned_with_by_differences() -> None:
    start = torch.tensor([0.0, math.sin(0.4), math.cos(0.4), 0.0, 0.0])
    world = SimulatorModel(contract(), stride=2, threads=1)
    plan = planned(replace(CONFIG, horizon=20, iterations=5, draws=4, regularization=0.1), world, start, 10.0)
    idle = world.rollout(start, torch.zeros(20, 1, 1), None).observation
    assert bool(plan.ok) and float(idle[-1, 0, 0, 2]) < 0.0
    assert float(plan.observations[-1, 2]) > 0.9


@pytest.mark.parametrize(
    ("blow_up", "start", "plannable"), [(10.0, 0.05, True), (10.0, 30.0, False), (1e30, 1.0, False), (math.nan, 0.0, False)]
)
def test_what_diverges_gives_a_flag_or_the_best_finite_plan_and_never_nan(blow_up: float, start: float, plannable: bool) -> None:
    """x' = x + c x³ + u leaves every number type from far out, and can be held near zero."""

    class Explosive(Linear):
        def step(self, observation: Tensor, action: Tensor) -> Any:
            made = super().step(observation, action)
            after = observation + blow_up * observation**3 + action
            return made._replace(observation=after, reward=-(after**2).sum(dim=-1))

    plan = planned(replace(CONFIG, draws=8), Explosive(), torch.full((2,), start), 1.0)
    assert bool(torch.isfinite(plan.actions).all()) and bool(torch.isfinite(plan.carry["best"]).all())
    assert bool(plan.ok) == plannable and (not plannable or float(plan.value) > -0.1)
