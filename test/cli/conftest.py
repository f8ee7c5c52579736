"""For all tests of the command line."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from wm_ros.bringup.interrupt import STOPPING


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """As they were: the command line takes them over."""
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
