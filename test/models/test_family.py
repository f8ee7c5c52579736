"""Every family of forward networks behind the one protocol."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from cartpole_models import TINY, contract, random_dynamics
from small_agents import PETS
from torch import Tensor

from wm_ros.agents.pets import PetsController, dynamics
from wm_ros.contract.errors import UserError
from wm_ros.export.template import example_inputs, export, filled
from wm_ros.models.dynamics import ObservationDynamics, Propagation
from wm_ros.models.ensemble import EnsembleConfig
from wm_ros.models.family import Family, ModelConfig, kept_share

HORIZON, CANDIDATES, SIZE = 5, 4, 5
START = torch.tensor([0.3, 0.6, 0.8, -0.4, 0.8])
FAMILIES: list[Family] = ["gaussian", "deterministic", "mixture"]
CASES = [
    (family, sample, propagation)
    for family, sample, propagation in itertools.product(FAMILIES, (False, True), ("TSinf", "TS1", "mean"))
    if not (sample and (family == "deterministic" or propagation == "mean"))
]


def actions() -> Tensor:
    return 20.0 * torch.rand(HORIZON, CANDIDATES, 1, generator=torch.Generator().manual_seed(5)) - 10.0


def drawn_noise(model: ObservationDynamics) -> Tensor | None:
    shape = model.noise_shape(HORIZON)
    return None if shape is None else torch.randn(shape, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize(("family", "sample", "propagation"), CASES)
def test_a_rollout_of_every_family_equals_its_predictions_step_by_step(family: Family, sample: bool, propagation: Propagation) -> None:
    targets = {"*.velocity": "absolute"}
    model = random_dynamics(2, sample, propagation=propagation, model=ModelConfig(family, components=3, targets=targets))  # type: ignore[arg-type]
    noise, given, width = drawn_noise(model), actions(), model.prediction_noise
    assert (noise is not None) == (sample or propagation == "TS1")
    imagined = model.rollout(START, given, noise)
    assert imagined.observation.shape == (HORIZON, TINY.members, CANDIDATES, SIZE)
    state = START.expand(TINY.members, CANDIDATES, SIZE)
    for h in range(HORIZON):
        if propagation == "TS1" and h > 0:
            assert noise is not None
            quantile = torch.distributions.Normal(0.0, 1.0).cdf(noise[h, :, 0, -1])
            state = state[(quantile * TINY.members).long().clamp(max=TINY.members - 1)]
        held = given[h].expand(TINY.members, CANDIDATES, 1).unsqueeze(2).expand(-1, -1, 2, -1)
        drawn = noise[h, ..., :width].expand(TINY.members, CANDIDATES, width) if sample and noise is not None else None
        if propagation == "mean":  # of what the members predict, and only then back onto the circle
            change = model.network.predict(model.inputs(state, held), None) * model.target_std + model.target_mean
            state = model._on_circle((model._base(state) + change).mean(dim=0)).expand_as(state)
        else:
            state = model.predict(state, held, drawn)
        torch.testing.assert_close(imagined.observation[h], state, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_particles_that_follow_the_mean_stay_together(family: Family) -> None:
    model = random_dynamics(1, False, propagation="mean", model=ModelConfig(family))
    apart = random_dynamics(1, False, model=ModelConfig(family))
    together = model.rollout(START, actions(), None).observation
    assert bool((together == together[:, :1]).all())
    assert bool((apart.rollout(START, actions(), None).observation.std(dim=1)[-1] > 1e-3).any())


@pytest.mark.parametrize("family", FAMILIES)
def test_columns_with_absolute_targets_do_not_depend_on_their_last_value_by_more_than_the_network(family: Family) -> None:
    model = random_dynamics(1, False, model=ModelConfig(family, targets={"slider.velocity": "absolute"}))
    with torch.no_grad():
        for weight in model.network.weights:
            weight.zero_()
    state = torch.randn(TINY.members, 6, SIZE, generator=torch.Generator().manual_seed(1))
    after = model.predict(state, torch.zeros(TINY.members, 6, 1, 1), None).detach()
    assert float(after[..., 3].std(dim=1).max()) < 1e-6, "with no weights, an absolute prediction is one number for every state"
    torch.testing.assert_close(after[..., 0] - state[..., 0], (after[..., 0] - state[..., 0])[:, :1].expand(-1, 6))


def test_targets_are_named_by_channel_feature_or_column_and_the_last_that_fits_counts() -> None:
    def kept(targets: dict[str, str]) -> list[float]:
        return kept_share(ModelConfig(targets=targets), contract()).tolist()  # type: ignore[arg-type]

    assert contract().observation_names[1:3] == ("hinge_1.position.sin", "hinge_1.position.cos")
    assert kept({}) == [1.0] * 5
    assert kept({"hinge_1.position": "absolute"}) == [1.0, 0.0, 0.0, 1.0, 1.0]
    assert kept({"joints": "absolute", "*.velocity": "delta"}) == [0.0, 0.0, 0.0, 1.0, 1.0]
    with pytest.raises(UserError, match=r"model\.targets: 'elbow' fits no column; there are slider\.position"):
        kept({"elbow": "absolute"})


@pytest.mark.parametrize("family", FAMILIES)
def test_absolute_targets_are_normalized_as_they_are(family: Family) -> None:
    from wm_ros.models.transitions import Transitions

    rng = np.random.default_rng(0)
    o, f = (rng.standard_normal((50, 5)).astype(np.float32) for _ in range(2))
    model = ObservationDynamics(contract(), TINY, 1, model=ModelConfig(family, targets={"slider.position": "absolute"}))
    _, targets = model.prepare(Transitions(o, np.zeros((50, 1, 1), np.float32), f))
    exact = f.astype(np.float64) - o * np.array([0.0, 1.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(model.target_mean.numpy(), exact.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(targets.numpy(), (exact - exact.mean(axis=0)) / exact.std(axis=0), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_planner_takes_the_chosen_members_of_every_family_over(family: Family) -> None:
    config = ModelConfig(family, components=2)
    trained = random_dynamics(1, False, model=config)
    elites = ObservationDynamics(contract(), TINY, 1, members=2, model=config)
    elites.take(trained, [2, 0])
    ours, theirs = (m.rollout(START, actions(), None).observation for m in (elites, trained))
    torch.testing.assert_close(ours, theirs[:, [2, 0]])


def test_a_controller_over_a_mixture_that_is_drawn_from_ships_as_one_graph() -> None:
    config = replace(PETS, sample=True, propagation="TS1", model=ModelConfig("mixture", 2, {"*.velocity": "absolute"}))
    trained = dynamics(contract(), config, planning=False)
    trained.initialize(torch.Generator().manual_seed(0))
    controller = PetsController(contract(), config)
    controller.take(trained, [2, 0, 1])
    graph = filled(export(controller, contract()), controller)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    observation, carry, noise = example_inputs(controller, contract(), 3)
    with torch.no_grad():
        expected = controller(observation, carry, noise)
    inputs = {"observation": observation, **{f"carry.{k}": v for k, v in carry.items()}, **{f"noise.{k}": v for k, v in noise.items()}}
    got = session.run(["action", "value", "plan.observation"], {k: v.numpy() for k, v in inputs.items()})
    for name, value in zip(("action", "value", "plan.observation"), got, strict=True):
        np.testing.assert_allclose(value, expected[name].numpy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_single_steps_of_every_family_can_be_differentiated(family: Family) -> None:
    model = random_dynamics(2, False, model=ModelConfig(family))
    action = torch.tensor([[1.0], [-2.0]], requires_grad=True)
    stepped = model.step(START.expand(2, 5), action)
    stepped.reward.sum().backward()
    assert action.grad is not None and bool((action.grad.abs() > 0).all()) and stepped.observation.shape == (2, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": ModelConfig("deterministic"), "sample": True}, "deterministic model has no noise"),
        ({"propagation": "mean", "sample": True}, "follow the mean are not drawn"),
        ({"propagation": "TS2"}, "must be TSinf, TS1 or mean"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObservationDynamics(contract(), EnsembleConfig(), 1, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"family": "gauss"}, {"components": 0}, {"targets": {"a": "change"}}])
def test_impossible_kinds_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ModelConfig(**wrong)  # type: ignore[arg-type]
