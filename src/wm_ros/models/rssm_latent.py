"""Stochastic latents of the RSSM: categorical with straight-through gradients (V2, V3) or Gaussian (V1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MIN_STD = 0.1
"""Of Gaussian latents (DreamerV1, appendix A)."""


class CategoricalLatent:
    """G groups of C classes (DreamerV2, Hafner et al. 2021, arXiv 2010.02193); the sample is one one-hot vector per group."""

    distribution = "uniform"

    def __init__(self, groups: int, classes: int, unimix: float) -> None:
        self.groups, self.classes, self.unimix = groups, classes, unimix
        self.size = self.parameters = groups * classes
        self.noise = groups
        """Uniform numbers on [0, 1) that one sample takes."""

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise of samples `[*shape, G]`."""
        return torch.rand((*shape, self.noise), generator=generator)

    def probabilities(self, raw: Tensor) -> Tensor:
        """Logits `[..., G C]` → probabilities `[..., G, C]`, with a share of the uniform one (DreamerV3, unimix)."""
        # Groups last: over the last dimension torch takes few classes one group at a time, twenty times as long (8 classes, AVX-512).
        plain = torch.softmax(self._grouped(raw).transpose(-1, -2), dim=-2).transpose(-1, -2)
        return (1.0 - self.unimix) * plain + self.unimix / self.classes if self.unimix else plain

    def sample(self, raw: Tensor, noise: Tensor) -> Tensor:
        """One-hot vectors `[..., G C]` by the inverse of the distribution at the noise `[..., G]`; gradients as if they were probabilities.

        One number per group in place of one per class: of imagined states there are ten thousands, and drawing took longer than the step.
        """
        probability = self.probabilities(raw)
        # The last class takes what rounding leaves above the sum of all but it.
        passed = (probability.detach()[..., :-1].cumsum(-1) <= noise.unsqueeze(-1)).to(raw.dtype)
        chosen = nn.functional.pad(passed, (1, 0), value=1.0) - nn.functional.pad(passed, (0, 1), value=0.0)
        if torch.is_grad_enabled() and probability.requires_grad:
            chosen = chosen + (probability - probability.detach())  # algorithm 1 of DreamerV2
        return chosen.flatten(-2)

    def mean(self, raw: Tensor) -> Tensor:
        """What samples are in the mean: probabilities `[..., G C]`."""
        return self.probabilities(raw).flatten(-2)

    def divergences(self, posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """KL(posterior || prior) in nats `[...]`, summed over the groups, from logits `[..., G C]`.

        Twice: with gradient to the prior alone, and to the posterior alone.
        """
        (first, log_first), (_, log_second) = self._with_logarithm(posterior), self._with_logarithm(prior)
        to_prior = first.detach() * (log_first.detach() - log_second)
        return to_prior.sum((-2, -1)), (first * (log_first - log_second.detach())).sum((-2, -1))

    def packed(self, sample: Tensor) -> Tensor:
        """Samples `[..., G C]` → `[..., G]` in as few bytes as they need; 0 stands for none."""
        chosen = self._grouped(sample)
        return torch.where(chosen.any(-1), chosen.argmax(-1) + 1, 0).to(self.packed_kind)

    def unpacked(self, packed: Tensor) -> Tensor:
        """The inverse of `packed`."""
        return nn.functional.one_hot(packed.long(), self.classes + 1)[..., 1:].flatten(-2).to(torch.float32)

    @property
    def packed_kind(self) -> torch.dtype:
        """Of `packed`."""
        return torch.uint8 if self.classes < 256 else torch.int16

    def _with_logarithm(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        probability = self.probabilities(raw)
        # Without a share of the uniform distribution a probability may be 0 by rounding.
        return probability, probability.log() if self.unimix else torch.log_softmax(self._grouped(raw), dim=-1)

    def _grouped(self, raw: Tensor) -> Tensor:
        return raw.unflatten(-1, (self.groups, self.classes))

    def entropy(self, raw: Tensor) -> Tensor:
        """In nats `[...]`, summed over the groups."""
        probability = self.probabilities(raw)
        return -(probability * probability.log()).sum((-2, -1))


class GaussianLatent:
    """G independent Gaussians (PlaNet and DreamerV1, Hafner et al. 2020, arXiv 1912.01603)."""

    distribution = "normal"

    def __init__(self, groups: int) -> None:
        self.size = self.noise = groups
        self.parameters = 2 * groups

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise of samples `[*shape, G]`."""
        return torch.randn((*shape, self.noise), generator=generator)

    def packed(self, sample: Tensor) -> Tensor:
        """Samples `[..., G]` in half precision."""
        return sample.to(self.packed_kind)

    def unpacked(self, packed: Tensor) -> Tensor:
        """The inverse of `packed`."""
        return packed.to(torch.float32)

    packed_kind = torch.float16
    """Of `packed`."""

    def moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Network outputs `[..., 2G]` → means and standard deviations `[..., G]`."""
        mean, spread = raw.chunk(2, dim=-1)
        return mean, nn.functional.softplus(spread) + MIN_STD

    def mean(self, raw: Tensor) -> Tensor:
        """What samples are in the mean `[..., G]`."""
        return self.moments(raw)[0]

    def sample(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Mean plus deviation times the noise `[..., G]`."""
        mean, std = self.moments(raw)
        return mean + std * noise

    def divergences(self, posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """KL(posterior || prior) in nats `[...]`, summed over the dimensions.

        Twice: with gradient to the prior alone, and to the posterior alone.
        """
        first, second = self.moments(posterior), self.moments(prior)
        held_first, held_second = ((mean.detach(), std.detach()) for mean, std in (first, second))
        return _gaussian_divergence(*held_first, *second), _gaussian_divergence(*first, *held_second)

    def entropy(self, raw: Tensor) -> Tensor:
        """In nats `[...]`, summed over the dimensions."""
        return (self.moments(raw)[1].log() + 1.4189385332046727).sum(-1)


Latent = CategoricalLatent | GaussianLatent


def _gaussian_divergence(mean: Tensor, std: Tensor, prior_mean: Tensor, prior_std: Tensor) -> Tensor:
    ratio = std / prior_std
    return (0.5 * (ratio.square() + ((mean - prior_mean) / prior_std).square() - 1.0) - ratio.log()).sum(-1)


def balanced_divergence(
    latent: Latent, posterior: Tensor, prior: Tensor, dynamics: float, representation: float, free_nats: float, average: bool
) -> Tensor:
    """KL loss `[]` with its two gradients weighted apart, each without gradient below the free nats.

    Args:
        latent: what the parameters stand for.
        posterior: `[..., P]`.
        prior: `[..., P]`.
        dynamics: weight of KL(sg(posterior) || prior), which teaches the prior.
        representation: weight of KL(posterior || sg(prior)), which holds the posterior near it. Equal weights of 1 have the gradient of
            the plain divergence (DreamerV1); 0.8 and 0.2 are KL balancing (V2, section 2); 1 and 0.1 are V3's (equation 5).
        free_nats: a divergence below this has no gradient.
        average: whether the mean over all states is held against it (V1, V2), or each state by itself (V3).
    """
    both = latent.divergences(posterior, prior)
    first, second = ((kl.mean().clamp(min=free_nats) if average else kl.clamp(min=free_nats).mean()) for kl in both)
    return dynamics * first + representation * second
