"""Processes under supervision: started, watched, and ended whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from wm_ros.bringup.supervisor import Supervisor, node_command
from wm_ros.bringup.system import NodeProcess, Program
from wm_ros.contract.errors import UserError

PATIENCE_S = 30.0


def eventually(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)


def python(name: str, code: str) -> Program:
    return Program(name, (sys.executable, "-I", "-S", "-c", textwrap.dedent(code)))


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


SLEEPER = python("sleeper", "import time; print('up', flush=True); time.sleep(600)")
STUBBORN = python(
    "stubborn",
    """
    import signal, time
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print('up', flush=True)
    time.sleep(600)
    """,
)


def test_leaving_ends_every_process_also_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Supervisor(tmp_path) as supervisor:
        supervisor.start([SLEEPER])
        pid = supervisor.pid("sleeper")
        assert running(pid)
        raise ZeroDivisionError
    assert not running(pid)


def test_a_process_that_ignores_interrupts_is_killed_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wm_ros.bringup.supervisor.INTERRUPT_S", 0.2)
    monkeypatch.setattr("wm_ros.bringup.supervisor.TERMINATE_S", 0.2)
    with Supervisor(tmp_path) as supervisor:
        supervisor.start([STUBBORN, SLEEPER])
        pids = [supervisor.pid(name) for name in supervisor.names]
        eventually(lambda: all(supervisor.log(n).read_text() == "up\n" for n in supervisor.names), "both are up")
        assert supervisor.stop() == ["stubborn"]
    assert not any(running(pid) for pid in pids)


def test_grandchildren_end_with_their_process(tmp_path: Path) -> None:
    code = """
    import subprocess, sys, time
    child = subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(600)'])
    print(child.pid, flush=True)
    time.sleep(600)
    """
    with Supervisor(tmp_path) as supervisor:
        supervisor.start([python("parent", code)])
        eventually(lambda: supervisor.log("parent").read_text().endswith("\n"), "the grandchild's number is written")
        grandchild = int(supervisor.log("parent").read_text())
        assert running(grandchild)
    eventually(lambda: not running(grandchild), "the grandchild ends")


def test_a_death_is_told_with_the_log_and_its_last_lines(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.start([python("crasher", "import sys; print('the reason', file=sys.stderr); sys.exit(3)")])
        deaths: list = []
        eventually(lambda: deaths.extend(supervisor.poll()) or deaths, "the death is noticed")
        (death,) = deaths
        assert death.status == 3 and not death.respawned and supervisor.names == []
        text = death.describe()
        assert "crasher ended with status 3" in text and str(tmp_path / "crasher.log") in text and "the reason" in text


def test_a_killed_process_is_told_with_its_signal(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.start([SLEEPER])
        os.kill(supervisor.pid("sleeper"), signal.SIGKILL)
        deaths: list = []
        eventually(lambda: deaths.extend(supervisor.poll()) or deaths, "the death is noticed")
        assert "killed by SIGKILL" in deaths[0].describe()


def test_a_node_described_so_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wm_ros.bringup.supervisor.RESPAWN_DELAY_S", 0.0)
    monkeypatch.setattr("wm_ros.bringup.supervisor.node_command", lambda node, directory: list(SLEEPER.command))
    with Supervisor(tmp_path) as supervisor:
        supervisor.start([NodeProcess("visualizer", {}, respawn=True)])
        first = supervisor.pid("visualizer")
        os.kill(first, signal.SIGKILL)
        deaths: list = []
        eventually(lambda: deaths.extend(supervisor.poll()) or supervisor.pid("visualizer") != first, "it is started again")
        assert [d.respawned for d in deaths] == [True] and running(supervisor.pid("visualizer"))


def test_a_node_that_refuses_its_settings_is_not_started_over_and_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuses = [sys.executable, "-c", "raise SystemExit(2)"]
    monkeypatch.setattr("wm_ros.bringup.supervisor.node_command", lambda node, directory: refuses)
    with Supervisor(tmp_path) as supervisor:
        supervisor.start([NodeProcess("trainer", {}, respawn=True)])
        deaths: list = []
        eventually(lambda: deaths.extend(supervisor.poll()) or deaths, "the end is noticed")
        assert [(d.status, d.respawned) for d in deaths] == [(2, False)] and supervisor.names == []


def test_a_node_that_ran_well_once_is_started_again_whatever_its_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wm_ros.bringup.supervisor.RESPAWN_DELAY_S", 0.0)
    monkeypatch.setattr("wm_ros.bringup.supervisor.node_command", lambda node, directory: list(SLEEPER.command))
    with Supervisor(tmp_path) as supervisor:
        supervisor.start([NodeProcess("trainer", {}, respawn=True)])
        first = supervisor.pid("trainer")
        os.kill(first, signal.SIGKILL)
        refuses = [sys.executable, "-c", "raise SystemExit(2)"]
        monkeypatch.setattr("wm_ros.bringup.supervisor.node_command", lambda node, directory: refuses)
        deaths: list = []
        eventually(lambda: deaths.extend(supervisor.poll()) or len(deaths) >= 3, "it is started again and again")
        assert [(d.status, d.respawned) for d in deaths[:3]] == [(-9, True), (2, True), (2, True)]


def test_a_program_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor, pytest.raises(UserError, match="rviz2: no_such_program is not installed"):
        supervisor.start([Program("rviz2", ("no_such_program",))])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_a_supervisor_that_is_killed(tmp_path: Path, how: signal.Signals) -> None:
    code = f"""
    import time
    from pathlib import Path
    from wm_ros.bringup.supervisor import Supervisor
    from wm_ros.bringup.system import Program
    with Supervisor(Path({str(tmp_path)!r})) as supervisor:
        supervisor.start([Program('sleeper', {SLEEPER.command!r}), Program('stubborn', {STUBBORN.command!r})])
        print(supervisor.pid('sleeper'), supervisor.pid('stubborn'), flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(p) for p in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(running(pid) for pid in pids)
    parent.send_signal(how)
    parent.wait(PATIENCE_S)
    eventually(lambda: not any(running(pid) for pid in pids), "both end")


def test_the_parameters_of_a_node_are_left_for_the_reader_of_the_run(tmp_path: Path) -> None:
    node = NodeProcess("mpc", {"seed": 3, "contract": "007"}, ("/a.yaml",), (("x", "y"),), "cell", "debug", nice=5)
    command = node_command(node, tmp_path)
    assert command[:4] == ["nice", "-n", "5", sys.executable]
    text = " ".join(command)
    assert "-m wm_ros.nodes.mpc" in text and "__ns:=/cell" in text and "x:=y" in text and text.endswith("--log-level debug")
    # rcl lets the last file win.
    assert command.index("/a.yaml") < command.index(str(tmp_path / "mpc.params.yaml"))
    assert yaml.safe_load((tmp_path / "mpc.params.yaml").read_text()) == {"/**": {"ros__parameters": {"seed": 3, "contract": "007"}}}
