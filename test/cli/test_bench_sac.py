"""The SAC benchmark measures what it says, at sizes that take no time."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from one_thread import one_thread  # noqa: F401
from small_mbpo import AGENT as MBPO
from small_sac import FIT, SAC

from wm_ros.cli.bench import Result
from wm_ros.training.config import PolicyConfig, SacAgentConfig

ROOT = Path(__file__).resolve().parents[2]
PEER = """#!{python}
import sys
print("9.8 2.0", flush=True)
for line in sys.stdin:
    print(int(line) / 100.0, flush=True)
"""


@pytest.fixture
def sac(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.sac")


def test_updates_are_measured_beside_the_peer_in_its_own_interpreter(
    sac: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = tmp_path / "python"
    peer.write_text(PEER.format(python=sys.executable))
    peer.chmod(0o755)
    monkeypatch.setenv(sac.PEER_PYTHON, str(peer))
    result = sac.updates(sac.Sizes(updates=5, repeats=2, frames=0, mbpo_frames=0), 1, SAC, FIT)
    assert result.ours > 0 and result.peer == pytest.approx(100.0) and result.peer_version == "stable-baselines3 9.8, torch 2.0"
    assert result.unit == "updates/s" and result.higher_is_better and result.settings["batch"] == FIT.batch


def test_each_side_is_taken_at_its_best_number_of_threads(sac: ModuleType) -> None:
    def row(threads: int, ours: float, peer: float) -> Result:
        return Result("x", ours, peer, "peer 1", "updates/s", True, {"threads": threads})

    result = sac.best([row(1, 300.0, 80.0), row(2, 280.0, 120.0)])
    assert (result.ours, result.peer, result.ratio) == (300.0, 120.0, 2.5) and result.settings["threads"] == "1, peer 2"


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/true"])
def test_without_the_peer_the_way_to_it_is_named(sac: ModuleType, python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sac.PEER_PYTHON, python)
    result = sac.updates(sac.Sizes(updates=2, repeats=1, frames=0, mbpo_frames=0), 1, SAC, FIT)
    assert result.ours > 0 and result.ratio is None and f"{sac.PEER_PYTHON}=" in result.peer_version


@pytest.mark.parametrize(("agent", "name"), [(SacAgentConfig(SAC, FIT), "SAC"), (MBPO, "MBPO")])
def test_a_whole_training_is_timed_per_thousand_steps(sac: ModuleType, agent: PolicyConfig, name: str) -> None:
    result = sac.training(200, agent)
    assert result.name.startswith(name) and result.ours > 0 and result.unit == "s per 1000 steps" and not result.higher_is_better
