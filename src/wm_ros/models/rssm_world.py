"""The world model of the Dreamer family: encoders, recurrent state-space model, decoders, reward and continue heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wm_ros.models.rssm import Observed, Rssm, RssmConfig, State
from wm_ros.models.rssm_images import ImageDecoder, ImageEncoder, ImageSize, PatchDecoder, PatchEncoder, pixels, scaled
from wm_ros.models.rssm_latent import balanced_divergence
from wm_ros.models.rssm_layers import Mlp, initialize
from wm_ros.models.rssm_twohot import Gaussian, TwoHot, symexp, symlog

ScalarKind = Literal["twohot", "gaussian"]
Pictures = Mapping[str, Tensor]
"""Camera → `[..., H, W, C]` uint8."""
NO_PICTURES: Pictures = {}


@dataclass(frozen=True)
class WorldConfig:
    """The parts around the recurrence, and how the loss weighs them; the defaults are DreamerV3's."""

    see: Literal["all", "images", "vector"] = "all"
    """What is encoded, and expected again: vector and cameras, cameras alone, or the vector alone."""
    units: int = 64
    """Of every hidden layer of encoder, decoder and heads."""
    image_depth: int = 8
    """Channels of a camera's first convolution; each of the next has twice as many, down to 4 x 4. Patches leave the first out."""
    image_layers: Literal["convolutions", "patches"] = "convolutions"
    """How pictures are made smaller: convolutions (V1 to V3), or patches that do not overlap, which a processor takes in half the time."""
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
    observation_weight: float = 1.0
    """Of the squared error of each column or colour: 1 in V3's code (1/2 in its equation 1), 1/2 in V1 and V2, which is unit variance."""
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
        if self.see not in ("all", "images", "vector"):
            raise ValueError(f"see {self.see!r} must be all, images or vector")
        if self.image_layers not in ("convolutions", "patches"):
            raise ValueError(f"image_layers {self.image_layers!r} must be convolutions or patches")
        if min(self.units, self.image_depth, self.encoder_layers, self.decoder_layers, self.reward_layers, self.continue_layers) < 1:
            raise ValueError("units, image_depth and layers must be at least 1")
        if min(self.dynamics_scale, self.representation_scale, self.free_nats, self.observation_weight) < 0.0:
            raise ValueError("dynamics_scale, representation_scale, free_nats and observation_weight must not be negative")


