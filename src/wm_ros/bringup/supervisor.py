"""The described system as supervised processes: own groups, own log files, an orderly end whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import yaml

from wm_ros.bringup import exposure, watcher
from wm_ros.bringup.interrupt import held_back
from wm_ros.bringup.system import NodeProcess, Process, Program
from wm_ros.contract.errors import UserError

INTERRUPT_S = 10.0
"""How long a process may take to end after SIGINT: a logger closes its bag, a trainer leaves its epoch."""
TERMINATE_S = 2.0
"""And after SIGTERM, before it is killed."""
RESPAWN_DELAY_S = 2.0
"""Between a death and a new start, so that a process that dies at once does not spin."""
USER_FAULT = 2
"""Status with which a node ends that cannot come up as it was told to: starting it again would change nothing."""


@dataclass(frozen=True)
class Death:
    """A process that ended without being asked to."""

    name: str
    status: int
    """Exit status; negative: minus the signal that killed it."""
    log: Path
    respawned: bool

    def describe(self, lines: int = 8) -> str:
        """What happened, the file that tells more, and its last lines."""
        how = f"was killed by {signal.Signals(-self.status).name}" if self.status < 0 else f"ended with status {self.status}"
        text = f"{self.name} {how}; its output is in {self.log}"
        last = tail(self.log, lines)
        return f"{text}\n{last}" if last else text


@dataclass
class _Running:
    description: Process
    popen: subprocess.Popen[bytes]
    log: Path
    first: bool = True
    """It has not been started again yet."""
    restart_at: float | None = None


class Supervisor:
    """Owns the processes of a running system.

    Use it as a context manager: leaving it ends every process, also after an exception. Should this process itself be killed, `watcher`
    ends them.
    """

    def __init__(self, log_directory: Path, environment: Mapping[str, str] | None = None) -> None:
        """
        Args:
            log_directory: gets `<name>.log` and `<name>.params.yaml` for every process; made if missing.
            environment: what the processes see besides the present environment, and besides `exposure.defaults`.
        """
        self.log_directory = log_directory
        given = {**os.environ, **(environment or {})}
        self._environment = {"PYTHONUNBUFFERED": "1", **given, "ROS_LOG_DIR": str(log_directory / "ros"), **exposure.defaults(given)}
        self._running: dict[str, _Running] = {}
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Supervisor:
        self.log_directory.mkdir(parents=True, exist_ok=True)
        # Isolated and without site: the wheels' start-up hook would run Python twice.
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", watcher.__file__], stdin=subprocess.PIPE, start_new_session=True, stdout=subprocess.DEVNULL
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def names(self) -> list[str]:
        """Processes that are supposed to run."""
        return list(self._running)

    def pid(self, name: str) -> int:
        """Process number, which is also that of its group."""
        return self._running[name].popen.pid

    def log(self, name: str) -> Path:
        """Where a process's output goes."""
        return self.log_directory / f"{name}.log"

    def start(self, processes: Iterable[Process]) -> None:
        """Starts processes, in order.

        Raises:
            UserError: a program is not installed.
        """
        for process in processes:
            with self.log(process.name).open("ab") as log:
                self._launch(process, log)

    def start_piped(self, process: NodeProcess) -> IO[bytes]:
        """Starts a node whose standard output the caller reads; its errors go to the log file."""
        with self.log(process.name).open("ab") as log:
            popen = self._launch(process, log, stdout=subprocess.PIPE)
        assert popen.stdout is not None
        return popen.stdout

    def poll(self) -> list[Death]:
        """Deaths since the last call; what is described so is started again, after a pause."""
        deaths: list[Death] = []
        for name, running in list(self._running.items()):
            if running.restart_at is not None:
                if time.monotonic() >= running.restart_at:
                    self.start([running.description])
                    self._running[name].first = False
                continue
            status = running.popen.poll()
            if status is None:
                continue
            self._tell(f"-{running.popen.pid}")
            respawn = isinstance(running.description, NodeProcess) and running.description.respawn
            if running.first and status == USER_FAULT:
                respawn = False  # a faulty setting, not a mishap; later on nothing that ran well may be ended for it
            if respawn:
                running.restart_at = time.monotonic() + RESPAWN_DELAY_S
            else:
                del self._running[name]
            deaths.append(Death(name, status, running.log, respawn))
        return deaths

    def stop(self) -> list[str]:
        """Ends everything: interrupt, then terminate, then kill. A second Ctrl-C in the meantime kills at once.

        Returns:
            Names of the processes that had to be killed.
        """
        left = {name: running.popen for name, running in self._running.items() if running.restart_at is None}
        killed: list[str] = []
        try:
            for number, patience in ((signal.SIGINT, INTERRUPT_S), (signal.SIGTERM, TERMINATE_S)):
                left = _end(left, number, patience)
        finally:
            # Also what a process left behind in its group.
            for name, popen in [(n, r.popen) for n, r in self._running.items() if r.restart_at is None]:
                if popen.poll() is None:
                    killed.append(name)
                _signal(popen, signal.SIGKILL)
                popen.wait()
            self._running.clear()
            if self._watcher is not None and self._watcher.stdin is not None:
                for popen in left.values():
                    self._tell(f"-{popen.pid}")
                self._watcher.kill()
                self._watcher.wait()
                self._watcher.stdin.close()
                self._watcher = None
        return killed

    def _launch(self, process: Process, log: IO[bytes], stdout: Any = None) -> subprocess.Popen[bytes]:
        environment, command = self._environment, list(process.command) if isinstance(process, Program) else []
        if isinstance(process, NodeProcess):
            environment = {**environment, **process.environment}
            command = node_command(process, self.log_directory)
        with held_back():  # an interrupt must not fall between a process and its entry in the books
            try:
                popen = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log if stdout is None else stdout,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise UserError(f"{process.name}: {command[0]} is not installed: install it, or start without it") from None
            self._running[process.name] = _Running(process, popen, self.log(process.name))
            self._tell(f"+{popen.pid}")
        return popen

    def _tell(self, line: str) -> None:
        if self._watcher is None or self._watcher.stdin is None:
            raise RuntimeError("Supervisor: use it in a with statement: processes must not start unwatched")
        self._watcher.stdin.write(f"{line}\n".encode())
        self._watcher.stdin.flush()


