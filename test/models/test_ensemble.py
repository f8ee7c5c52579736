"""The batched ensemble against one plain network per member."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wm_ros.models.ensemble import EnsembleConfig, GaussianEnsemble

CONFIG = EnsembleConfig(members=4, elites=2, layers=3, width=16, log_variance_low=-6.0, log_variance_high=1.0)
INPUTS, OUTPUTS = 5, 3


def ensemble(seed: int = 0) -> GaussianEnsemble:
    network = GaussianEnsemble(CONFIG, INPUTS, OUTPUTS)
    network.initialize(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for bias in network.biases:
            bias.copy_(torch.randn(bias.shape, generator=torch.Generator().manual_seed(seed + 1)))
    return network


def plain(network: GaussianEnsemble, member: int) -> nn.Sequential:
    """The same weights in modules of torch."""
    layers: list[nn.Module] = []
    for weight, bias in zip(network.weights, network.biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[2])
        with torch.no_grad():
            layer.weight.copy_(weight[member].T)
            layer.bias.copy_(bias[member, 0])
        layers += [layer, nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def test_the_batched_network_equals_one_network_per_member() -> None:
    network = ensemble()
    inputs = torch.randn(4, 9, INPUTS, generator=torch.Generator().manual_seed(2))
    mean, log_variance = network(inputs)
    assert mean.shape == log_variance.shape == (4, 9, OUTPUTS)
    softplus = nn.functional.softplus
    for m in range(4):
        expected, raw = plain(network, m)(inputs[m]).split(OUTPUTS, dim=-1)
        torch.testing.assert_close(mean[m], expected, atol=1e-5, rtol=1e-5)
        below = 1.0 - softplus(1.0 - raw)
        torch.testing.assert_close(log_variance[m], -6.0 + softplus(below + 6.0), atol=1e-5, rtol=1e-5)


def test_members_are_independent() -> None:
    network = ensemble()
    inputs = torch.randn(4, 2, INPUTS, generator=torch.Generator().manual_seed(3))
    before, _ = network(inputs)
    with torch.no_grad():
        network.weights[0][1] += 1.0
    after, _ = network(inputs)
    changed = (before != after).any(dim=2).any(dim=1)
    assert changed.tolist() == [False, True, False, False]


@pytest.mark.parametrize("raw", [-1e4, -6.0, 0.0, 1.0, 1e4])
def test_the_log_variance_stays_between_its_bounds(raw: float) -> None:
    value = ensemble().bounded(torch.full((2, OUTPUTS), raw))
    # Softly: the two softplus of the formula overlap, by less than 1e-3 with these bounds.
    assert bool(((value >= -6.0) & (value <= 1.0 + 1e-3)).all())


def test_between_the_bounds_the_log_variance_still_learns() -> None:
    raw = torch.linspace(-5.0, 0.0, 6).unsqueeze(1).expand(6, OUTPUTS).clone().requires_grad_()
    value = ensemble().bounded(raw)
    value.sum().backward()
    assert raw.grad is not None and bool((raw.grad > 0.2).all())
    assert bool((value[1:] > value[:-1]).all())


def test_initialization_is_reproducible_and_differs_between_members_and_seeds() -> None:
    def weights(seed: int) -> list[Tensor]:
        network = GaussianEnsemble(CONFIG, INPUTS, OUTPUTS)
        network.initialize(torch.Generator().manual_seed(seed))
        return [w.detach() for w in network.weights]

    first, again, other = weights(7), weights(7), weights(8)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0][0], first[0][1])
    std = 1.0 / (2.0 * 16**0.5)  # of a layer with 16 inputs, cut at two standard deviations (which leaves 0.88 of it)
    assert float(first[1].abs().max()) <= 2 * std and float(first[1].std()) == pytest.approx(0.88 * std, rel=0.05)


def test_chosen_members_are_taken_over_in_their_order() -> None:
    network = ensemble()
    with torch.no_grad():
        network.log_variance_low -= 1.0
    elites = GaussianEnsemble(CONFIG, INPUTS, OUTPUTS, members=2)
    elites.members_from(network, [3, 1])
    inputs = torch.randn(1, 6, INPUTS, generator=torch.Generator().manual_seed(4))
    for ours, theirs in zip(elites(inputs.expand(2, -1, -1)), network(inputs.expand(4, -1, -1)), strict=True):
        torch.testing.assert_close(ours, theirs[[3, 1]])
    with pytest.raises(ValueError, match="3 members chosen for an ensemble of 2"):
        elites.members_from(network, [0, 1, 2])


@pytest.mark.parametrize("wrong", [{"elites": 0}, {"elites": 5, "members": 4}, {"layers": 0}, {"width": 0}])
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        EnsembleConfig(**wrong)  # type: ignore[arg-type]
