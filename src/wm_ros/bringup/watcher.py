"""Ends a system's processes when their supervisor dies without having done so: run as a script, by the supervisor only.

It reads process group numbers from its standard input, `+123` when one starts and `-123` when one has ended. The end of the input means
that the supervisor is gone, however it went, kill -9 included. What is left then gets an interrupt, so that bags are closed, and after
`GRACE_S` the end. Only the standard library, and none of the package: it must be light, and live when everything else is broken.
"""

import os
import signal
import sys
import time

GRACE_S = 5.0


def alive(group: int) -> bool:
    """Whether any process of the group runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def send(groups: set[int], number: int) -> None:
    """Signals what is left of the groups."""
    for group in groups:
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            continue


def main() -> None:
    """Follows the supervisor until it ends."""
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    send(groups, signal.SIGINT)
    end = time.monotonic() + GRACE_S
    while time.monotonic() < end and any(alive(g) for g in groups):
        time.sleep(0.05)
    send(groups, signal.SIGKILL)


if __name__ == "__main__":
    main()
