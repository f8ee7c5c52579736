"""Frames of one camera in blocks of equal size, which never move: the first in memory, later ones in files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.data.episode import FRAMES_AT_ONCE, ImageColumn

BLOCK_BYTES = 64 << 20
"""Of one block, about."""

NewBlock = Callable[[tuple[int, ...]], NDArray[np.uint8]]
"""Makes the block of a shape [rows, H, W, C], wherever there is room for it."""


class ImageRows:
    """Grows by blocks, so that nothing is copied on the way: frames are most of what a replay buffer holds."""

    def __init__(self, shape: tuple[int, int, int], new_block: NewBlock, block_bytes: int = BLOCK_BYTES) -> None:
        """Args: shape [H, W, C] of a frame, what makes a block, and how large one may be (at least one frame)."""
        self.shape = shape
        self._new_block = new_block
        self._rows = max(1, block_bytes // int(np.prod(shape)))
        self._blocks: list[NDArray[np.uint8]] = []

    def put(self, row: int, frames: ImageColumn) -> None:
        """Writes frames [n, H, W, C] into the rows from `row` on; those of a bag are decoded a few at a time.

        Raises:
            UserError: there is no room, or a frame of a bag is damaged.
        """
        for begin in range(0, len(frames), FRAMES_AT_ONCE):
            some = frames[begin : begin + FRAMES_AT_ONCE]
            while len(some):
                block, place = divmod(row, self._rows)
                while block >= len(self._blocks):
                    self._blocks.append(self._new_block((self._rows, *self.shape)))
                fits = some[: self._rows - place]
                self._blocks[block][place : place + len(fits)] = fits
                some, row = some[len(fits) :], row + len(fits)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Rows [...] → frames [..., H, W, C]."""
        flat = rows.ravel()
        frames = np.empty((len(flat), *self.shape), np.uint8)
        block, place = np.divmod(flat, self._rows)
        for number in np.unique(block):
            here = block == number
            frames[here] = self._blocks[number][place[here]]
        return frames.reshape(*rows.shape, *self.shape)

    @property
    def blocks(self) -> list[Any]:
        """What it is made of; a block in a file is a numpy.memmap."""
        return list(self._blocks)
