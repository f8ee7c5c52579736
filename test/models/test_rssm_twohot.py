"""Symlog and two-hot are exact where they say so."""

from __future__ import annotations

import pytest
import torch

from wm_ros.models.rssm_twohot import BINS, Gaussian, TwoHot, spaced_bins, symexp, symlog

VALUES = torch.tensor([-3e6, -812.5, -1.0, -0.3, -1e-4, 0.0, 1e-4, 0.5, 1.0, 2.75, 1234.5, 4e7])


def dense(target: torch.Tensor) -> torch.Tensor:
    """Two-hot weights `[BINS]` of one target, by the definition."""
    bins = spaced_bins().double()
    weights = torch.zeros(BINS, dtype=torch.float64)
    above = int((bins <= target).sum())
    share = (target - bins[above - 1]) / (bins[above] - bins[above - 1])
    weights[above - 1], weights[above] = 1 - share, share
    return weights


def test_symexp_undoes_symlog() -> None:
    torch.testing.assert_close(symexp(symlog(VALUES)), VALUES, rtol=2e-5, atol=0)
    torch.testing.assert_close(symlog(torch.tensor(-(torch.e - 1.0))), torch.tensor(-1.0))


def test_the_bins_are_symmetric_and_one_is_zero() -> None:
    bins = spaced_bins()
    assert torch.equal(bins, -bins.flip(0)) and bins[BINS // 2] == 0 and (bins.diff() > 0).all()
    torch.testing.assert_close(bins[-1].double(), torch.expm1(torch.tensor(20.0, dtype=torch.float64)), rtol=1e-6, atol=0)


def test_even_weights_mean_exactly_zero() -> None:
    assert torch.equal(TwoHot().mean(torch.zeros(3, BINS)), torch.zeros(3))


def test_a_value_written_as_two_hot_is_read_back() -> None:
    read = [TwoHot().mean(dense(value).log().float()) for value in VALUES]
    torch.testing.assert_close(torch.stack(read), VALUES, rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_cross_entropy_with_the_two_hot_weights() -> None:
    logits = torch.randn((len(VALUES), BINS), generator=torch.Generator().manual_seed(0))
    expected = torch.stack([-(dense(v) * torch.log_softmax(row.double(), -1)).sum() for v, row in zip(VALUES, logits, strict=True)])
    torch.testing.assert_close(TwoHot().loss(logits, VALUES).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [TwoHot(), Gaussian()])
def test_the_loss_of_several_targets_is_the_sum_of_theirs(kind: TwoHot | Gaussian) -> None:
    output = torch.randn((len(VALUES), kind.outputs), generator=torch.Generator().manual_seed(0))
    apart = kind.loss(output, VALUES) + kind.loss(output, VALUES.flip(0))
    torch.testing.assert_close(kind.loss(output, VALUES, VALUES.flip(0)), apart)


def test_values_past_the_last_bin_count_as_the_last_bin() -> None:
    low, weight = TwoHot().neighbours(torch.tensor([-1e12, 1e12]))
    assert low.tolist() == [0, BINS - 2] and weight.tolist() == [0.0, 1.0]


def test_the_steady_mean_of_a_two_hot_value_is_within_half_a_percent_of_it() -> None:
    values = torch.cat([VALUES[VALUES.abs() > 0.1], torch.linspace(-500.0, 500.0, 300)])
    read = torch.stack([TwoHot().steady_mean(dense(value).log().float()) for value in values])
    torch.testing.assert_close(read, values, rtol=5e-3, atol=5e-3)


def test_the_steady_mean_of_wide_weights_does_not_hang_on_last_bits() -> None:
    logits = torch.randn((50, BINS), generator=torch.Generator().manual_seed(1))
    head = TwoHot()
    nearly = logits + 1e-6 * torch.randn((50, BINS), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(head.steady_mean(nearly), head.steady_mean(logits), rtol=1e-4, atol=1e-4)
    assert (head.mean(nearly) - head.mean(logits)).abs().median() > 0.1
