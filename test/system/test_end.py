"""How a running system ends: by Ctrl-C, by the death of a node, by the death of its supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from processes import PATIENCE_S, alive, eventually

from wm_ros.contract import schema
from wm_ros.data.align import read_episodes

pytestmark = pytest.mark.usefixtures("domain")
Family = Callable[[int], list[psutil.Process]]


def command(folder: Path, task: Path, controller: Path, *more: str) -> list[str]:
    options = ["--contract", str(task), "--controller", str(controller), "--mode", "lockstep", "--evaluate", "100000"]
    return [sys.executable, "-m", "wm_ros.cli", "up", *options, "--run-directory", str(folder), *more]


@pytest.fixture
def up(tmp_path: Path, short_task: Path, controller: Path) -> Iterator[subprocess.Popen[str]]:
    """`wm-ros up` with episodes without end, when the first is on disk."""
    process = subprocess.Popen(
        command(tmp_path / "run", short_task, controller), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        eventually(lambda: process.poll() is not None or list(tmp_path.glob("run/bags/*/metadata.yaml")), "the first bag is closed")
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)


def node(up: subprocess.Popen[str], name: str, family: Family) -> psutil.Process:
    (found,) = nodes(up, name, family)
    return found


def nodes(up: subprocess.Popen[str], name: str, family: Family) -> list[psutil.Process]:
    return [p for p in alive(family(up.pid)) if f"wm_ros.nodes.{name}" in p.cmdline()]


def assert_every_bag_is_readable(folder: Path, task: Path) -> None:
    contract = schema.load(task)
    bags = sorted((folder / "bags").iterdir())
    assert bags
    for bag in bags:
        assert (bag / "metadata.yaml").is_file(), f"{bag.name} was not closed"
        read_episodes(bag, contract)


def test_ctrl_c_ends_every_process_and_closes_every_bag(
    up: subprocess.Popen[str], tmp_path: Path, short_task: Path, family: Family
) -> None:
    processes = family(up.pid)
    assert len(processes) >= 6
    up.send_signal(signal.SIGINT)
    _, errors = up.communicate(timeout=PATIENCE_S)
    assert up.returncode == 130
    assert errors.splitlines() == [f"interrupted: everything has stopped; bags and logs are in {os.path.relpath(tmp_path / 'run')}"]
    assert alive(processes) == []
    assert_every_bag_is_readable(tmp_path / "run", short_task)


@pytest.mark.parametrize("name", ["mpc", "sim"])
def test_a_killed_node_is_reported_with_its_log_and_nothing_is_left(
    name: str, up: subprocess.Popen[str], tmp_path: Path, family: Family
) -> None:
    processes = family(up.pid)
    node(up, name, family).kill()
    _, errors = up.communicate(timeout=PATIENCE_S)
    assert up.returncode == 1
    assert errors.startswith(f"failed: {name} was killed by SIGKILL") and str(tmp_path / "run" / "logs" / f"{name}.log") in errors
    assert alive(processes) == []


def test_a_killed_supervisor_leaves_no_process_and_no_open_bag(
    up: subprocess.Popen[str], tmp_path: Path, short_task: Path, family: Family
) -> None:
    processes = family(up.pid)
    up.kill()
    up.communicate(timeout=PATIENCE_S)
    eventually(lambda: not alive(processes), "every process has ended")
    assert_every_bag_is_readable(tmp_path / "run", short_task)


def test_a_killed_visualizer_is_started_again(up: subprocess.Popen[str], family: Family) -> None:
    first = node(up, "visualizer", family)
    first.kill()

    def another() -> bool:
        return bool({p.pid for p in nodes(up, "visualizer", family)} - {first.pid})

    eventually(another, "another visualizer runs")
    assert up.poll() is None


def test_a_second_system_in_the_same_domain_is_refused_and_the_first_goes_on(
    up: subprocess.Popen[str], tmp_path: Path, short_task: Path, controller: Path, domain: int
) -> None:
    second = subprocess.run(
        command(tmp_path / "second", short_task, controller), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert second.returncode == 2
    assert second.stderr.startswith(f"error: ROS_DOMAIN_ID {domain}: another wm_ros system runs there (process {up.pid})")
    assert not (tmp_path / "second").exists() and up.poll() is None


def test_a_demo_in_a_domain_that_others_use_is_refused_before_an_old_run_is_moved(
    up: subprocess.Popen[str], tmp_path: Path, domain: int
) -> None:
    run = tmp_path / "demo"
    run.mkdir()
    (run / "kept").touch()
    demo = [sys.executable, "-m", "wm_ros.cli", "demo", "--run-dir", str(run)]
    refused = subprocess.run(demo, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert refused.returncode == 2 and f"ROS_DOMAIN_ID {domain}" in refused.stderr and (run / "kept").exists()
