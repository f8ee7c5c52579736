"""What the model does not know yet: the disagreement of several one-step predictors of its latent (Plan2Explore).

Sekar et al. 2020, arXiv 2005.05960. Where there is enough data all predictors come to the same mean, also of what is random in itself;
where there is none they differ by their first weights.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from wm_ros.models.rssm_layers import MemberLinear

_LEAST_VARIANCE = 1e-14


class Predictors(nn.Module):
    """M networks from a state's features and an action to the next latent's mean, each with weights of its own."""

    def __init__(self, members: int, features: int, actions: int, latent: int, width: int, layers: int) -> None:
        """Args: how many there are, and sizes."""
        super().__init__()
        sizes = [features + actions, *[width] * layers, latent]
        self.layers = nn.ModuleList(MemberLinear(members, i, o) for i, o in itertools.pairwise(sizes))

    def forward(self, feature: Tensor, action: Tensor) -> Tensor:
        """Features `[..., F]` and actions `[..., A]` in half ranges → means `[M, ..., S]`."""
        rows = torch.cat([feature, action], dim=-1)
        value = rows.flatten(0, -2)
        for i, layer in enumerate(self.layers):
            value = layer(value if i == 0 else nn.functional.silu(value))
        return value.unflatten(1, rows.shape[:-1])

    def loss(self, feature: Tensor, action: Tensor, following: Tensor) -> Tensor:
        """Half the squared error `[...]`, summed over the latent's columns and the members: each is a Gaussian of unit variance.

        Args:
            feature: [..., F], of the states before; no gradient goes into them.
            action: [..., A], taken there, in half ranges.
            following: [..., S], the means of the latents behind.
        """
        return 0.5 * (self(feature.detach(), action) - following.detach()).square().sum(-1).sum(0)

    def disagreement(self, feature: Tensor, action: Tensor) -> Tensor:
        """Standard deviation over the members `[...]`, mean over the latent's columns."""
        predicted = self(feature, action)
        # By hand: over the first dimension torch's own takes twenty times as long. Where all agree exactly, no gradient.
        variance = (predicted - predicted.mean(0)).square().mean(0)
        return variance.clamp(min=_LEAST_VARIANCE).sqrt().mean(-1)
