"""The planner on models whose best plan is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from cartpole_models import TrueCartPole, contract
from torch import Tensor

from wm_ros.models.world_model import Imagined
from wm_ros.planners.icem import ICEM, ICEMConfig
from wm_ros.planners.plan import Plan
from wm_ros.sim.episode import run_episode
from wm_ros.sim.simulator import Simulator

LOW, HIGH = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 10.0])
CONFIG = ICEMConfig(horizon=4, candidates=200, iterations=8, elites=20, kept=5, noise_exponent=0.0, initial_std=0.5, momentum=0.1)


@dataclass
class Rewarding:
    """A world whose rewards `[H, M, N]` are a function of the actions `[H, N, A]` alone."""

    reward: Callable[[Tensor], Tensor]
    members: int = 1
    stride: int = 1

    def noise_shape(self, horizon: int) -> None:
        return None

    def rollout(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Imagined:
        reward = self.reward(actions)
        reward = reward.unsqueeze(1).expand(-1, self.members, -1) if reward.ndim == 2 else reward
        following = observation + torch.cumsum(actions, dim=0)[..., :1]
        return Imagined(following.unsqueeze(1).expand(-1, self.members, -1, -1), reward, None)


TARGET = torch.tensor([[1.5, 2.0], [-1.0, 5.0], [0.5, 8.0], [-1.9, 1.0]])


def quadratic(actions: Tensor) -> Tensor:
    return -(((actions - TARGET.unsqueeze(1)) / torch.tensor([2.0, 5.0])) ** 2).sum(dim=-1)


def empty(planner: ICEM) -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name, shape in planner.carry_shapes().items()}


def plan(model: Rewarding, config: ICEMConfig = CONFIG, seed: int = 0, carry: dict[str, Tensor] | None = None) -> Plan:
    planner = ICEM(config, LOW, HIGH)
    generator = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(shape, generator=generator) for name, shape in planner.noise_shapes(model).items()}
    return planner(model, torch.zeros(3), carry or empty(planner), noise)


def test_the_optimum_of_a_quadratic_is_found() -> None:
    found = plan(Rewarding(quadratic))
    half_range = (HIGH - LOW) / 2
    assert float(((found.actions - TARGET) / half_range).abs().max()) < 0.05
    assert float(found.value) == pytest.approx(float(quadratic(found.actions.unsqueeze(1)).sum()), abs=1e-5)
    assert bool(found.ok) and torch.equal(found.action, found.actions[0])


def test_an_optimum_out_of_reach_ends_at_the_limits() -> None:
    found = plan(Rewarding(lambda actions: actions[..., 0] - actions[..., 1]), replace(CONFIG, initial_std=3.0))
    assert bool((found.actions[:, 0] >= 1.9).all() and (found.actions[:, 0] <= 2.0).all())
    assert bool((found.actions[:, 1] <= 0.25).all() and (found.actions[:, 1] >= 0.0).all())


def test_all_candidates_are_within_the_limits() -> None:
    seen: list[Tensor] = []

    def spy(actions: Tensor) -> Tensor:
        seen.append(actions)
        return quadratic(actions)

    plan(Rewarding(spy), replace(CONFIG, initial_std=5.0))
    every = torch.cat([a.flatten(0, 1) for a in seen])
    assert len(seen) == CONFIG.iterations
    assert bool(((every >= LOW - 1e-6) & (every <= HIGH + 1e-6)).all())
    assert bool((every == HIGH).any()), "the test must reach the limits"


def test_the_same_noise_gives_the_same_plan() -> None:
    first, again, other = plan(Rewarding(quadratic)), plan(Rewarding(quadratic)), plan(Rewarding(quadratic), seed=1)
    assert torch.equal(first.actions, again.actions) and not torch.equal(first.actions, other.actions)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_candidates_without_a_finite_return_are_never_chosen(poison: float) -> None:
    found = plan(Rewarding(lambda a: torch.where(a[..., 0] > 0.0, torch.tensor(poison), a[..., 0])))
    assert bool(found.ok) and math.isfinite(float(found.value))
    assert bool((found.actions[:, 0] <= 0.0).all()) and float(found.actions[:, 0].min()) > -0.5


def test_without_any_finite_return_the_plan_says_so() -> None:
    found = plan(Rewarding(lambda a: torch.full(a.shape[:2], math.nan)))
    assert not bool(found.ok) and bool(torch.isfinite(found.actions).all())


def test_the_returns_are_those_of_the_best_candidates_best_first() -> None:
    found = plan(Rewarding(quadratic))
    assert found.returns.shape == (CONFIG.elites,) and found.candidates.shape == (CONFIG.elites, 4, 3)
    assert bool((found.returns[:-1] >= found.returns[1:]).all()) and float(found.returns[0]) == float(found.value)
    torch.testing.assert_close(found.candidates[0], found.observations)
    torch.testing.assert_close(found.observations[:, 0], torch.cumsum(found.actions[:, 0], dim=0))


@pytest.mark.parametrize(("stride", "share"), [(1, 1.0), (2, 0.5), (4, 0.25)])
def test_the_next_plan_starts_from_this_one_moved_on_by_a_tick(stride: int, share: float) -> None:
    found = plan(Rewarding(quadratic, stride=stride))
    best = ((found.actions - (HIGH + LOW) / 2) / ((HIGH - LOW) / 2)).numpy()
    knots, tick = np.arange(4.0), share  # a tick is this share of a knot
    for a in range(2):
        expected = np.interp(knots + tick, knots, best[:, a])
        np.testing.assert_allclose(found.carry["elites"][0, :, a], expected, atol=1e-5)
    assert found.carry["mean"].shape == (4, 2) and found.carry["elites"].shape == (CONFIG.kept, 4, 2)


def test_planning_on_from_tick_to_tick_does_not_forget_what_was_found() -> None:
    weak = replace(CONFIG, candidates=20, elites=4, kept=2, iterations=1)
    constant = Rewarding(lambda a: -(((a - torch.tensor([1.0, 7.0])) / torch.tensor([2.0, 5.0])) ** 2).sum(dim=-1))
    carry: dict[str, Tensor] | None = None
    values = []
    for tick in range(25):
        found = plan(constant, weak, seed=tick, carry=carry)
        carry = found.carry
        values.append(float(found.value))
    assert values[-1] > 0.2 * values[0] and values[-1] > -0.1


def test_pessimism_plans_where_the_members_agree() -> None:
    def reward(actions: Tensor) -> Tensor:
        right, left = actions[..., 0].clamp(min=0.0), (-actions[..., 0]).clamp(min=0.0)
        return torch.stack([0.5 * left + 4.0 * right, 0.5 * left - 2.0 * right], dim=1)  # mean 1 and deviation 3 per newton to the right

    model = Rewarding(reward, members=2)
    assert float(plan(model).action[0]) > 0.5
    assert float(plan(model, replace(CONFIG, pessimism=1.0)).action[0]) < -0.5


def test_what_follows_a_termination_does_not_count() -> None:
    @dataclass
    class Ending(Rewarding):
        def rollout(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Imagined:
            imagined = super().rollout(observation, actions, noise)
            alive = torch.cumprod((actions[..., 0] <= 1.0).float(), dim=0).unsqueeze(1)
            return imagined._replace(going_on=alive)

    # Every step is worth 1, but the step that ends it is worth 3: best is to end in the last step.
    model = Ending(lambda a: torch.where(a[..., 0] > 1.0, 3.0, 1.0))
    found = plan(model)
    assert float(found.value) == 6.0
    assert (found.actions[:, 0] > 1.0).tolist() == [False, False, False, True]


def test_the_spread_is_the_members_disagreement() -> None:
    @dataclass
    class Disagreeing(Rewarding):
        def rollout(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Imagined:
            imagined = super().rollout(observation, actions, noise)
            return imagined._replace(observation=imagined.observation + torch.tensor([-1.0, 1.0])[None, :, None, None])

    found = plan(Disagreeing(quadratic, members=2))
    torch.testing.assert_close(found.spread, torch.ones(4, 3))


def test_the_true_dynamics_of_the_tests_are_those_of_the_simulator() -> None:
    forces = np.random.default_rng(0).uniform(-10, 10, 200).astype(np.float32)
    given = iter(forces)
    episode = run_episode(Simulator(contract()), lambda observation: np.array([next(given)]), 200)
    predicted = TrueCartPole().step(torch.from_numpy(episode.observation[:-1]), torch.from_numpy(episode.action[:, 0])).numpy()
    free = np.abs(episode.observation[:-1, 0]) < 1.5  # where the rail's end is not felt
    assert free.sum() > 100
    change = np.abs(episode.observation[1:] - episode.observation[:-1])[free].mean(axis=0)
    assert (np.abs(predicted - episode.observation[1:])[free].mean(axis=0) < 0.05 * change).all()


def test_with_true_dynamics_a_falling_pole_is_caught() -> None:
    model = TrueCartPole()
    config = ICEMConfig(horizon=20, candidates=24, iterations=2, elites=6, kept=2, noise_exponent=1.0)
    planner = ICEM(config, torch.tensor([-10.0]), torch.tensor([10.0]))
    generator = torch.Generator().manual_seed(0)

    def drive(planned: bool) -> tuple[float, Tensor]:
        state, carry, total = torch.tensor([0.0, math.sin(0.4), math.cos(0.4), 0.0, 0.0]), empty(planner), 0.0
        for _ in range(40):
            action = torch.zeros(1)
            if planned:
                noise = {name: torch.randn(shape, generator=generator) for name, shape in planner.noise_shapes(model).items()}
                found = planner(model, state, carry, noise)
                action, carry = found.action, found.carry
            following = model.step(state, action[0])
            total += float(model.reward(state, action, following))
            state = following
        return total, state

    (idle, fallen), (planned, caught) = drive(planned=False), drive(planned=True)
    assert float(fallen[2]) < 0.5 < 0.9 < float(caught[2])
    assert planned > idle + 10.0


@pytest.mark.parametrize("wrong", [{"horizon": 0}, {"elites": 60}, {"elites": 0}, {"kept": 9}, {"kept": -1}, {"iterations": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"horizon|elites|iterations"):
        ICEMConfig(**{"candidates": 48, "elites": 8, **wrong})  # type: ignore[arg-type]


def test_limits_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValueError, match="below high"):
        ICEM(CONFIG, HIGH, LOW)
