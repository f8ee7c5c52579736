"""The mixture against torch.distributions, and where one Gaussian must fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cartpole_models import contract
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from wm_ros.models.dynamics import ObservationDynamics
from wm_ros.models.ensemble import EnsembleConfig, gaussian_loss
from wm_ros.models.family import Family, ModelConfig
from wm_ros.models.mixture import MixtureEnsemble
from wm_ros.models.transitions import Transitions
from wm_ros.training.fit import FitConfig, fit

SIZE = EnsembleConfig(members=2, elites=1, layers=1, width=16)
INPUTS, OUTPUTS, COMPONENTS = 3, 2, 3


def network(components: int = COMPONENTS, seed: int = 0) -> MixtureEnsemble:
    made = MixtureEnsemble(SIZE, INPUTS, OUTPUTS, components)
    generator = torch.Generator().manual_seed(seed)
    made.initialize(generator)
    with torch.no_grad():
        for bias in made.biases:
            bias.add_(0.5 * torch.randn(bias.shape, generator=generator))
    return made


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distribution(made: MixtureEnsemble, inputs: Tensor) -> MixtureSameFamily:
    log_probability, means, log_variances = made(inputs)
    return MixtureSameFamily(Categorical(logits=log_probability), Independent(Normal(means, torch.exp(0.5 * log_variances)), 1))


def test_the_loss_is_the_likelihood_of_the_mixture() -> None:
    made, inputs, targets = network(), drawn(2, 7, INPUTS), drawn(2, 7, OUTPUTS, seed=2)
    likelihood = distribution(made, inputs).log_prob(targets)
    expected = (-2.0 / OUTPUTS * likelihood - np.log(2 * np.pi)).mean(dim=1).sum()
    torch.testing.assert_close(made.loss(inputs, targets), expected)


def test_with_one_component_the_loss_and_the_error_are_those_of_a_gaussian() -> None:
    made, inputs, targets = network(components=1), drawn(2, 7, INPUTS), drawn(2, 7, OUTPUTS, seed=2)
    _, means, log_variances = made(inputs)
    squared = (means[:, :, 0] - targets) ** 2
    torch.testing.assert_close(made.loss(inputs, targets), gaussian_loss(squared, log_variances[:, :, 0]))
    torch.testing.assert_close(made.errors(inputs, targets), squared.mean(dim=(1, 2)))


def test_draws_are_distributed_as_the_mixture_says() -> None:
    made, rows = network(), 40_000
    inputs = drawn(2, 1, INPUTS).expand(2, rows, INPUTS)
    with torch.no_grad():
        got = made.predict(inputs, drawn(2, rows, OUTPUTS + 1, seed=3))
        reference = distribution(made, inputs[:, :1])
    torch.testing.assert_close(got.mean(dim=1), reference.mean[:, 0], atol=0.03, rtol=0.03)
    torch.testing.assert_close(got.var(dim=1), reference.variance[:, 0], atol=0.05, rtol=0.05)


def test_without_noise_the_most_probable_component_is_followed() -> None:
    made, inputs = network(), drawn(2, 9, INPUTS)
    log_probability, means, _ = made(inputs)
    followed = made.predict(inputs, None)
    for m in range(2):
        for row in range(9):
            torch.testing.assert_close(followed[m, row], means[m, row, int(log_probability[m, row].argmax())])


def fork(rows: int, seed: int) -> Transitions:
    """A ball on a ridge: it rolls one metre to the left or to the right, velocity and side together, and nobody can know which."""
    rng = np.random.default_rng(seed)
    observation = 0.05 * rng.standard_normal((rows, 5))
    observation[:, 2] += 1.0
    side = rng.choice([-1.0, 1.0], rows)
    following = observation + 0.02 * rng.standard_normal((rows, 5))
    following[:, 0] += side
    following[:, 3] += 2.0 * side
    columns = observation, rng.uniform(-10, 10, (rows, 1, 1)), following
    return Transitions(*(c.astype(np.float32) for c in columns))


@pytest.mark.parametrize(("family", "right"), [("gaussian", False), ("mixture", True)])
def test_at_a_fork_a_mixture_imagines_what_can_happen_and_one_gaussian_cannot(family: Family, right: bool) -> None:
    model = ObservationDynamics(
        contract(), EnsembleConfig(members=2, elites=1, layers=2, width=24), 1, sample=True, model=ModelConfig(family, components=3)
    )
    model.initialize(torch.Generator().manual_seed(0))
    fit(model, fork(1000, 1), FitConfig(batch=128, steps=400, learning_rate=5e-3, patience=100), seed=2)
    data = fork(2000, 3)
    observation = torch.from_numpy(data.observation).expand(2, -1, -1)
    actions = torch.from_numpy(data.actions).expand(2, -1, -1, -1)
    with torch.no_grad():
        after = model.predict(observation, actions, drawn(2, 2000, model.prediction_noise, seed=4))
    side, speed = (after - observation)[..., 0], (after - observation)[..., 3]
    possible = ((side.abs() - 1.0).abs() < 0.15) & ((speed - 2.0 * side).abs() < 0.3)
    share = float(possible.float().mean())
    assert (share > 0.95) if right else (share < 0.2), f"{share:.2f} of the imagined futures can happen"
    if right:
        assert 0.4 < float((side > 0).float().mean()) < 0.6, "both sides are imagined, about equally often"
        calm = float(model.predict(observation, actions, None).detach()[..., 0].abs().mean())
        assert calm > 0.8, "without noise it follows one of the two, and not the ridge between them"
