"""Samples, gradients and divergences of the latents, against formulas by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from wm_ros.models.rssm_latent import CategoricalLatent, GaussianLatent, balanced_divergence

GENERATOR = torch.Generator().manual_seed(0)
POSTERIOR, PRIOR = (2.0 * torch.randn((6, 15), generator=GENERATOR) for _ in range(2))


def test_a_class_is_drawn_as_often_as_its_probability_says() -> None:
    latent = CategoricalLatent(1, 4, 0.0)
    raw = torch.tensor([1.0, 0.0, 2.0, -1.0])
    noise = (torch.arange(10_000) + 0.5) / 10_000
    samples = latent.sample(raw.expand(len(noise), -1), noise.unsqueeze(-1))
    assert torch.equal(samples.sum(-1), torch.ones(len(noise))) and set(samples.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(samples.mean(0), torch.softmax(raw, 0), atol=2e-4, rtol=0)


@pytest.mark.parametrize(("latent", "noise"), [(CategoricalLatent(3, 5, 0.01), torch.rand), (GaussianLatent(7), torch.randn)])
def test_the_mean_is_that_of_many_samples(latent: CategoricalLatent | GaussianLatent, noise: Callable[..., torch.Tensor]) -> None:
    raw = torch.randn(latent.parameters, generator=GENERATOR)
    samples = latent.sample(raw.expand(40_000, -1), noise((40_000, latent.noise), generator=GENERATOR))
    torch.testing.assert_close(latent.mean(raw), samples.mean(0), atol=0.02, rtol=0)


def test_the_largest_noise_draws_the_last_class_of_any_distribution() -> None:
    latent = CategoricalLatent(3, 5, 0.01)
    sample = latent.sample(POSTERIOR, torch.full((6, 3), 1.0 - 2**-24)).view(6, 3, 5)
    assert torch.equal(sample.sum(-1), torch.ones(6, 3)) and torch.equal(sample[..., -1], torch.ones(6, 3))


def test_unimix_keeps_every_probability_above_its_share() -> None:
    probability = CategoricalLatent(3, 5, 0.01).probabilities(50.0 * POSTERIOR)
    assert probability.min() >= 0.01 / 5 * 0.999
    torch.testing.assert_close(probability.sum(-1), torch.ones(6, 3))


def test_gradients_pass_through_a_sample_as_through_the_probabilities() -> None:
    latent, pull = CategoricalLatent(3, 5, 0.01), torch.randn((6, 15), generator=GENERATOR)
    raw = POSTERIOR.clone().requires_grad_()
    found = torch.autograd.grad((latent.sample(raw, torch.rand((6, 3), generator=GENERATOR)) * pull).sum(), raw)[0]
    expected = torch.autograd.grad((latent.probabilities(raw).flatten(-2) * pull).sum(), raw)[0]
    torch.testing.assert_close(found, expected)


def test_the_gaussian_divergence_is_that_of_torch() -> None:
    latent, raws = GaussianLatent(7), [torch.randn((5, 14), generator=GENERATOR) for _ in range(2)]
    first, second = (Normal(*latent.moments(raw)) for raw in raws)
    for found in latent.divergences(*raws):
        torch.testing.assert_close(found, kl_divergence(first, second).sum(-1))
    torch.testing.assert_close(latent.entropy(raws[0]), first.entropy().sum(-1))


def test_a_probability_of_nothing_leaves_the_divergence_and_its_gradient_finite() -> None:
    latent, raw = CategoricalLatent(3, 5, 0.0), (200.0 * POSTERIOR).requires_grad_()
    assert latent.probabilities(raw).min() == 0
    for found in latent.divergences(raw, PRIOR):
        assert torch.isfinite(found).all() and (found > 0).all()
    assert torch.isfinite(torch.autograd.grad(latent.divergences(raw, PRIOR)[1].sum(), raw)[0]).all()


@pytest.mark.parametrize(("dynamics", "representation"), [(1.0, 0.1), (0.8, 0.2), (1.0, 1.0)])
def test_kl_balancing_weighs_the_two_gradients(dynamics: float, representation: float) -> None:
    latent = CategoricalLatent(3, 5, 0.0)
    posterior, prior = POSTERIOR.clone().requires_grad_(), PRIOR.clone().requires_grad_()
    loss = balanced_divergence(latent, posterior, prior, dynamics, representation, 0.0, average=False)
    by_posterior, by_prior = torch.autograd.grad(loss, (posterior, prior))
    p, q = (torch.softmax(raw.view(6, 3, 5), -1) for raw in (POSTERIOR, PRIOR))
    ratio = p.log() - q.log()
    # d KL / d logits of q is q - p; of p it is p (log p/q - KL), group by group.
    torch.testing.assert_close(by_prior, dynamics * (q - p).flatten(1) / 6)
    kl = (p * ratio).sum(-1, keepdim=True)
    torch.testing.assert_close(by_posterior, representation * (p * (ratio - kl)).flatten(1) / 6)
    torch.testing.assert_close(loss, (dynamics + representation) * kl.sum((1, 2)).mean())


def test_equal_weights_of_one_have_the_gradient_of_the_plain_divergence() -> None:
    latent = GaussianLatent(5)
    raws = [torch.randn((4, 10), generator=GENERATOR).requires_grad_() for _ in range(2)]
    (mean, std), (prior_mean, prior_std) = (latent.moments(raw) for raw in raws)
    plain = torch.autograd.grad(kl_divergence(Normal(mean, std), Normal(prior_mean, prior_std)).sum(-1).mean(), raws)
    balanced = torch.autograd.grad(balanced_divergence(latent, *raws, 1.0, 1.0, 0.0, average=True), raws)
    torch.testing.assert_close(balanced, plain)


def test_states_within_the_free_nats_have_no_gradient_and_others_all_of_theirs() -> None:
    latent = CategoricalLatent(3, 5, 0.0)
    prior = torch.where(torch.arange(6).unsqueeze(1) < 3, POSTERIOR + 0.1 * PRIOR, PRIOR).requires_grad_()
    each = latent.divergences(POSTERIOR, prior)[0].detach()
    assert (each[:3] < 1.0).all() and (each[3:] > 1.0).all()
    bound = torch.autograd.grad(balanced_divergence(latent, POSTERIOR, prior, 1.0, 0.1, 1.0, average=False), prior)[0]
    free = torch.autograd.grad(balanced_divergence(latent, POSTERIOR, prior, 1.0, 0.1, 0.0, average=False), prior)[0]
    assert torch.equal(bound[:3], torch.zeros_like(bound[:3]))
    torch.testing.assert_close(bound[3:], free[3:])


def test_free_nats_of_the_average_leave_every_state_its_gradient_or_none() -> None:
    latent = CategoricalLatent(3, 5, 0.0)
    prior = PRIOR.clone().requires_grad_()
    mean = float(latent.divergences(POSTERIOR, PRIOR)[0].mean())
    gradients = [
        torch.autograd.grad(balanced_divergence(latent, POSTERIOR, prior, 1.0, 1.0, free, average=True), prior)[0]
        for free in (0.9 * mean, 1.1 * mean)
    ]
    assert (gradients[0].abs().sum(1) > 0).all() and torch.equal(gradients[1], torch.zeros_like(prior))


def test_samples_are_packed_and_read_back_and_none_stays_none() -> None:
    for classes, kind in ((5, torch.uint8), (300, torch.int16)):
        latent = CategoricalLatent(3, classes, 0.01)
        sample = latent.sample(torch.randn((4, 3 * classes), generator=GENERATOR), torch.rand((4, 3), generator=GENERATOR))
        sample[2] = 0.0
        packed = latent.packed(sample)
        assert packed.dtype == kind and packed.shape == (4, 3) and torch.equal(latent.unpacked(packed), sample)
    gaussian, sample = GaussianLatent(7), torch.randn((4, 7), generator=GENERATOR)
    torch.testing.assert_close(gaussian.unpacked(gaussian.packed(sample)), sample, atol=2e-3, rtol=1e-3)
