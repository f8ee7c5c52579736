"""The Dreamer benchmark measures what it says, at sizes that take no time."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from one_thread import one_thread  # noqa: F401
from small_dreamer import config, fit

ROOT = Path(__file__).resolve().parents[2]
PEER = """#!{python}
import json, pathlib, sys
pathlib.Path("{sizes}").write_text(sys.argv[2])
print(json.dumps(dict(sheeprl="9.8", torch="2.0", parameters=7)), flush=True)
for line in sys.stdin:
    print(0.1, flush=True)
"""


@pytest.fixture
def dreamer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.dreamer")


def test_an_update_is_timed_in_turns_with_the_peer_s_at_equal_sizes(
    dreamer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = tmp_path / "python"
    peer.write_text(PEER.format(python=sys.executable, sizes=tmp_path / "sizes"))
    peer.chmod(0o755)
    monkeypatch.setenv(dreamer.PEER_PYTHON, str(peer))
    result = dreamer.update(dreamer.Sizes(repeats=2, steps=0), "update", config(), fit())
    assert result.settings["batch"] == "4 x 8" and result.settings["parameters"] > 1000 and result.settings["peer's parameters"] == 7
    assert result.ours > 0 and result.peer > 0 and result.unit == "ms" and not result.higher_is_better
    assert result.peer_version == "sheeprl 9.8, torch 2.0"
    sizes = json.loads((tmp_path / "sizes").read_text())
    assert (sizes["batch"], sizes["length"], sizes["deter"], sizes["groups"], sizes["classes"]) == (4, 8, 24, 4, 5)


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/true"])
def test_without_the_peer_the_way_to_it_is_named(dreamer: ModuleType, python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dreamer.PEER_PYTHON, python)
    result = dreamer.update(dreamer.Sizes(repeats=1, steps=0), "update", config(), fit())
    assert result.ours > 0 and result.ratio is None and f"{dreamer.PEER_PYTHON}=" in result.peer_version


def test_a_policy_step_is_timed(dreamer: ModuleType) -> None:
    result = dreamer.policy_step(dreamer.Sizes(repeats=0, steps=5), "step", config())
    assert result.ours > 0 and result.ratio is None and result.unit == "ms" and not result.higher_is_better


def test_the_large_size_is_that_of_the_usual_torch_versions(dreamer: ModuleType) -> None:
    assert (dreamer.LARGE.rssm.groups, dreamer.LARGE.rssm.classes, dreamer.LARGE.rssm.deter) == (32, 32, 512)
