"""Deterministic forward networks: one value per target and no noise, fitted by squared error."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_ros.models.ensemble import EnsembleConfig
from wm_ros.models.forward_network import Decoder, ForwardNetwork


class DeterministicEnsemble(ForwardNetwork):
    """M independent networks `[M, B, I] → [M, B, D]`, in normalized units: "DE" of PETS (Chua et al. 2018, table 1)."""

    noise_columns = 0

    def __init__(self, config: EnsembleConfig, inputs: int, outputs: int, members: int | None = None) -> None:
        super().__init__(config.members if members is None else members, inputs, config.layers, config.width, outputs)
        self.outputs = outputs

    def predict(self, inputs: Tensor, noise: Tensor | None) -> Tensor:
        """See `ForwardNetwork.predict`; there is nothing to draw."""
        return self.raw(inputs)

    def decoder(self, scale: Tensor, shift: Tensor) -> Decoder:
        """See `ForwardNetwork.decoder`."""
        weight, bias = self.weights[-1] * scale, self.biases[-1] * scale + shift
        return lambda hidden, noise: (torch.matmul(hidden, weight) + bias, None)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error, summed over members."""
        return self.errors(inputs, targets).sum()

    def errors(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """See `ForwardNetwork.errors`."""
        return ((self.raw(inputs) - targets) ** 2).mean(dim=(1, 2))
