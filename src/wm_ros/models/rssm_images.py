"""Pictures in the Dreamer family: convolutions or patches from a camera to an embedding, and from a state to the picture expected there."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from wm_ros.models.rssm_layers import Activation, Norm, Normed

ImageSize = tuple[int, int, int]
"""Height, width and colours."""
_SMALLEST = 4
"""Pixels that are left of the shorter side, as in the papers: 64 are halved four times."""
_KERNEL = 4
_FIRST_PATCH = 4


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


class PatchEncoder(nn.Module):
    """Patches that do not overlap, 4 x 4 pixels and then 2 x 2 places, each through one layer shared by all places.

    On a processor a few channels make convolutions wait for memory; these are plain matrix products. Channels at each size are those of the
    convolutions. That cutting pictures up like this does is known from vision transformers (Dosovitskiy et al. 2021, arXiv 2010.11929).
    """

    def __init__(self, size: ImageSize, depth: int, norm: Norm, activation: Activation) -> None:
        """Args: size, half the channels of the first layer, and what follows each."""
        super().__init__()
        self.patches = patches(size)
        channels = [size[2], *_channels(depth, self.patches)]
        inputs = [patch * patch * c for patch, c in zip(self.patches, channels, strict=False)]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(inputs, channels[1:], strict=True))
        self.after = nn.ModuleList(Normed(o, norm, activation) for o in channels[1:])
        self.outputs = channels[-1] * (size[0] // math.prod(self.patches)) * (size[1] // math.prod(self.patches))

    def forward(self, image: Tensor) -> Tensor:
        """Pictures `[..., H, W, C]` uint8 → embeddings `[..., outputs]`."""
        value = image.flatten(0, -4)
        for i, (patch, layer, after) in enumerate(zip(self.patches, self.layers, self.after, strict=True)):
            value = value.unflatten(2, (-1, patch)).unflatten(1, (-1, patch)).permute(0, 1, 3, 2, 4, 5).flatten(3)
            value = after(layer(value if i else scaled(value)))
        return value.flatten(1).unflatten(0, image.shape[:-3])


class PatchDecoder(nn.Module):
    """The encoder of patches backwards."""

    def __init__(self, features: int, size: ImageSize, depth: int, norm: Norm, activation: Activation) -> None:
        """Args: inputs, size, half the channels before the last layer, and what follows each but the last."""
        super().__init__()
        self.patches = patches(size)[::-1]
        whole = math.prod(self.patches)
        channels = [*reversed(_channels(depth, self.patches)), size[2]]
        self.smallest = (size[0] // whole, size[1] // whole, channels[0])
        self.first = nn.Linear(features, math.prod(self.smallest))
        outputs = [patch * patch * c for patch, c in zip(self.patches, channels[1:], strict=True)]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(channels, outputs, strict=False))
        self.after = nn.ModuleList(Normed(i, norm, activation) for i in channels[:-1])

    def forward(self, feature: Tensor) -> Tensor:
        """Features `[..., F]` → pictures `[..., H, W, C]`, as `scaled` gives them."""
        value = self.first(feature.flatten(0, -2)).unflatten(-1, self.smallest)
        for patch, layer, after in zip(self.patches, self.layers, self.after, strict=True):
            value = layer(after(value)).unflatten(-1, (patch, patch, -1)).permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        return value.unflatten(0, feature.shape[:-1])


def patches(size: ImageSize) -> list[int]:
    """Sides of the patches, first to last: together they leave as much as `halvings`.

    Raises:
        ValueError: it cannot be halved that often, or only once.
    """
    count = halvings(size)
    if count < 2:
        raise ValueError(f"world.image_layers: pictures of {size[0]} x {size[1]} are too small for patches: use convolutions")
    return [_FIRST_PATCH] + [2] * (count - 2)


def _channels(depth: int, sides: list[int]) -> list[int]:
    return [depth << i for i in range(1, len(sides) + 1)]


def scaled(image: Tensor) -> Tensor:
    """Pixels 0 to 255 → -0.5 to 0.5."""
    return image.to(torch.float32) / 255.0 - 0.5


def pixels(picture: Tensor) -> Tensor:
    """The inverse of `scaled`, as uint8."""
    return ((picture + 0.5) * 255.0).round().clamp(0.0, 255.0).to(torch.uint8)
