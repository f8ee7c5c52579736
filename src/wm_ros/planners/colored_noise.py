"""Noise with a power-law spectrum along the horizon, as a linear map of white noise (iCEM, Pinneri et al. 2020, section 3.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def coloring_matrix(horizon: int, exponent: float) -> NDArray[np.float32]:
    """The matrix C `[H, H]` such that `C @ white [H]` has power spectral density ∝ 1 / f^exponent and unit mean variance.

    Being linear in the white noise, it becomes one MatMul of an exported graph; the FFT is done here, once.

    Args:
        horizon: H, at least 1.
        exponent: 0 white, 1 pink, 2 Brownian.
    """
    if horizon < 1:
        raise ValueError(f"horizon {horizon} must be at least 1")
    frequencies = np.fft.rfftfreq(horizon)
    if horizon > 1:
        frequencies[0] = frequencies[1]
    else:
        frequencies[0] = 1.0
    spectrum = np.fft.rfft(np.eye(horizon), axis=0) * frequencies[:, None] ** (-exponent / 2.0)
    matrix = np.fft.irfft(spectrum, n=horizon, axis=0)
    return (matrix / np.sqrt((matrix**2).sum(axis=1).mean())).astype(np.float32)
