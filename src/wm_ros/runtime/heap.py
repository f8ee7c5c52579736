"""What glibc's malloc does with the memory of this process. Nothing happens where the C library is another."""

from __future__ import annotations

import ctypes

_TRIM, _TOP_PAD, _MAP, _ARENAS = -1, -2, -3, -8
"""M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD and M_ARENA_MAX of its malloc.h."""
_KEPT, _AHEAD = 1 << 30, 64 << 20


def keep_freed_memory() -> None:
    """Lets this process keep up to 1 GiB that it has freed, instead of giving it back to the kernel after every update.

    Each page that comes back has to be cleared and mapped again: thousands for each update of Dreamer, a tenth of its time.
    """
    _set((_TRIM, _KEPT), (_MAP, _KEPT), (_TOP_PAD, _AHEAD))


def share_arenas() -> None:
    """Lets all threads share two arenas, for a process that starts threads all its life; to be called before the first.

    Of its own accord malloc makes eight arenas per processor, and each keeps the most that any of its threads has held: the threads that
    write a logger's bags, one after the other, leave some megabytes in each.
    """
    _set((_ARENAS, 2))


def _set(*options: tuple[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in options:
            mallopt(option, value)
