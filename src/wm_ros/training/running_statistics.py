"""Mean and deviation of columns, over all rows so far."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CONSTANT = 1e-6
"""A column with a smaller deviation than this is taken to be constant."""


class RunningStatistics:
    """Chan, Golub and LeVeque's pairwise update (1979), in float64."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean = np.zeros(size)
        self._squares = np.zeros(size)

    def add(self, rows: NDArray[np.float32]) -> None:
        """Takes rows `[N, C]` in."""
        count = len(rows)
        mean = rows.mean(0, dtype=np.float64)
        total = self.count + count
        away = mean - self.mean
        self._squares += ((rows - mean) ** 2).sum(0) + away**2 * (self.count * count / total)
        self.mean += away * (count / total)
        self.count = total

    @property
    def rate(self) -> NDArray[np.float64]:
        """One over the deviation `[C]`; 1 for a constant column."""
        deviation = np.sqrt(self._squares / max(1, self.count))
        return 1.0 / np.where(deviation < _CONSTANT, 1.0, deviation)

    def state(self) -> dict[str, NDArray[np.float64]]:
        """All that it holds."""
        return {"count": np.array([float(self.count)]), "mean": self.mean, "squares": self._squares}

    def restore(self, state: dict[str, NDArray[np.float64]]) -> None:
        """Takes over what `state` gave."""
        self.count, self.mean, self._squares = int(state["count"][0]), state["mean"].copy(), state["squares"].copy()
