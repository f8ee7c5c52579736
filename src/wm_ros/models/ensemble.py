"""Probabilistic ensemble of neural networks as batched tensors (PETS, Chua et al. 2018, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wm_ros.models.forward_network import Decoder, ForwardNetwork


@dataclass(frozen=True)
class EnsembleConfig:
    """Size and shape of the ensemble."""

    members: int = 6
    """Networks trained."""
    elites: int = 5
    """Networks kept for planning, the best on held-out data."""
    layers: int = 3
    """Hidden layers of each network."""
    width: int = 128
    """Units of each hidden layer."""
    log_variance_low: float = -7.0
    """Start of the learned lower bound of the log-variance, in normalized targets (PETS, appendix A.1)."""
    log_variance_high: float = 0.5
    """Start of the learned upper bound."""

    def __post_init__(self) -> None:
        if not 1 <= self.elites <= self.members:
            raise ValueError(f"elites {self.elites} must be between 1 and members {self.members}")
        if self.layers < 1 or self.width < 1:
            raise ValueError(f"layers {self.layers} and width {self.width} must be at least 1")


class GaussianEnsemble(ForwardNetwork):
    """M independent networks `[M, B, I] → mean, log-variance [M, B, D]`, in normalized units."""

    def __init__(self, config: EnsembleConfig, inputs: int, outputs: int, members: int | None = None) -> None:
        super().__init__(config.members if members is None else members, inputs, config.layers, config.width, 2 * outputs)
        self.outputs = self.noise_columns = outputs
        self.log_variance_low = nn.Parameter(torch.full((outputs,), config.log_variance_low))
        self.log_variance_high = nn.Parameter(torch.full((outputs,), config.log_variance_high))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance.

        Args:
            inputs: `[M, B, I]`, normalized.

        Returns:
            mean `[M, B, D]` and log-variance `[M, B, D]`, softly held between the learned bounds.
        """
        mean, log_variance = self.raw(inputs).split(self.outputs, dim=-1)
        return mean, self.bounded(log_variance)

    def bounded(self, log_variance: Tensor) -> Tensor:
        """Holds `log_variance [..., D]` softly between the learned bounds (PETS, appendix A.1)."""
        return softly_between(log_variance, self.log_variance_low, self.log_variance_high)

    def predict(self, inputs: Tensor, noise: Tensor | None) -> Tensor:
        """See `ForwardNetwork.predict`."""
        mean, log_variance = self(inputs)
        return mean if noise is None else mean + torch.exp(0.5 * log_variance) * noise

    def decoder(self, scale: Tensor, shift: Tensor) -> Decoder:
        """See `ForwardNetwork.decoder`; the log-variance is not computed where there is no noise."""
        weight, bias, size = self.weights[-1], self.biases[-1], self.outputs
        mean_weight, mean_bias = weight[..., :size] * scale, bias[..., :size] * scale + shift

        def decode(hidden: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
            mean = torch.matmul(hidden, mean_weight) + mean_bias
            if noise is None:
                return mean, None
            log_variance = self.bounded(torch.matmul(hidden, weight[..., size:]) + bias[..., size:])
            return mean, torch.exp(0.5 * log_variance) * scale * noise

        return decode

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """See `ForwardNetwork.loss`."""
        mean, log_variance = self(inputs)
        return gaussian_loss((mean - targets) ** 2, log_variance)

    def errors(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """See `ForwardNetwork.errors`."""
        mean, _ = self(inputs)
        return ((mean - targets) ** 2).mean(dim=(1, 2))

    def looseness(self) -> Tensor:
        """Sum of the distances between the learned bounds."""
        return self.log_variance_high.sum() - self.log_variance_low.sum()


def softly_between(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Holds `value [..., D]` softly between `low [D]` and `high [D]` (PETS, appendix A.1)."""
    below = high - nn.functional.softplus(high - value)
    return low + nn.functional.softplus(below - low)


def gaussian_loss(squared_error: Tensor, log_variance: Tensor) -> Tensor:
    """Twice the negative log-likelihood of a diagonal Gaussian up to a constant (PETS, eq. 1), summed over members, else averaged."""
    return (squared_error * torch.exp(-log_variance) + log_variance).mean(dim=(1, 2)).sum()
