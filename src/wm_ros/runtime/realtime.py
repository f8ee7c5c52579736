"""Real-time scheduling and locked memory for a process on the control path, as far as the system permits."""

from __future__ import annotations

import ctypes
import os
import resource
from dataclasses import dataclass
from pathlib import Path

_MCL_CURRENT, _MCL_FUTURE = 1, 2
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_CAP_IPC_LOCK = 14


@dataclass(frozen=True)
class RealTime:
    """What a process asks of the kernel."""

    priority: int = 0
    """SCHED_FIFO priority, 1 to 98; 0: the ordinary scheduler. 99 is left to the kernel's own threads."""
    lock_memory: bool = False
    """No page is swapped out or first touched inside the loop. Takes the memory that libraries have mapped but do not use, too."""

    def __post_init__(self) -> None:
        if not 0 <= self.priority <= 98:
            raise ValueError(f"priority {self.priority} must be within [0, 98]")

    @property
    def wanted(self) -> bool:
        return bool(self.priority or self.lock_memory)


def enter(settings: RealTime) -> list[str]:
    """Applies the settings to this process; threads that start from now on inherit them.

    Returns:
        what was not permitted, each in one line with the remedy; empty where everything was done.
    """
    refusals = []
    if settings.priority:
        try:
            _schedule_all(settings.priority)
        except PermissionError:
            refusals.append(
                f"realtime_priority {settings.priority} is not permitted: raise rtprio for this user in /etc/security/limits.conf, "
                "or give the process CAP_SYS_NICE"
            )
    if settings.lock_memory:
        refusal = _lock()
        if refusal:
            refusals.append(f"lock_memory is not permitted: {refusal}")
    return refusals


def leave() -> None:
    """Takes the calling thread, and those that it starts, back to the ordinary scheduler: for what may wait."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def scheduling(thread: int = 0) -> str:
    """How a thread of this machine is scheduled, in words; 0 is the calling one."""
    policy = os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK
    names = {os.SCHED_FIFO: "SCHED_FIFO", os.SCHED_RR: "SCHED_RR", os.SCHED_OTHER: "SCHED_OTHER"}
    return f"{names.get(policy, policy)} {os.sched_getparam(thread).sched_priority}"


def locked_bytes() -> int:
    """How much of this process is locked in memory."""
    line = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith("VmLck:"))
    return int(line.split()[1]) * 1024


def _schedule_all(priority: int) -> None:
    # The middleware's threads too: they carry every message.
    for thread in os.listdir("/proc/self/task"):
        try:
            os.sched_setscheduler(int(thread), os.SCHED_FIFO, os.sched_param(priority))
        except ProcessLookupError:
            continue  # ended meanwhile


def _lock() -> str:
    """Locks present and future memory; gives why not, or nothing."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit != resource.RLIM_INFINITY and not _may_lock_any():
        # The call itself might succeed, and a later allocation then fail in the middle of a drive.
        return f"{limit} bytes may be locked: set memlock to unlimited in /etc/security/limits.conf, or give the process CAP_IPC_LOCK"
    libc = ctypes.CDLL(None, use_errno=True)
    # What malloc has got it keeps: memory that is given back must be faulted in again.
    libc.mallopt(_M_TRIM_THRESHOLD, -1)
    libc.mallopt(_M_MMAP_MAX, 0)
    return os.strerror(ctypes.get_errno()) if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) else ""


def _may_lock_any() -> bool:
    line = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1)
