"""The inverse model finds the actions of a system whose inverse is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from wm_ros.contract import schema
from wm_ros.contract.schema import Contract
from wm_ros.models.ensemble import EnsembleConfig
from wm_ros.models.inverse import InverseModel
from wm_ros.models.transitions import Transitions
from wm_ros.training.fit import FitConfig, fit

SIZE = EnsembleConfig(members=2, elites=1, layers=2, width=32)
CONFIG = FitConfig(batch=128, steps=500, learning_rate=5e-3, patience=100)


def contract() -> Contract:
    data = json.loads(schema.load("cartpole_swingup").canonical_json())
    data["observation"][0]["features"] = [f for f in data["observation"][0]["features"] if f["joint"] == "slider"]
    data["action"]["joints"][0] |= {"low": -4.0, "high": 8.0}
    return schema.parse(data, "test")


def pushed(rows: int, seed: int, stride: int = 1, noise: float = 0.0) -> Transitions:
    """Position and velocity of a mass, pushed for `stride` ticks; so near the limits that predictions want to go beyond."""
    rng = np.random.default_rng(seed)
    start, action = rng.standard_normal((rows, 2)), rng.uniform(-4, 8, (rows, stride, 1))
    position, velocity = start[:, 0].copy(), start[:, 1].copy()
    for tick in range(stride):
        velocity += 0.05 * action[:, tick, 0] - 0.1 * velocity
        position += 0.1 * velocity
    following = np.stack([position, velocity], axis=1) + noise * rng.standard_normal((rows, 2))
    return Transitions(*(c.astype(np.float32) for c in (start, action, following)))


@pytest.mark.parametrize("head", ["gaussian", "deterministic"])
def test_the_action_between_two_observations_is_found(head: str) -> None:
    model = InverseModel(contract(), SIZE, 1, head)  # type: ignore[arg-type]
    model.initialize(torch.Generator().manual_seed(0))
    fit(model, pushed(3000, 1), CONFIG, seed=2)
    data = pushed(500, 3)
    with torch.no_grad():
        found = model.predict(torch.from_numpy(data.observation), torch.from_numpy(data.following))
    assert found.shape == (2, 500, 1, 1)
    assert float((found - torch.from_numpy(data.actions)).abs().mean()) < 0.1, "newtons, of a range of twelve"


def test_what_cannot_be_told_from_the_observations_comes_out_as_the_heads_deviation() -> None:
    model = InverseModel(contract(), SIZE, 1)
    model.initialize(torch.Generator().manual_seed(0))
    fit(model, pushed(3000, 1, noise=0.02), CONFIG, seed=2)
    data = pushed(2000, 3, noise=0.02)
    given = torch.from_numpy(data.observation), torch.from_numpy(data.following)
    draw = torch.randn(2, 2000, model.prediction_noise, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mean, drawn = model.predict(*given), model.predict(*given, draw)
    truth = torch.from_numpy(data.actions)
    inner = (truth.abs() < 3).expand_as(mean)  # away from the limits, where draws are clipped
    assert float((drawn - mean)[inner].std()) == pytest.approx(float((mean - truth)[inner].std()), rel=0.15)


@pytest.mark.parametrize("head", ["gaussian", "deterministic"])
def test_predictions_never_leave_the_limits(head: str) -> None:
    model = InverseModel(contract(), SIZE, 3, head)  # type: ignore[arg-type]
    model.initialize(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.network.weights[-1].mul_(100.0)
    wild = 50.0 * torch.randn(2, 40, 2, generator=torch.Generator().manual_seed(1))
    noise = 5.0 * torch.randn(2, 40, model.prediction_noise, generator=torch.Generator().manual_seed(2))
    found = model.predict(wild, -wild, noise).detach()
    assert found.shape == (2, 40, 3, 1)
    assert float(found.min()) == -4.0 and float(found.max()) == 8.0


def test_the_sum_of_several_ticks_pushes_is_known_where_each_is_not() -> None:
    model = InverseModel(contract(), SIZE, 2)
    model.initialize(torch.Generator().manual_seed(0))
    fit(model, pushed(3000, 1, stride=2), CONFIG, seed=2)
    data = pushed(300, 3, stride=2)
    with torch.no_grad():
        found = model.predict(torch.from_numpy(data.observation), torch.from_numpy(data.following))
    assert float((found.sum(dim=2) - torch.from_numpy(data.actions).sum(dim=1)).abs().mean()) < 0.3


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="stride 0"):
        InverseModel(contract(), SIZE, 0)
    with pytest.raises(ValueError, match="head 'mixture'"):
        InverseModel(contract(), SIZE, 1, "mixture")  # type: ignore[arg-type]
