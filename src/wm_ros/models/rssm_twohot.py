"""Symlog, and scalars as categories of exponentially spaced bins (DreamerV3, Hafner et al. 2023, arXiv 2301.04104)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BINS = 255
"""Odd, so that one bin is at zero (appendix of the paper)."""
RANGE = 20.0
"""The bins lie at symexp of equal steps from -20 to 20."""


def symlog(value: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): compresses large magnitudes of either sign."""
    return torch.sign(value) * torch.log1p(value.abs())


def symexp(value: Tensor) -> Tensor:
    """The inverse of `symlog`."""
    return torch.sign(value) * torch.expm1(value.abs())


def spaced_bins() -> Tensor:
    """The places `[BINS]` of the bins, exactly symmetric about zero."""
    right = symexp(torch.linspace(0.0, RANGE, BINS // 2 + 1, dtype=torch.float64)).float()
    return torch.cat([-right[1:].flip(0), right])


class TwoHot(nn.Module):
    """Reads logits over the bins as a scalar, and scores them against one."""

    bins: Tensor
    outputs = BINS

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bins", spaced_bins())

    def mean(self, logits: Tensor) -> Tensor:
        """Expected value `[...]` under logits `[..., BINS]`."""
        probability = torch.softmax(logits, dim=-1)
        half = BINS // 2
        # Outer bins are at 5e8: pairs of equal size cancel before they are added up, so that even weights give exactly zero.
        difference = probability[..., half + 1 :] - probability[..., :half].flip(-1)
        return difference @ self.bins[half + 1 :]

    def steady_mean(self, logits: Tensor) -> Tensor:
        """The value `[...]` by the mean of its symlog, as in V3's first version.

        Of an untrained head `mean` hangs on the last bits of probabilities of bins at 5e8, which no two runtimes share. With the weight
        on two neighbours, both are the same within half a percent of the value.
        """
        return symexp(torch.softmax(logits, dim=-1) @ symlog(self.bins))

    def loss(self, logits: Tensor, *targets: Tensor) -> Tensor:
        """Cross entropy `[...]` with the two bins beside each target `[...]`, weighted by nearness, summed over the targets."""
        lows, weights = zip(*map(self.neighbours, targets), strict=True)
        low, weight = torch.stack(lows, dim=-1), torch.stack(weights, dim=-1)
        found = torch.log_softmax(logits, dim=-1).gather(-1, torch.cat([low, low + 1], dim=-1))
        return -(torch.cat([1.0 - weight, weight], dim=-1) * found).sum(-1)

    def neighbours(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """The bin `[...]` at or below each target `[...]`, and the share `[...]` of the one above it."""
        low = (torch.searchsorted(self.bins, target.contiguous(), right=True) - 1).clamp(0, BINS - 2)
        left, right = self.bins[low], self.bins[low + 1]
        return low, ((target - left) / (right - left)).clamp(0.0, 1.0)


class Gaussian(nn.Module):
    """A scalar with unit variance, as in DreamerV1 and V2: its negative log density is half the squared error."""

    outputs = 1

    def mean(self, output: Tensor) -> Tensor:
        """The value `[...]` that outputs `[..., 1]` stand for."""
        return output.squeeze(-1)

    def steady_mean(self, output: Tensor) -> Tensor:
        """The same."""
        return self.mean(output)

    def loss(self, output: Tensor, *targets: Tensor) -> Tensor:
        """Half the squared errors `[...]` of outputs `[..., 1]`, summed over the targets `[...]`."""
        return 0.5 * (output - torch.stack(targets, dim=-1)).square().sum(-1)
