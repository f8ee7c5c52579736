"""Waiting for processes, and seeing which of them run."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

PATIENCE_S = 90.0


def eventually(holds: Callable[[], object], what: str) -> None:
    """Waits for something that must come; never sleeps longer than needed."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; the dead that nobody has collected do not count."""

    def runs(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [p for p in processes if runs(p)]
