"""Fast products: the same numbers, and the setting of torch as it was afterwards."""

from __future__ import annotations

import pytest
import torch

from wm_ros.models.products import fast_products, products_of

BACKEND = getattr(torch.backends.mkldnn, "matmul", None)


@pytest.mark.skipif(BACKEND is None, reason="torch before 2.9 has one way alone")
def test_the_setting_holds_within_and_is_taken_back_even_by_an_error() -> None:
    before = BACKEND.fp32_precision
    with pytest.raises(KeyError), fast_products():
        assert BACKEND.fp32_precision == "bf16"
        with products_of(8):
            assert BACKEND.fp32_precision == "ieee"
        with products_of(1024):
            assert BACKEND.fp32_precision == "bf16"
        raise KeyError
    with fast_products(False):
        assert BACKEND.fp32_precision == before
    assert BACKEND.fp32_precision == before


def test_products_differ_by_no_more_than_the_rounding_of_their_factors() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(shape, generator=generator) for shape in ((128, 64), (64, 96)))
    with fast_products():
        found = left @ right
    torch.testing.assert_close(found, left @ right, atol=0.2, rtol=0.0)  # 64 products of factors with 8 bits
