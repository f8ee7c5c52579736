"""The world model of the Dreamer family for vectors: encoder, recurrent state-space model, decoder, reward and continue heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wm_ros.models.rssm import Observed, Rssm, RssmConfig, State
from wm_ros.models.rssm_latent import balanced_divergence
from wm_ros.models.rssm_layers import Mlp, initialize
from wm_ros.models.rssm_twohot import Gaussian, TwoHot, symexp, symlog

ScalarKind = Literal["twohot", "gaussian"]


@dataclass(frozen=True)
class WorldConfig:
    """The parts around the recurrence, and how the loss weighs them; the defaults are DreamerV3's."""

    units: int = 64
    """Of every hidden layer of encoder, decoder and heads."""
    encoder_layers: int = 3
    """From the observation to its embedding."""
    decoder_layers: int = 3
    """From the state to the observation."""
    reward_layers: int = 1
    """From the state to the reward."""
    continue_layers: int = 1
    """From the state to whether the episode goes on."""
    symlog: bool = True
    """Observations are compressed on the way in and out (V3)."""
    reward: ScalarKind = "twohot"
    """The reward's distribution: two-hot over exponential bins (V3) or of unit variance (V1, V2)."""
    dynamics_scale: float = 1.0
    """Weight of the divergence that teaches the prior (V3, equation 4; see `balanced_divergence`)."""
    representation_scale: float = 0.1
    """Weight of the divergence that holds the posterior near the prior (V3, equation 4)."""
    free_nats: float = 1.0
    """Divergence that costs nothing (V3, equation 5)."""
    free_average: bool = False
    """Whether the batch's mean is held against the free nats (V1, V2), or each state (V3)."""

    def __post_init__(self) -> None:
        if min(self.units, self.encoder_layers, self.decoder_layers, self.reward_layers, self.continue_layers) < 1:
            raise ValueError("units and layers must be at least 1")
        if min(self.dynamics_scale, self.representation_scale, self.free_nats) < 0.0:
            raise ValueError("dynamics_scale, representation_scale and free_nats must not be negative")


@dataclass(frozen=True, eq=False)
class WorldLosses:
    """Means over the batch, as tensors `[]`."""

    observation: Tensor
    """Half the squared error of the decoded observation, summed over its columns."""
    reward: Tensor
    """Negative log density of the reward."""
    going_on: Tensor
    """Cross entropy of whether the episode goes on."""
    divergence: Tensor
    """Balanced, with free nats."""

    @property
    def total(self) -> Tensor:
        """What is minimized."""
        return self.observation + self.reward + self.going_on + self.divergence


class RssmWorld(nn.Module):
    """A pure function of data and noise; see `models.rssm` for time and shapes."""

    def __init__(self, observations: int, actions: int, rssm: RssmConfig, config: WorldConfig) -> None:
        super().__init__()
        self.config = config
        norm, activation, units = rssm.layer_norm, rssm.activation, config.units
        self.encoder = Mlp(observations, units, config.encoder_layers, 0, norm, activation)
        self.rssm = Rssm(actions, units, rssm)
        self.feature_size = rssm.deter + self.rssm.latent.size
        self.decoder = Mlp(self.feature_size, units, config.decoder_layers, observations, norm, activation)
        self.reward_kind = scalar(config.reward)
        # Rewards begin at zero: early random ones would be believed by the actor (V3, section on the critic).
        zero = 0.0 if config.reward == "twohot" else 1.0
        self.reward_head = Mlp(self.feature_size, units, config.reward_layers, self.reward_kind.outputs, norm, activation, zero)
        self.continue_head = Mlp(self.feature_size, units, config.continue_layers, 1, norm, activation)

    def initialize(self, generator: torch.Generator) -> None:
        """Draws the first weights."""
        initialize(self, generator)

    def embed(self, observation: Tensor) -> Tensor:
        """Observations `[..., O]` → embeddings `[..., E]`."""
        return self.encoder(symlog(observation) if self.config.symlog else observation)

    def decode(self, state: State) -> Tensor:
        """States `[..., ...]` → the observations `[..., O]` that the model expects there."""
        decoded = self.decoder(state.feature)
        return symexp(decoded) if self.config.symlog else decoded

    def reward(self, feature: Tensor) -> Tensor:
        """Features `[..., D+S]` → the rewards `[...]` that came on arriving there."""
        return self.reward_kind.mean(self.reward_head(feature))

    def going_on(self, feature: Tensor) -> Tensor:
        """Features `[..., D+S]` → the probability `[...]` that the episode has not terminated there."""
        return torch.sigmoid(self.continue_head(feature).squeeze(-1))

    def loss(
        self, start: State, observation: Tensor, action: Tensor, reward: Tensor, terminated: Tensor, first: Tensor, noise: Tensor
    ) -> tuple[WorldLosses, Observed]:
        """Losses of L steps of B stretches, and the states along them.

        Args:
            start: [B, ...], before the first step.
            observation: [L, B, O].
            action: [L, B, A], in half ranges, that led to each observation.
            reward: [L, B], that came with each observation.
            terminated: [L, B] bool, whether the episode terminated with it.
            first: [L, B] bool, where an episode begins.
            noise: [L, B, G].
        """
        seen = self.rssm.observe(start, action, self.embed(observation), first, noise)
        feature, config = seen.state.feature, self.config
        wanted = symlog(observation) if config.symlog else observation
        kl = (config.dynamics_scale, config.representation_scale, config.free_nats, config.free_average)
        logits = self.continue_head(feature).squeeze(-1)
        losses = WorldLosses(
            observation=0.5 * (self.decoder(feature) - wanted).square().sum(-1).mean(),
            reward=self.reward_kind.loss(self.reward_head(feature), reward).mean(),
            going_on=nn.functional.binary_cross_entropy_with_logits(logits, (~terminated).to(logits.dtype)),
            divergence=balanced_divergence(self.rssm.latent, seen.posterior, seen.prior, *kl),
        )
        return losses, seen


def scalar(kind: ScalarKind) -> TwoHot | Gaussian:
    """How outputs of a network stand for a scalar."""
    return TwoHot() if kind == "twohot" else Gaussian()
