"""Whole graphs: a free ROS domain, a short task, a controller of which everything is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import tiny_controller
import yaml
from processes import alive

from wm_ros.bringup.domain import own_domain
from wm_ros.contract import resources, schema


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """A domain that nothing uses, in this process's environment; not held, so that a system can hold it."""
    with own_domain(None, request.node.nodeid) as number:
        pass
    monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return number


@pytest.fixture
def short_task(tmp_path: Path) -> Path:
    """The cart-pole with episodes of one second."""
    data = yaml.safe_load((resources.share_directory() / "config" / "contracts" / "cartpole_swingup.yaml").read_text())
    data["name"], data["episode"]["duration_s"] = "cartpole_short", 1.0
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture
def controller(tmp_path: Path, short_task: Path) -> Path:
    """Always pushes with 1.5 N."""
    return tiny_controller.constant(tmp_path / "tiny.onnx", 1.5, for_contract=schema.load(short_task))


@pytest.fixture
def family() -> Iterator[Callable[[int], list[psutil.Process]]]:
    """Gives all descendants of a process; whatever of them still runs after the test is killed, so that a failure leaves nothing behind."""
    seen: dict[int, psutil.Process] = {}

    def descendants(pid: int) -> list[psutil.Process]:
        found = psutil.Process(pid).children(recursive=True)
        seen.update({p.pid: p for p in found})
        return found

    yield descendants
    for process in alive(list(seen.values())):
        process.kill()
