"""A learned termination, for contracts that have no function for it: a calibrated probability."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_ros.models.ensemble import EnsembleConfig
from wm_ros.models.member_mlp import MemberMLP

HEAVIEST = 100.0
"""Largest weight of a rare outcome: beyond it single rows decide the gradient."""


class TerminationNetwork(MemberMLP):
    """Probability that an episode ends in a final state within a model step, from normalized (observation, actions, next observation).

    Terminations are rare, one row of an episode at most. Their rows count `w` times in the binary cross-entropy, so that they are learned
    at all; the odds that come out are then w times too high, which is taken back in the logit (King & Zeng 2001, "Logistic Regression in
    Rare Events Data", prior correction), so that the probability is calibrated all the same.
    """

    def __init__(self, config: EnsembleConfig, inputs: int, members: int | None = None) -> None:
        """Args: size; I; M if not the configuration's."""
        super().__init__(config.members if members is None else members, inputs, config.layers, config.width, 1)
        self.register_buffer("weight_of_ends", torch.ones(()))

    def balance(self, terminated: Tensor) -> None:
        """Sets the weight of terminations from `terminated [B]`, 0 or 1: as if there were as many as rows that go on, within limits."""
        ends = float(terminated.double().sum())
        if ends > 0:
            self.weight_of_ends.copy_(torch.tensor((len(terminated) - ends) / ends).clamp(1.0, HEAVIEST))

    def forward(self, inputs: Tensor) -> Tensor:
        """Probability `[..., M, B]` for `inputs [..., M, B, I]`."""
        return torch.sigmoid(self.raw(inputs).squeeze(-1) - torch.log(self.weight_of_ends))

    def loss(self, inputs: Tensor, terminated: Tensor) -> Tensor:
        """Weighted binary cross-entropy, summed over members; `terminated [M, B]`, 0 or 1."""
        logits = self.raw(inputs).squeeze(-1)
        each = nn.functional.binary_cross_entropy_with_logits(logits, terminated, pos_weight=self.weight_of_ends, reduction="none")
        return each.mean(dim=1).sum()

    def errors(self, inputs: Tensor, terminated: Tensor) -> Tensor:
        """Brier score `[M]` beside that of a constant probability: 0 is certain and right, 1 knows nothing."""
        share = terminated.mean()
        chance = (share * (1.0 - share)).clamp(min=1e-3)
        return ((self(inputs) - terminated) ** 2).mean(dim=1) / chance
