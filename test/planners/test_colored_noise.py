"""The spectrum of coloured noise, measured on many draws."""

from __future__ import annotations

import numpy as np
import pytest

from wm_ros.planners.colored_noise import coloring_matrix


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_power_falls_with_frequency_as_the_exponent_says(exponent: float) -> None:
    horizon = 128
    white = np.random.default_rng(0).standard_normal((horizon, 4000)).astype(np.float32)
    drawn = coloring_matrix(horizon, exponent) @ white
    power = (np.abs(np.fft.rfft(drawn, axis=0)) ** 2).mean(axis=1)[1:-1]  # without the mean and the one-sided last bin
    frequency = np.fft.rfftfreq(horizon)[1:-1]
    slope = np.polyfit(np.log(frequency), np.log(power), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.03)


@pytest.mark.parametrize("horizon", [1, 2, 7, 50])
@pytest.mark.parametrize("exponent", [0.0, 1.5, 3.0])
def test_the_variance_is_one_whatever_the_colour(horizon: int, exponent: float) -> None:
    white = np.random.default_rng(1).standard_normal((horizon, 20_000)).astype(np.float32)
    assert float((coloring_matrix(horizon, exponent) @ white).var(axis=1).mean()) == pytest.approx(1.0, abs=0.05)


def test_neighbouring_actions_of_red_noise_are_alike() -> None:
    drawn = coloring_matrix(50, 2.0) @ np.random.default_rng(2).standard_normal((50, 5000)).astype(np.float32)
    assert float((drawn[1:] * drawn[:-1]).mean()) > 0.9


def test_a_horizon_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="horizon 0"):
        coloring_matrix(0, 1.0)