@dataclass(frozen=True, eq=False)
class WorldLosses:
    """Means over the batch, as tensors `[]`."""

    observation: Tensor
    """Weighted squared error of the decoded observation, summed over columns and colours of pixels."""
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

    def __init__(
        self, observations: int, actions: int, rssm: RssmConfig, config: WorldConfig, images: Mapping[str, ImageSize] | None = None
    ) -> None:
        """Args: columns of the vector, joints, settings, and the sizes of the cameras' pictures.

        Raises:
            ValueError: nothing is left to see, or a picture's size cannot be encoded.
        """
        super().__init__()
        self.config = config
        self.images = {} if images is None or config.see == "vector" else dict(images)
        vector = config.see != "images"
        if not (vector or self.images):
            raise ValueError("world.see: images, and there is no camera")
        norm, activation, units = rssm.layer_norm, rssm.activation, config.units
        look = (config.image_depth, norm, activation)
        self.encoder = Mlp(observations, units, config.encoder_layers, 0, norm, activation) if vector else None
        encode, decode = (ImageEncoder, ImageDecoder) if config.image_layers == "convolutions" else (PatchEncoder, PatchDecoder)
        encoders = [encode(size, *look) for size in self.images.values()]
        self.image_encoders = nn.ModuleList(encoders)
        embedded = units * vector + sum(encoder.outputs for encoder in encoders)
        self.rssm = Rssm(actions, embedded, rssm)
        self.feature_size = rssm.deter + self.rssm.latent.size
        features = self.feature_size
        self.decoder = Mlp(features, units, config.decoder_layers, observations, norm, activation) if vector else None
        self.image_decoders = nn.ModuleList(decode(features, size, *look) for size in self.images.values())
        self.reward_kind = scalar(config.reward)
        # Rewards begin at zero: early random ones would be believed by the actor (V3, section on the critic).
        zero = 0.0 if config.reward == "twohot" else 1.0
        self.reward_head = Mlp(self.feature_size, units, config.reward_layers, self.reward_kind.outputs, norm, activation, zero)
        self.continue_head = Mlp(self.feature_size, units, config.continue_layers, 1, norm, activation)

    def initialize(self, generator: torch.Generator) -> None:
        """Draws the first weights."""
        initialize(self, generator)

    def embed(self, observation: Tensor, images: Pictures = NO_PICTURES) -> Tensor:
        """Observations `[..., O]` and pictures → embeddings `[..., E]`."""
        parts = [encoder(images[name]) for name, encoder in zip(self.images, self.image_encoders, strict=True)]
        if self.encoder is not None:
            parts.insert(0, self.encoder(symlog(observation) if self.config.symlog else observation))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def decode(self, state: State) -> Tensor:
        """States `[..., ...]` → the observations `[..., O]` that the model expects there.

        Raises:
            ValueError: it sees cameras alone.
        """
        if self.decoder is None:
            raise ValueError("this model sees cameras alone: it expects no observation vector")
        decoded: Tensor = self.decoder(state.feature)
        return symexp(decoded) if self.config.symlog else decoded

    def decode_images(self, state: State) -> dict[str, Tensor]:
        """States `[..., ...]` → the pictures `[..., H, W, C]` uint8 that the model expects there, of each camera."""
        return {name: pixels(decoder(state.feature)) for name, decoder in zip(self.images, self.image_decoders, strict=True)}

    def reward(self, feature: Tensor) -> Tensor:
        """Features `[..., D+S]` → the rewards `[...]` that came on arriving there."""
        return self.reward_kind.mean(self.reward_head(feature))

    def going_on(self, feature: Tensor) -> Tensor:
        """Features `[..., D+S]` → the probability `[...]` that the episode has not terminated there."""
        return torch.sigmoid(self.continue_head(feature).squeeze(-1))

    def loss(
        self,
        start: State,
        observation: Tensor,
        action: Tensor,
        reward: Tensor,
        terminated: Tensor,
        first: Tensor,
        noise: Tensor,
        images: Pictures = NO_PICTURES,
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
            images: [L, B, H, W, C] of each camera.
        """
        seen = self.rssm.observe(start, action, self.embed(observation, images), first, noise)
        feature, config = seen.state.feature, self.config
        kl = (config.dynamics_scale, config.representation_scale, config.free_nats, config.free_average)
        logits = self.continue_head(feature).squeeze(-1)
        losses = WorldLosses(
            observation=config.observation_weight * self._error(feature, observation, images),
            reward=self.reward_kind.loss(self.reward_head(feature), reward).mean(),
            going_on=nn.functional.binary_cross_entropy_with_logits(logits, (~terminated).to(logits.dtype)),
            divergence=balanced_divergence(self.rssm.latent, seen.posterior, seen.prior, *kl),
        )
        return losses, seen

    def _error(self, feature: Tensor, observation: Tensor, images: Pictures) -> Tensor:
        """Squared error of what is decoded from features `[L, B, F]`, summed over columns and pixels, mean over the rest."""
        cameras = zip(self.images, self.image_decoders, strict=True)
        errors = [(decoder(feature) - scaled(images[name])).square().flatten(2) for name, decoder in cameras]
        if self.decoder is not None:
            errors.append((self.decoder(feature) - (symlog(observation) if self.config.symlog else observation)).square())
        return torch.stack([error.sum(-1).mean() for error in errors]).sum()


def scalar(kind: ScalarKind) -> TwoHot | Gaussian:
    """How outputs of a network stand for a scalar."""
    return TwoHot() if kind == "twohot" else Gaussian()
