"""Ctrl-C, SIGTERM and a closed terminal: one way out, and moments in which it must wait."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _raise(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def interrupt_on_signals() -> None:
    """From here on SIGTERM and SIGHUP end the program as Ctrl-C does, also where a shell started it with SIGINT ignored."""
    for number in STOPPING:
        signal.signal(number, _raise)


@contextmanager
def held_back() -> Iterator[None]:
    """Signals that come in this block take effect after it, so that nothing is left half done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, frame: came.append(n)) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            os.kill(os.getpid(), came[0])
