"""A supervised system and what its monitor says: one stream of events, which ends with the reason when something goes wrong."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from wm_ros.bringup.supervisor import Supervisor
from wm_ros.bringup.system import NodeProcess, Process

POLL_S = 0.1
Event = dict[str, Any]


class SystemFailure(Exception):
    """The running system cannot go on; the message names the process, its log file or what was awaited."""


class MonitoredSystem:
    """Starts processes and a monitor beside them; leaving it as a context manager ends them all.

    Args:
        processes: what runs, as described by `system.describe`.
        log_directory: one log file per process goes there.
        environment: what the processes see besides the present environment.
        patience_s: without any event but diagnostics for so long the system counts as stuck.
    """

    def __init__(
        self, processes: Sequence[Process], log_directory: Path, environment: Mapping[str, str] | None = None, *, patience_s: float = 120.0
    ) -> None:
        self._processes, self._patience_s = tuple(_heard_by_monitor(p) for p in processes), patience_s
        self.supervisor = Supervisor(log_directory, environment)
        self._pipe = -1

    def __enter__(self) -> MonitoredSystem:
        self.supervisor.__enter__()
        try:
            # First, so that it hears everything from the beginning.
            self._pipe = self.supervisor.start_piped(monitor_of(self._processes)).fileno()
            self.supervisor.start(self._processes)
        except BaseException:
            self.supervisor.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.supervisor.stop()

    def events(self, awaited: Callable[[], str]) -> Iterator[Event]:
        """Events as they come; a process that died and is started again is one, `{"event": "respawn", "data": {"text": ...}}`.

        Args:
            awaited: says what comes next, for the message when nothing does.

        Raises:
            SystemFailure: a process has died, or nothing has happened for too long.
        """
        rest, moved = b"", time.monotonic()
        while True:
            ready, _, _ = select.select([self._pipe], [], [], POLL_S)
            if ready:
                *lines, rest = (rest + os.read(self._pipe, 1 << 16)).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["event"] not in ("diagnostics", "ready"):
                        moved = time.monotonic()
                    yield event
            for death in self.supervisor.poll():
                if not death.respawned:
                    raise SystemFailure(death.describe())
                yield {"event": "respawn", "time": 0.0, "data": {"text": f"{death.describe(0)}; it is started again"}}
            if time.monotonic() - moved > self._patience_s:
                where = self.supervisor.log_directory
                raise SystemFailure(f"nothing has happened for {self._patience_s:.0f} s while waiting for {awaited()}; logs are in {where}")


def _heard_by_monitor(process: Process) -> Process:
    """The episode manager begins only once the monitor hears it: a missed episode would be waited for in vain."""
    if not isinstance(process, NodeProcess) or process.name != "episode_manager":
        return process
    others = process.parameters.get("awaits")
    return replace(process, parameters={**process.parameters, "awaits": f"{others},monitor" if others else "monitor"})


def monitor_of(processes: Sequence[Process]) -> NodeProcess:
    """A monitor in the namespace of the system's nodes, with their contract and mode."""
    sibling = next(p for p in processes if isinstance(p, NodeProcess))
    kept = ("contract", "mode", "use_sim_time", "seed")
    parameters = {**{key: sibling.parameters[key] for key in kept if key in sibling.parameters}, "use_sim_time": False}
    return NodeProcess("monitor", parameters, namespace=sibling.namespace, nice=5, environment=sibling.environment)
