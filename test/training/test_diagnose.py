"""A diagnosis against a naive loop, and on systems whose error is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cartpole_models import contract
from numpy.typing import NDArray
from torch import Tensor

from wm_ros.models.dynamics import ObservationDynamics
from wm_ros.models.ensemble import EnsembleConfig
from wm_ros.models.family import Family, ModelConfig
from wm_ros.models.transitions import concatenated, transitions
from wm_ros.training.diagnose import diagnose
from wm_ros.training.fit import FitConfig, fit

NAMES = contract().observation_names
STRIDE, STEPS, PERIOD_S = 2, 6, 0.02

Columns = tuple[NDArray[np.float32], NDArray[np.float32]]


def swing(seed: int, ticks: int = 60) -> Columns:
    """A driven pendulum on a cart that does not move, roughly."""
    rng = np.random.default_rng(seed)
    angle, speed, rows, action = rng.uniform(-3, 3), 0.0, [], rng.uniform(-10, 10, (ticks, 1))
    for k in range(ticks + 1):
        rows.append([0.1 * np.sin(k / 9), np.sin(angle), np.cos(angle), 0.1 * np.cos(k / 9), speed])
        speed += 0.2 * np.sin(angle) + 0.02 * action[min(k, ticks - 1), 0]
        angle += 0.02 * speed
    return np.array(rows, np.float32), action.astype(np.float32)


def trained(family: Family) -> tuple[ObservationDynamics, list[Columns]]:
    episodes = [swing(n) for n in range(3)]
    model = ObservationDynamics(
        contract(), EnsembleConfig(members=3, elites=2, layers=2, width=32), STRIDE, model=ModelConfig(family, components=2)
    )
    model.initialize(torch.Generator().manual_seed(0))
    fit(model, concatenated([transitions(*e, STRIDE) for e in episodes]), FitConfig(steps=400, batch=64, patience=50), seed=1)
    return model, episodes


@pytest.mark.parametrize("family", ["gaussian", "deterministic", "mixture"])
def test_an_overfitted_set_is_measured_as_a_naive_loop_measures_it(family: Family) -> None:
    model, episodes = trained(family)
    found = diagnose(model, [("a", episodes[:1]), ("b", episodes[1:])], STEPS, PERIOD_S, NAMES, seed=3, starts=9, particles=5)
    assert found is not None and found.starts == 9
    generator = torch.Generator().manual_seed(3)
    drawn = 5 if model.prediction_noise else 1
    beginnings = [(o, a, t) for o, a in episodes for t in np.linspace(0, 60 - STEPS * STRIDE, 3).astype(int)]
    states = np.stack([np.broadcast_to(o[t], (3, drawn, 5)) for o, _, t in beginnings], axis=2).astype(np.float32)  # [M, P, B, O]
    squared, inside = np.zeros((STEPS, 5)), np.zeros((STEPS, 5))
    for h in range(STEPS):
        noise = torch.randn(3, drawn * 9, model.prediction_noise, generator=generator) if model.prediction_noise else None
        following = np.zeros_like(states)
        for p in range(drawn):
            for b, (_, a, t) in enumerate(beginnings):
                held = torch.from_numpy(a[t + h * STRIDE : t + (h + 1) * STRIDE]).expand(3, 1, STRIDE, 1)
                one = None if noise is None else noise[:, p * 9 + b].unsqueeze(1)
                with torch.no_grad():
                    following[:, p, b] = model.predict(torch.from_numpy(states[:, p, b]).unsqueeze(1), held, one)[:, 0].numpy()
        states = following
        for b, (o, _, t) in enumerate(beginnings):
            truth, cloud = o[t + (h + 1) * STRIDE], states[:, :, b].reshape(-1, 5)
            squared[h] += (cloud.mean(axis=0) - truth) ** 2 / 9
            low, high = np.quantile(cloud, [0.05, 0.95], axis=0)
            inside[h] += ((truth >= low) & (truth <= high)) / 9
    np.testing.assert_allclose(found.rmse, np.sqrt(squared), atol=1e-4)
    assert np.abs(np.array(found.coverage["90"]) - inside).max() < 0.12, "one row of nine may lie on an interval's very edge"
    scale = np.concatenate([o for o, _ in episodes]).std(axis=0)
    np.testing.assert_allclose(found.normalized_rmse, np.sqrt((squared / scale**2).mean(axis=1)), atol=1e-3)
    assert found.normalized_rmse[-1] < 0.3 * found.unchanged[-1], "what was learned by heart beats standing still by far"
    together = np.array(found.by_group["a"]) ** 2 * 3 + np.array(found.by_group["b"]) ** 2 * 6
    np.testing.assert_allclose(np.sqrt(together / 9), found.normalized_rmse, rtol=1e-6)


@dataclass
class Linear:
    """Believes x' = a x + bias where the truth has no bias, so that errors are bias (a^h - 1) / (a - 1) exactly."""

    a: float = 1.0
    bias: float = 0.0
    believed: float = 0.0
    spread: float = 0.0
    stride: int = 1
    members: int = 3
    prediction_noise: int = 2

    def predict(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Tensor:
        after = self.a * observation + actions[..., 0, :] + self.bias
        if noise is not None:
            after = after + self.believed * noise
        offsets = self.spread * torch.linspace(-1.0, 1.0, self.members).view(-1, 1, 1) * (observation[..., :1] > 1.0)
        return after + torch.cat([offsets, torch.zeros_like(offsets)], dim=-1)


def linear_episodes(a: float, noise: float = 0.0, count: int = 6, ticks: int = 40) -> list[Columns]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        rows, action = [rng.standard_normal(2)], 0.3 * rng.standard_normal((ticks, 1))
        for k in range(ticks):
            rows.append(a * rows[-1] + action[k] + noise * rng.standard_normal(2))
        found.append((np.array(rows, np.float32), action.astype(np.float32)))
    return found


@pytest.mark.parametrize("a", [0.8, 1.1])
def test_the_exponent_of_a_known_linear_system_is_found(a: float) -> None:
    found = diagnose(Linear(a, bias=0.01), [("", linear_episodes(a))], 20, 0.1, ("x", "y"))
    assert found is not None and found.growth.better == "exponential"
    assert found.growth.rate == pytest.approx(a, rel=0.01)
    assert found.growth_of["x"].eps == pytest.approx(0.01, rel=0.02)
    np.testing.assert_allclose(np.array(found.rmse)[:, 0], 0.01 * (a ** np.arange(1, 21) - 1) / (a - 1), rtol=0.02)


def test_errors_that_only_add_up_grow_linearly() -> None:
    found = diagnose(Linear(1.0, bias=0.05), [("", linear_episodes(1.0))], 20, 0.1, ("x", "y"))
    assert found is not None and found.growth.better == "linear" and found.growth_of["y"].linear_eps == pytest.approx(0.05, rel=1e-3)


def test_intervals_of_a_calibrated_model_hold_what_they_promise_and_those_of_others_do_not() -> None:
    episodes = linear_episodes(0.9, noise=0.2, count=20)

    def shares(believed: float) -> dict[str, float]:
        found = diagnose(Linear(0.9, believed=believed), [("", episodes)], 8, 0.1, ("x", "y"), starts=600, particles=100)
        assert found is not None
        return {percent: float(np.mean(values)) for percent, values in found.coverage.items()}

    right, sure, unsure = shares(0.2), shares(0.05), shares(0.8)
    assert right == pytest.approx({"50": 0.5, "90": 0.9, "95": 0.95}, abs=0.04)
    assert sure["90"] < 0.5 and unsure["50"] > 0.9


def test_disagreement_is_found_where_it_is() -> None:
    found = diagnose(Linear(0.9, spread=0.5), [("", linear_episodes(0.9, noise=0.3, count=20))], 3, 0.1, ("x", "y"), starts=2000)
    assert found is not None and found.disagreement is not None
    apart = found.disagreement
    assert apart.columns["x"] > 0.1 and apart.columns["y"] < 1e-6, "the members differ in x alone"
    assert apart.plain.axes == ("x", "y") and apart.most["x"][0] > 1.0 > apart.most["x"][1], "and only where x is above one"
    edges, mean = np.array(apart.plain.edges[0]), apart.plain.mean
    for i, row in enumerate(mean):
        values = [v for v in row if v is not None]
        if values and edges[i] > 1.0:
            assert min(values) > 0.1
        if values and edges[i + 1] < 1.0:
            assert max(values) < 1e-6
    assert sum(map(sum, apart.principal.count)) == found.starts and sum(apart.principal_share) == pytest.approx(1.0)


def test_a_single_member_cannot_disagree() -> None:
    found = diagnose(Linear(0.9, members=1), [("", linear_episodes(0.9))], 3, 0.1, ("x", "y"))
    assert found is not None and found.disagreement is None and found.as_dict()["disagreement"] is None


def test_the_same_seed_gives_the_same_figures_whatever_else_is_drawn() -> None:
    def once(seed: int) -> dict[str, object]:
        torch.rand(3)
        found = diagnose(Linear(0.9, believed=0.2), [("", linear_episodes(0.9))], 5, 0.1, ("x", "y"), seed=seed)
        assert found is not None
        return found.as_dict()

    assert once(1) == once(1) != once(2)


def test_episodes_shorter_than_the_horizon_cannot_be_measured() -> None:
    assert diagnose(Linear(), [("", linear_episodes(1.0, ticks=9))], 10, 0.1, ("x", "y")) is None
    mixed = linear_episodes(1.0, ticks=9, count=2), linear_episodes(1.0, ticks=30, count=2)
    found = diagnose(Linear(), [("short", mixed[0]), ("long", mixed[1])], 10, 0.1, ("x", "y"))
    assert found is not None and list(found.by_group) == ["long"]
    with pytest.raises(ValueError, match="must be at least 1"):
        diagnose(Linear(), [("", mixed[1])], 0, 0.1, ("x", "y"))
