"""The demo as a user sees it end early: interrupted, or with a node that dies."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from processes import PATIENCE_S, alive

pytestmark = pytest.mark.usefixtures("domain")
Family = Callable[[int], list[psutil.Process]]


@pytest.fixture
def demo(tmp_path: Path, short_task: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo whose first episode runs, in a folder in which an older run was."""
    run = tmp_path / "demo"
    run.mkdir()
    (run / "older").touch()
    command = [
        sys.executable,
        "-m",
        "wm_ros.cli",
        "demo",
        "--plain",
        "--contract",
        str(short_task),
        "--run-dir",
        str(run),
        "--episodes",
        "9",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "episode 0000" in line and "running" in line:
                break
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)


def test_ctrl_c_ends_the_demo_with_one_line_that_says_where_everything_is(
    demo: subprocess.Popen[str], tmp_path: Path, family: Family
) -> None:
    processes = family(demo.pid)
    assert len(processes) >= 7
    demo.send_signal(signal.SIGINT)
    _, errors = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 130
    (line,) = errors.splitlines()
    assert line.startswith("interrupted: everything has stopped") and "demo" in line
    assert alive(processes) == []
    # The older run was moved aside, not deleted.
    assert [p.parent.name[:5] for p in tmp_path.glob("demo-*/older")] == ["demo-"]


def test_a_node_that_dies_ends_the_demo_with_its_name_and_its_log(demo: subprocess.Popen[str], tmp_path: Path, family: Family) -> None:
    processes = family(demo.pid)
    (logger,) = [p for p in alive(processes) if "wm_ros.nodes.logger" in p.cmdline()]
    logger.kill()
    _, errors = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 1
    assert errors.startswith("failed: logger was killed by SIGKILL") and str(tmp_path / "demo" / "logs" / "learn" / "logger.log") in errors
    assert "Traceback" not in errors and alive(processes) == []