def node_command(node: NodeProcess, directory: Path) -> list[str]:
    """The command line of a node; its parameters are written to `<directory>/<name>.params.yaml`, for the reader of a run."""
    own = directory / f"{node.name}.params.yaml"
    own.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(node.parameters)}}, sort_keys=False), encoding="utf-8")
    command = [*(("nice", "-n", str(node.nice)) if node.nice else ()), sys.executable, "-m", f"wm_ros.nodes.{node.name}", "--ros-args"]
    command += ["-r", f"__node:={node.name}", "--enclave", node.enclave]
    if node.namespace:
        command += ["-r", f"__ns:=/{node.namespace}"]
    for source, target in node.remappings:
        command += ["-r", f"{source}:={target}"]
    for file in (*node.params_files, str(own)):
        command += ["--params-file", file]
    return [*command, "--log-level", node.log_level]


def tail(path: Path, lines: int) -> str:
    """The last lines of a file; empty where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 200 * lines))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


def _signal(popen: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(popen.pid, number)
    except ProcessLookupError:
        return


def _end(left: dict[str, subprocess.Popen[bytes]], number: int, patience: float) -> dict[str, subprocess.Popen[bytes]]:
    """Signals what still runs and waits; gives back what has not ended."""
    for popen in left.values():
        if popen.poll() is None:
            _signal(popen, number)
    end = time.monotonic() + patience
    while (left := {n: p for n, p in left.items() if p.poll() is None}) and time.monotonic() < end:
        time.sleep(0.02)
    return left
