"""The laws of compounding errors are found where they hold exactly."""

from __future__ import annotations

import numpy as np
import pytest

from wm_ros.training.error_growth import fit_growth


@pytest.mark.parametrize("rate", [0.6, 0.97, 1.05, 1.4, 2.5])
def test_an_exponential_law_is_found_with_its_parameters(rate: float) -> None:
    h = np.arange(1, 21)
    error = 0.03 * (rate**h - 1) / (rate - 1)
    growth = fit_growth(error)
    assert growth.better == "exponential"
    assert growth.rate == pytest.approx(rate, rel=1e-4) and growth.eps == pytest.approx(0.03, rel=1e-3) and growth.misfit < 1e-4
    np.testing.assert_allclose(growth.exponential(20), error, rtol=1e-3)


def test_a_linear_law_is_found_and_named_the_better_one() -> None:
    growth = fit_growth(0.2 * np.arange(1, 16))
    assert growth.better == "linear" and growth.linear_eps == pytest.approx(0.2) and growth.linear_misfit < 1e-9
    assert growth.rate == pytest.approx(1.0, abs=1e-3), "the other law holds as well, with one parameter too many"
    np.testing.assert_allclose(growth.linear(3), [0.2, 0.4, 0.6])


def test_noise_alone_does_not_make_a_linear_law_exponential() -> None:
    rng = np.random.default_rng(0)
    named = [fit_growth(0.1 * np.arange(1, 25) * (1 + 0.05 * rng.standard_normal(24))).better for _ in range(40)]
    assert named.count("linear") >= 30


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_cannot_tell_and_are_called_linear(steps: int) -> None:
    growth = fit_growth(2.0 ** np.arange(steps))
    assert growth.better == "linear" and np.isfinite([growth.eps, growth.rate, growth.misfit]).all()


def test_no_error_and_long_horizons_are_no_trouble() -> None:
    assert fit_growth(np.zeros(10)).linear_eps == 0.0
    long = fit_growth(1.0 - 0.9 ** np.arange(1, 2001))
    assert long.rate == pytest.approx(0.9, rel=1e-3)


@pytest.mark.parametrize("wrong", [[], [1.0, np.nan], [np.inf]])
def test_what_is_no_error_is_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one step, all finite"):
        fit_growth(np.array(wrong))
