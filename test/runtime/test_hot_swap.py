"""A new controller is swapped in between two ticks, and no failure touches the one that serves."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_controller as tiny

from wm_ros.contract.errors import UserError
from wm_ros.runtime.engine import Inference
from wm_ros.runtime.hot_swap import HotSwap

TIMEOUT_S = 60


class Loader:
    """A HotSwap whose results can be waited for."""

    def __init__(self) -> None:
        self.results: queue.Queue[UserError | None] = queue.Queue()
        self.swap = HotSwap(tiny.contract(), Inference(), self.results.put)

    def load(self, path: Path, sha256: str | None = None) -> UserError | None:
        self.swap.request(path, sha256)
        return self.results.get(timeout=TIMEOUT_S)


@pytest.fixture
def loader() -> Iterator[Loader]:
    made = Loader()
    yield made
    made.swap.close()


def test_a_good_controller_waits_warm_until_it_is_taken_and_is_taken_once(tmp_path: Path, loader: Loader) -> None:
    assert loader.swap.take() is None
    assert loader.load(tiny.constant(tmp_path / "c.onnx", version=4)) is None
    session = loader.swap.take()
    assert session is not None and session.metadata.version == 4 and session.warm_up_ms > 0
    assert loader.swap.take() is None and loader.swap.reason == ""


@pytest.mark.parametrize("make", [tiny.other_contract, lambda p: p, lambda p: (p.write_bytes(b"junk"), p)[1]])
def test_a_failure_leaves_nothing_to_take_and_says_why(tmp_path: Path, loader: Loader, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "bad.onnx")
    assert loader.load(path) is not None
    assert loader.swap.take() is None
    assert str(path) in loader.swap.reason and "\n" not in loader.swap.reason
    assert loader.load(tiny.constant(tmp_path / "good.onnx")) is None
    assert loader.swap.take() is not None and loader.swap.reason == ""


def test_a_file_that_changed_since_its_announcement_is_refused(tmp_path: Path, loader: Loader) -> None:
    announced = tiny.notice(tiny.constant(tmp_path / "c.onnx", action=1.0))
    tiny.constant(tmp_path / "c.onnx", action=2.0)
    error = loader.load(tmp_path / "c.onnx", announced.sha256)
    assert error is not None and "sha256" in str(error)


def test_the_newest_of_two_ready_controllers_is_taken(tmp_path: Path, loader: Loader) -> None:
    for version in (1, 2):
        assert loader.load(tiny.constant(tmp_path / f"{version}.onnx", version=version)) is None
    session = loader.swap.take()
    assert session is not None and session.metadata.version == 2
