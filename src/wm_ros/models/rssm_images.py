"""Pictures in the Dreamer family: convolutions from a camera to an embedding, and from a state to the picture that the model expects."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from wm_ros.models.rssm_layers import Activation, Norm, Normed

ImageSize = tuple[int, int, int]
"""Height, width and colours."""
_SMALLEST = 4
"""Pixels that are left of the shorter side, as in the papers: 64 are halved four times."""
_KERNEL = 4


def halvings(size: ImageSize) -> int:
    """How often a picture is halved.

    Raises:
        ValueError: it cannot be halved that often.
    """
    height, width, _ = size
    count = max(1, (min(height, width) // _SMALLEST).bit_length() - 1)
    if height % (1 << count) or width % (1 << count):
        raise ValueError(f"world.see: pictures of {height} x {width}: both must be multiples of {1 << count}: 64 x 64 is usual")
    return count


class _Normed(nn.Module):
    """Norm over the colours of each place, then activation."""

    def __init__(self, channels: int, norm: Norm, activation: Activation) -> None:
        super().__init__()
        self.normed = Normed(channels, norm, activation)

    def forward(self, picture: Tensor) -> Tensor:
        normed: Tensor = self.normed(picture.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


class ImageEncoder(nn.Module):
    """Convolutions of stride 2, each with twice the channels of the last (V1, appendix A; norms as in V3)."""

    def __init__(self, size: ImageSize, depth: int, norm: Norm, activation: Activation) -> None:
        """Args: size, channels of the first layer, and what follows each."""
        super().__init__()
        count = halvings(size)
        channels = [size[2], *(depth << i for i in range(count))]
        self.layers = nn.ModuleList(nn.Conv2d(i, o, _KERNEL, stride=2, padding=1) for i, o in itertools.pairwise(channels))
        self.after = nn.ModuleList(_Normed(o, norm, activation) for o in channels[1:])
        self.outputs = channels[-1] * (size[0] >> count) * (size[1] >> count)

    def forward(self, image: Tensor) -> Tensor:
        """Pictures `[..., H, W, C]` uint8 → embeddings `[..., outputs]`."""
        value = scaled(image).flatten(0, -4).permute(0, 3, 1, 2)
        for layer, after in zip(self.layers, self.after, strict=True):
            value = after(layer(value))
        return value.flatten(1).unflatten(0, image.shape[:-3])


class ImageDecoder(nn.Module):
    """The encoder backwards."""

    def __init__(self, features: int, size: ImageSize, depth: int, norm: Norm, activation: Activation) -> None:
        """Args: inputs, size, channels before the last layer, and what follows each but the last."""
        super().__init__()
        count = halvings(size)
        channels = [*(depth << i for i in reversed(range(count))), size[2]]
        self.smallest = (channels[0], size[0] >> count, size[1] >> count)
        self.first = nn.Linear(features, self.smallest[0] * self.smallest[1] * self.smallest[2])
        self.layers = nn.ModuleList(nn.ConvTranspose2d(i, o, _KERNEL, stride=2, padding=1) for i, o in itertools.pairwise(channels))
        self.after = nn.ModuleList(_Normed(i, norm, activation) for i in channels[:-1])

    def forward(self, feature: Tensor) -> Tensor:
        """Features `[..., F]` → pictures `[..., H, W, C]`, as `scaled` gives them."""
        value = self.first(feature.flatten(0, -2)).unflatten(-1, self.smallest)
        for layer, after in zip(self.layers, self.after, strict=True):
            value = layer(after(value))
        return value.permute(0, 2, 3, 1).unflatten(0, feature.shape[:-1])


def scaled(image: Tensor) -> Tensor:
    """Pixels 0 to 255 → -0.5 to 0.5."""
    return image.to(torch.float32) / 255.0 - 0.5


def pixels(picture: Tensor) -> Tensor:
    """The inverse of `scaled`, as uint8."""
    return ((picture + 0.5) * 255.0).round().clamp(0.0, 255.0).to(torch.uint8)
