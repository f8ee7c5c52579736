"""Open-loop error and calibration of models whose error is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from wm_ros.training.open_loop import OpenLoop, open_loop

NAMES = ("a", "b")
STRIDE, STEPS, PERIOD_S = 2, 8, 0.02
DEVIATION = torch.tensor([0.2, 0.05])


@dataclass
class Walk:
    """Each tick adds its action to both columns; each step of two ticks adds noise of a known size."""

    believed: float = 0.0
    """Noise that the model draws, in units of `DEVIATION`."""
    bias: float = 0.0
    stride: int = STRIDE
    members: int = 3
    prediction_noise: int = 2

    def predict(self, observation: Tensor, actions: Tensor, noise: Tensor) -> Tensor:
        return observation + actions.sum(dim=-2) + self.believed * DEVIATION * noise + self.bias


def episodes(noise: float, count: int = 4, ticks: int = 60) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        action = rng.standard_normal((ticks, 1))
        # The noise of one step of two ticks has the deviation above.
        change = action + noise * DEVIATION.numpy() / np.sqrt(STRIDE) * rng.standard_normal((ticks, 2))
        observation = np.concatenate([np.zeros((1, 2)), np.cumsum(change, axis=0)])
        found.append((observation.astype(np.float32), action.astype(np.float32)))
    return found


def measured(model: Walk, noise: float, count: int = 4) -> OpenLoop:
    result = open_loop(model, episodes(noise, count), STEPS, PERIOD_S, NAMES, seed=1)
    assert result is not None
    return result


def test_perfect_predictions_have_no_error() -> None:
    result = measured(Walk(), noise=0.0)
    assert np.array(result.rmse).shape == (STEPS, 2) and np.array(result.rmse).max() < 1e-5
    assert max(result.normalized_rmse) < 1e-5
    assert result.horizon_s == pytest.approx([0.04 * (h + 1) for h in range(STEPS)]) and result.columns == ["a", "b"]


def test_an_error_that_grows_steadily_is_measured_as_such() -> None:
    result = measured(Walk(bias=0.1), noise=0.0)
    expected = 0.1 * np.arange(1, STEPS + 1)
    np.testing.assert_allclose(np.array(result.rmse), np.stack([expected, expected], axis=1), rtol=1e-3)


def test_normalized_error_is_counted_in_deviations_of_the_recorded_columns() -> None:
    recorded = np.concatenate([o for o, _ in episodes(0.0)]).std(axis=0)
    result = measured(Walk(bias=0.1), noise=0.0)
    assert result.normalized_rmse[0] == pytest.approx(float(np.sqrt(np.mean((0.1 / recorded) ** 2))), rel=1e-3)


def test_nine_tenths_of_the_truth_lie_inside_a_calibrated_models_band() -> None:
    coverage = measured(Walk(believed=1.0), noise=1.0, count=20).coverage_90
    assert np.allclose(coverage, 0.9, atol=0.06)


def test_a_model_that_is_too_sure_is_found_out_and_one_that_is_not_sure_enough_too() -> None:
    assert max(measured(Walk(believed=0.3), noise=1.0).coverage_90) < 0.6
    assert min(measured(Walk(believed=4.0), noise=1.0).coverage_90) > 0.97


def test_episodes_shorter_than_the_horizon_are_left_out() -> None:
    short = [(o[: STEPS * STRIDE], a[: STEPS * STRIDE - 1]) for o, a in episodes(0.0)]
    assert open_loop(Walk(), short, STEPS, PERIOD_S, NAMES, seed=1) is None  # type: ignore[arg-type]
    exactly = [(o[: STEPS * STRIDE + 1], a[: STEPS * STRIDE]) for o, a in episodes(0.0)]
    assert open_loop(Walk(), exactly, STEPS, PERIOD_S, NAMES, seed=1) is not None  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_figures_and_no_module_is_changed() -> None:
    before = torch.random.get_rng_state()
    first, again = (measured(Walk(believed=1.0), noise=1.0).as_dict() for _ in range(2))
    assert first == again and torch.equal(before, torch.random.get_rng_state())
