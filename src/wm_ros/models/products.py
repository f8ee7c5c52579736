"""How torch takes large matrix products of float32 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_FEW_ROWS = 64
"""Below this oneDNN's own beginning takes longer than the product."""


@contextmanager
def fast_products(on: bool = True) -> Iterator[None]:
    """Within, where `on`, products go through oneDNN, not through torch's default (MKL).

    oneDNN takes them twice as fast on an AMD processor with AVX-512 (measured: 227 against 101 GFLOP/s on one thread at 1024 x 512 x 512),
    just as exactly. torch gives it float32 products only together with the leave to round factors to bfloat16, of which it makes use on
    processors that multiply bfloat16 in tiles (AMX).
    """
    with _products("bf16" if on else None):
        yield


@contextmanager
def products_of(rows: int) -> Iterator[None]:
    """Within, products have so many rows: few of them go through torch's default, also within `fast_products`."""
    with _products("ieee" if rows < _FEW_ROWS else None):
        yield


@contextmanager
def _products(precision: str | None) -> Iterator[None]:
    backend = getattr(getattr(torch.backends, "mkldnn", None), "matmul", None)
    if backend is None or precision is None:  # None: torch before 2.9
        yield
        return
    before = backend.fp32_precision
    backend.fp32_precision = precision
    try:
        yield
    finally:
        backend.fp32_precision = before
