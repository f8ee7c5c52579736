"""The Dreamer benchmark measures what it says, at sizes that take no time."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from one_thread import one_thread  # noqa: F401
from small_dreamer import config, fit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def dreamer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.dreamer")


def test_an_update_and_a_policy_step_are_timed(dreamer: ModuleType) -> None:
    sizes = dreamer.Sizes(repeats=2, steps=5)
    update = dreamer.update(sizes, "update", config(), fit())
    step = dreamer.policy_step(sizes, "step", config())
    assert update.settings["batch"] == "4 x 8" and update.settings["parameters"] > 1000
    for result in (update, step):
        assert result.ours > 0 and result.ratio is None and result.unit == "ms" and not result.higher_is_better


def test_the_large_size_is_that_of_the_usual_torch_versions(dreamer: ModuleType) -> None:
    assert (dreamer.LARGE.rssm.groups, dreamer.LARGE.rssm.classes, dreamer.LARGE.rssm.deter) == (32, 32, 512)
