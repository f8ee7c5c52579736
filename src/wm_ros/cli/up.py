"""wm-ros up: the running system without ros2 launch."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from wm_ros.bringup.domain import present_domain, reserve
from wm_ros.bringup.supervisor import Supervisor
from wm_ros.bringup.system import SystemOptions, describe
from wm_ros.cli import run_folder
from wm_ros.cli.failure import RunFailure

POLL_S = 0.1


@dataclass(frozen=True)
class Up:
    """Start the system and show its log, until Ctrl-C. Options as of `ros2 launch wm_ros sim.launch.py`.

    Without a simulator (--no-simulate) the topics come from a robot; --remap gives them the robot's names.
    """

    options: SystemOptions = field(default_factory=SystemOptions)

    def run(self) -> int:
        """Runs the system until it is interrupted or a node dies."""
        describe(self.options)  # refuses faulty options before anything is touched
        domain = present_domain()
        with reserve(domain, self.options.namespace):
            folder, moved = run_folder.fresh(Path(self.options.run_directory))
            processes = describe(replace(self.options, run_directory=str(folder)))
            if moved is not None:
                print(f"the run before this one is in {moved}")
            where = f", namespace {self.options.namespace}" if self.options.namespace else ""
            print(f"ROS_DOMAIN_ID {domain}{where}; bags and logs go to {os.path.relpath(folder)}; Ctrl-C stops")
            with Supervisor(folder / "logs") as supervisor:
                supervisor.start(processes)
                follower = LogFollower({process.name: supervisor.log(process.name) for process in processes})
                try:
                    self._follow(supervisor, follower)
                except KeyboardInterrupt:
                    supervisor.stop()
                    follower.show()
                    raise KeyboardInterrupt(f"everything has stopped; bags and logs are in {os.path.relpath(folder)}") from None
        return 0

    def _follow(self, supervisor: Supervisor, follower: LogFollower) -> None:
        while True:
            follower.show()
            for death in supervisor.poll():
                if not death.respawned:
                    follower.show()
                    raise RunFailure(death.describe(0))
                print(f"{death.describe(0)}; it is started again")
            time.sleep(POLL_S)


class LogFollower:
    """Shows what is added to log files, each line after the name of its process."""

    def __init__(self, logs: dict[str, Path]) -> None:
        self._logs = logs
        self._width = max(len(name) for name in logs)
        self._read = dict.fromkeys(logs, 0)

    def show(self) -> None:
        """Prints the whole lines that have come since the last call."""
        for name, path in self._logs.items():
            with path.open("rb") as file:
                file.seek(self._read[name])
                lines, newline, _ = file.read().rpartition(b"\n")
            self._read[name] += len(lines) + len(newline)
            for line in lines.decode(errors="replace").splitlines():
                sys.stdout.write(f"{name:>{self._width}} | {line}\n")
        sys.stdout.flush()
