"""Pins a process's control thread to processors."""

from __future__ import annotations

import os

from wm_ros.contract.errors import UserError


def parse_cpus(text: str, where: str) -> set[int]:
    """Processors from text such as `0,2-3`; empty text gives none.

    Raises:
        UserError: not of this form, or not a processor that this process may use.
    """
    cpus: set[int] = set()
    for part in filter(None, (p.strip() for p in text.split(","))):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"{where}: {part!r} is no processor: write a list such as 0,2-3")
        cpus.update(range(int(first), int(last or first) + 1))
    allowed = os.sched_getaffinity(0)
    if cpus - allowed:
        raise UserError(f"{where}: processors {sorted(cpus - allowed)} are not among the usable ones {sorted(allowed)}")
    return cpus


def pin(cpus: set[int]) -> None:
    """Keeps the calling thread, and those that it starts from now on, on `cpus`; does nothing for an empty set."""
    if cpus:
        os.sched_setaffinity(0, cpus)
