"""A median of very many values in little memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MOST = 1 << 13


class Median:
    """Exact up to 8,192 values; past that the median of every 2nd, 4th, … one. How they are divided into calls does not matter."""

    def __init__(self) -> None:
        self._kept = np.zeros(0, np.int64)
        self._seen = 0
        self._step = 1

    def add(self, values: NDArray[np.int64]) -> None:
        """Takes values [N] in."""
        self._kept = np.concatenate([self._kept, values[-self._seen % self._step :: self._step]])
        self._seen += len(values)
        while len(self._kept) > _MOST:
            self._kept = self._kept[::2]
            self._step *= 2

    @property
    def value(self) -> int | None:
        """The median, rounded towards zero; None without any value."""
        return int(np.median(self._kept)) if len(self._kept) else None
