"""What a camera shows, and beside it what a controller imagines that it will show: one picture for rviz2 or a browser."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FRAMES = 8
"""Imagined frames in one picture, at most: the first, the last, and others at equal distances."""
LEAST_HEIGHT = 128
"""Pixels; smaller pictures are enlarged by a whole factor, so that each of their pixels stays one."""
GAP = 4
"""White pixels between the camera and the future."""


def chosen(horizon: int, count: int = FRAMES) -> NDArray[np.int64]:
    """Which of the frames 0 to horizon - 1 are shown."""
    return np.unique(np.linspace(0, horizon - 1, min(count, horizon)).round().astype(np.int64))


def film(shown: NDArray[np.uint8], imagined: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Side by side: what the camera shows, and what it is imagined to show from then on.

    Args:
        shown: [h, w, C], C being 1 (grey) or 3 (RGB).
        imagined: [H, h, w, C].

    Returns:
        [h k, (N + 1) w k + gap, 3], enlarged by a whole factor k, N frames of the future.

    Raises:
        ValueError: the shapes do not fit.
    """
    if imagined.ndim != 4 or imagined.shape[1:] != shown.shape or not len(imagined) or shown.shape[-1] not in (1, 3):
        raise ValueError(f"frames {list(imagined.shape)} beside a picture {list(shown.shape)}, expected [H, h, w, C] and [h, w, C]")
    scale = -(-LEAST_HEIGHT // shown.shape[0])
    now, *future = (_enlarged(frame, scale) for frame in (shown, *imagined[chosen(len(imagined))]))
    gap = np.full((now.shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([now, gap, *future], axis=1)


def _enlarged(frame: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    rgb = np.broadcast_to(frame, (*frame.shape[:2], 3))
    return rgb.repeat(scale, axis=0).repeat(scale, axis=1)
