"""Fits on systems whose truth is known."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from wm_ros.contract import schema
from wm_ros.contract.schema import Contract
from wm_ros.models.dynamics import ObservationDynamics
from wm_ros.models.ensemble import EnsembleConfig, gaussian_loss
from wm_ros.models.transitions import Transitions, concatenated, transitions
from wm_ros.training.fit import Fit, FitConfig, FitResult, fit

ENSEMBLE = EnsembleConfig(members=3, elites=2, layers=2, width=32)
CONFIG = FitConfig(batch=128, steps=400, learning_rate=1e-2, check_every=50, patience=100)
MATRIX = np.array([[0.9, 0.2], [-0.1, 0.8]])
PUSH = np.array([[0.05], [0.1]])
NOISE = np.array([0.1, 0.3])


@lru_cache
def contract() -> Contract:
    """A robot with one joint and no angles: plain numbers. Its reward is never asked for."""
    data = json.loads(schema.load("cartpole_swingup").canonical_json())
    channel = data["observation"][0]
    channel["features"] = [{**f, "joint": "rootx"} for f in channel["features"] if f["joint"] == "slider"]
    data["reward"] = {"function": "wm_ros.contract.rewards:cheetah_run", "parameters": {"speed": 1.0}}
    return schema.parse(data, "test")


def linear_system(rows: int, seed: int, noise: np.ndarray = NOISE) -> Transitions:
    """following = A observation + B action + noise."""
    rng = np.random.default_rng(seed)
    observation = rng.standard_normal((rows, 2))
    action = rng.uniform(-10, 10, (rows, 1))
    following = observation @ MATRIX.T + action @ PUSH.T + noise * rng.standard_normal((rows, 2))
    return Transitions(observation.astype(np.float32), action[:, None].astype(np.float32), following.astype(np.float32))


def fresh(seed: int = 0, ensemble: EnsembleConfig = ENSEMBLE) -> ObservationDynamics:
    model = ObservationDynamics(contract(), ensemble, stride=1)
    model.network.initialize(torch.Generator().manual_seed(seed))
    return model


@pytest.fixture(scope="module")
def learned() -> tuple[ObservationDynamics, FitResult]:
    model = fresh()
    return model, fit(model, linear_system(3000, seed=1), CONFIG, seed=2)


def test_a_linear_gaussian_system_is_learned_with_its_mean_and_its_noise(learned: tuple[ObservationDynamics, FitResult]) -> None:
    model, _ = learned
    truth = linear_system(500, seed=3, noise=np.zeros(2))
    observation, actions = torch.from_numpy(truth.observation), torch.from_numpy(truth.actions)
    members = model.members
    with torch.no_grad():
        predicted = model.predict(observation.expand(members, -1, -1), actions.expand(members, -1, -1, -1), None)
        _, log_variance = model.network(model.inputs(observation, actions).expand(members, -1, -1))
        deviation = torch.exp(0.5 * log_variance) * model.target_std
    error = (predicted - torch.from_numpy(truth.following)).square().mean(dim=(0, 1)).sqrt()
    assert (error.numpy() < 0.25 * NOISE).all()
    np.testing.assert_allclose(deviation.mean(dim=(0, 1)).numpy(), NOISE, rtol=0.1)


def test_the_held_out_error_reaches_what_the_noise_leaves(learned: tuple[ObservationDynamics, FitResult]) -> None:
    model, result = learned
    floor = float(np.mean(NOISE**2 / model.target_std.numpy() ** 2))
    assert min(result.holdout_error) == pytest.approx(floor, rel=0.25)
    assert sorted(result.elites) == [0, 1, 2]
    assert result.steps <= CONFIG.steps and len(result.train_loss) == len(result.holdout_error)


def test_elites_are_ordered_by_their_error_on_held_out_data() -> None:
    model = fresh()
    with torch.no_grad():
        for weight in model.network.weights:
            weight[1] = 50.0  # far off, and with no learning to speak of it stays so
    result = fit(model, linear_system(300, seed=1), replace(CONFIG, steps=20, learning_rate=1e-8), seed=2)
    assert result.elites[-1] == 1


def test_one_batch_is_learned_by_heart() -> None:
    data = linear_system(16, seed=4)
    model = fresh(ensemble=EnsembleConfig(members=1, elites=1, layers=2, width=64))
    result = fit(model, data, replace(CONFIG, steps=600, batch=16, holdout=0.0, weight_decay=0.0, learning_rate=1e-2), seed=2)
    # Not all rows are in the bootstrap; those of the training batch are what the loss is about.
    assert result.train_loss[-1] < -3.0 < result.train_loss[0]


def test_the_same_seed_gives_the_same_weights() -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        model = fresh()
        fit(model, linear_system(300, seed=1), replace(CONFIG, steps=20), seed=seed)
        return [p.detach() for p in model.network.parameters()]

    first, again, other = weights(2), weights(2), weights(3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("after", [0, 7, 40, 55, 60])
def test_a_fit_goes_on_from_its_saved_state_bit_for_bit(after: int) -> None:
    data, config = linear_system(300, seed=1), replace(CONFIG, steps=60, check_every=20)
    whole = fresh()
    expected = fit(whole, data, config, seed=2)
    first = Fit(fresh(), data, config, seed=2)
    for _ in range(after):
        first.step()
    state = first.state_dict()
    saved = {name: value.numpy().tobytes() for name, value in state.items()}
    while not first.finished:
        first.step()  # what goes on afterwards must not reach into what was saved
    assert {name: value.numpy().tobytes() for name, value in state.items()} == saved
    second = Fit(fresh(seed=9), data, config, seed=2)
    second.load_state_dict(state)
    assert second.done == after
    while not second.finished:
        second.step()
    result = second.result()
    assert (result.elites, result.train_loss, result.holdout_error) == (expected.elites, expected.train_loss, expected.holdout_error)
    assert all(torch.equal(value, second.model.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_fit_that_stopped_early_is_still_at_its_end_when_it_goes_on() -> None:
    data, config = linear_system(60, seed=1), replace(CONFIG, steps=2000, check_every=5, patience=2, learning_rate=0.3)
    first, second = Fit(fresh(), data, config, seed=2), Fit(fresh(), data, config, seed=2)
    while not first.finished:
        first.step()
    assert first.done < config.steps
    second.load_state_dict(first.state_dict())
    assert second.finished
    first.result(), second.result()
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


def test_stopping_early_brings_the_best_weights_back() -> None:
    # No relation between input and target, few rows and a large network: the held-out error soon rises.
    rng = np.random.default_rng(5)
    data = Transitions(*(rng.standard_normal(shape).astype(np.float32) for shape in ((60, 2), (60, 1, 1), (60, 2))))
    config = replace(CONFIG, steps=2000, batch=30, holdout=0.3, patience=4, check_every=20)
    model = fresh(ensemble=EnsembleConfig(members=2, elites=1, layers=2, width=64))
    states: list[dict[str, torch.Tensor]] = []
    looks: list[float] = []

    def progress(done: int, steps: int, train_loss: float, holdout: float) -> None:
        looks.append(holdout)
        states.append({k: v.clone() for k, v in model.network.state_dict().items()})

    result = fit(model, data, config, seed=6, progress=progress)
    assert result.steps < config.steps and looks == result.holdout_error
    kept = model.network.state_dict()
    equal = [all(torch.equal(kept[k], state[k]) for k in kept) for state in states]
    best = equal.index(True)
    assert equal.count(True) == 1 and best < len(looks) - 1
    assert looks[best] <= min(looks) / 0.98  # better by less than a hundredth is no reason to go on


def test_elites_are_ordered_by_the_weights_that_were_kept() -> None:
    data = linear_system(300, seed=9)
    model = fresh(ensemble=EnsembleConfig(members=8, elites=4, layers=1, width=16))
    # Without a held-out set all rows are looked at; steps too large, and no patience, make the last look worse than the best.
    config = replace(CONFIG, steps=400, learning_rate=0.3, holdout=0.0, check_every=5, patience=3)
    result = fit(model, data, config, seed=1)
    assert result.holdout_error[-1] > min(result.holdout_error) * 1.05
    observation, actions, following = (torch.from_numpy(a) for a in (data.observation, data.actions, data.following))
    with torch.no_grad():
        predicted = model.predict(observation.expand(8, -1, -1), actions.expand(8, -1, -1, -1), None)
    error = ((predicted - following) / model.target_std).square().mean(dim=(1, 2))
    assert result.elites == [int(m) for m in torch.argsort(error)]


def test_data_that_is_not_finite_is_refused() -> None:
    data = linear_system(100, seed=1)
    data.following[7, 0] = np.nan
    with pytest.raises(FloatingPointError, match="look for outliers in the recorded data"):
        fit(fresh(), data, replace(CONFIG, steps=20, check_every=5), seed=0)


def test_progress_counts_up_to_the_end() -> None:
    told: list[tuple[int, int]] = []
    config = replace(CONFIG, steps=25, check_every=10)
    fit(fresh(), linear_system(200, seed=1), config, 0, lambda done, steps, *_: told.append((done, steps)))
    assert told == [(10, 25), (20, 25), (25, 25)]


def test_the_loss_is_the_likelihood_of_a_gaussian() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, target, log_variance = (torch.randn(2, 5, 3, generator=generator) for _ in range(3))
    likelihood = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance)).log_prob(target)
    expected = -2.0 * likelihood.mean(dim=(1, 2)).sum() - 2 * np.log(2 * np.pi)  # twice, and without the constant, for two members
    torch.testing.assert_close(gaussian_loss((mean - target) ** 2, log_variance), expected)


@pytest.mark.parametrize("stride", [1, 3])
def test_rows_are_all_windows_of_an_episode(stride: int) -> None:
    observation = np.arange(22, dtype=np.float32).reshape(11, 2)
    action = np.arange(10, dtype=np.float32).reshape(10, 1)
    rows = transitions(observation, action, stride)
    assert len(rows) == 10 - stride + 1
    for t in range(len(rows)):
        assert (rows.observation[t] == observation[t]).all() and (rows.following[t] == observation[t + stride]).all()
        assert (rows.actions[t] == action[t : t + stride]).all()
    both = concatenated([rows, rows])
    assert len(both) == 2 * len(rows) and (both.actions[len(rows) :] == rows.actions).all()
    with pytest.raises(ValueError, match="shorter than one model step"):
        transitions(observation[: stride], action[: stride - 1], stride)


def test_normalizers_are_those_of_the_data() -> None:
    data = linear_system(400, seed=8)
    constant = Transitions(data.observation * [1.0, 0.0] + np.float32(1e4), data.actions, data.following * [1.0, 0.0] + np.float32(1e4))
    constant = Transitions(constant.observation.astype(np.float32), constant.actions, constant.following.astype(np.float32))
    model = fresh()
    model.normalize(constant)
    assert float(model.observation_mean[0]) == pytest.approx(float(constant.observation[:, 0].astype(float).mean()), rel=1e-6)
    assert float(model.observation_std[0]) == pytest.approx(float(constant.observation[:, 0].astype(float).std()), rel=1e-4)
    assert 0.0 < float(model.observation_std[1]) < 1e-3, "a column that never changes must not divide by zero"


@pytest.mark.parametrize("wrong", [{"steps": 5}, {"batch": 0}, {"learning_rate": 0.0}, {"holdout": 1.0}, {"check_every": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FitConfig(**wrong)  # type: ignore[arg-type]
