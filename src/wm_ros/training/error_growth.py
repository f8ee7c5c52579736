"""How a model's error compounds over the horizon, beside the two laws that theory knows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_LARGEST_LOG_L = math.log(5.0)
_ROUNDS = 6
_GRID = 201


@dataclass(frozen=True)
class Growth:
    """Both laws, fitted by least squares to an error e(1) ... e(H).

    If every step adds an error of at most eps, and a step stretches differences by at most L, then after h steps the error is at most
    eps (1 + L + ... + L^(h-1)) = eps (L^h - 1) / (L - 1); with L = 1, eps h (Asadi et al. 2018, "Lipschitz Continuity in Model-based
    Reinforcement Learning").
    """

    linear_eps: float
    """Of eps h; units of the error per model step."""
    linear_misfit: float
    """Root mean square of what is left, beside that of the error itself; 0 fits perfectly."""
    eps: float
    """Of eps (L^h - 1) / (L - 1)."""
    rate: float
    """L, per model step: above 1 errors feed on themselves, below 1 the system forgets them."""
    misfit: float
    """As `linear_misfit`."""
    better: Literal["linear", "exponential"]
    """By Akaike's criterion (corrected for few points), since the exponential law has a parameter more."""

    def linear(self, steps: int) -> NDArray[np.float64]:
        """The linear law `[H]`."""
        return self.linear_eps * np.arange(1, steps + 1, dtype=np.float64)

    def exponential(self, steps: int) -> NDArray[np.float64]:
        """The exponential law `[H]`."""
        return self.eps * _series(np.array([math.log(self.rate)]), steps)[0]


def fit_growth(error: NDArray[np.floating]) -> Growth:
    """Fits both laws to `error [H]`, not negative."""
    error = np.asarray(error, np.float64)
    steps = len(error)
    if steps < 1 or not np.isfinite(error).all():
        raise ValueError("the error must have at least one step, all finite")
    size = max(float(np.sqrt((error**2).mean())), 1e-30)
    linear_eps, linear_misfit = _scaled(_series(np.zeros(1), steps), error / size)
    # eps follows in closed form for each L; the best L is found on a grid that closes in.
    largest = min(_LARGEST_LOG_L, 200.0 / steps)  # L^H must be a number
    low, high = -_LARGEST_LOG_L, largest
    for _ in range(_ROUNDS):
        grid = np.linspace(low, high, _GRID)
        _, misfits = _scaled(_series(grid, steps), error / size)
        at = grid[int(np.argmin(misfits))]
        width = (high - low) / (_GRID - 1)
        low, high = max(at - 2 * width, -_LARGEST_LOG_L), min(at + 2 * width, largest)
    eps, misfit = _scaled(_series(np.array([at]), steps), error / size)
    exponential = _criterion(misfit[0], steps, 2) < _criterion(linear_misfit[0], steps, 1)
    return Growth(
        linear_eps=float(linear_eps[0] * size),
        linear_misfit=float(linear_misfit[0]),
        eps=float(eps[0] * size),
        rate=math.exp(at),
        misfit=float(misfit[0]),
        better="exponential" if exponential else "linear",
    )


def _series(log_rate: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """1 + L + ... + L^(h-1) for every L and h, `[K, H]`."""
    h = np.arange(1, steps + 1)
    safe = np.where(np.abs(log_rate) < 1e-9, 1e-9, log_rate)[:, None]
    return np.where(np.abs(log_rate)[:, None] < 1e-9, h.astype(np.float64), np.expm1(h * safe) / np.expm1(safe))


def _scaled(shapes: NDArray[np.float64], error: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Best factor of each shape `[K, H]`, and what it leaves: `[K]` each."""
    tallest = shapes.max(axis=1, keepdims=True)
    unit = shapes / tallest
    factor = (unit @ error) / (unit**2).sum(axis=1)
    left = np.sqrt(((error - factor[:, None] * unit) ** 2).mean(axis=1))
    return factor / tallest[:, 0], left


def _criterion(misfit: float, steps: int, parameters: int) -> float:
    """Akaike's criterion, corrected for few points; infinite where there are too few to say."""
    free = steps - parameters - 1
    if free < 1:
        return math.inf
    # Below a millionth both laws are right to rounding.
    return 2 * steps * math.log(max(misfit, 1e-6)) + 2 * parameters + 2 * parameters * (parameters + 1) / free
