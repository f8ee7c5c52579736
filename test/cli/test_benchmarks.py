"""The benchmarks measure what they say, at sizes that take no time."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from wm_ros.bringup.domain import own_domain
from wm_ros.bringup.system import Program
from wm_ros.cli.failure import RunFailure
from wm_ros.models.ensemble import EnsembleConfig, gaussian_loss

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.train")


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return importlib.import_module("benchmarks.loop")


def small(train: ModuleType) -> Any:
    return train.Sizes("small", 4, 2, EnsembleConfig(members=3, elites=2, layers=2, width=8), batch=16)


def test_training_is_measured_beside_every_peer(train: ModuleType) -> None:
    plain, mbrl = train._compare(small(train), steps=20, repeats=1)
    assert plain.ours > 0 and plain.peer > 0 and plain.unit == "member-samples/s" and plain.higher_is_better
    assert "one nn.Module per member" in plain.peer_version and plain.settings["inputs"] == 6
    assert "mbrl" in mbrl.peer_version and mbrl.ours == plain.ours


def test_the_peer_trains_the_same_networks_on_the_same_loss(train: ModuleType) -> None:
    torch.manual_seed(0)
    step = train._plain(small(train))
    inputs, targets = torch.randn(3, 64, 6), torch.randn(3, 64, 4)
    losses = [step(inputs, targets) for _ in range(60)]
    assert losses[-1] < losses[0]
    # At the start every network gives about zero mean and variance one: the loss is known.
    expected = gaussian_loss(targets**2, torch.zeros_like(targets)) + 0.01 * 4 * (0.5 + 7.0)
    assert losses[0] == pytest.approx(float(expected), rel=0.35)


def test_the_loop_is_measured_through_the_real_nodes_and_through_the_echo(loop: ModuleType, tmp_path: Path) -> None:
    with own_domain(None, str(tmp_path)) as domain:
        environment = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        bench = loop._Bench(tmp_path / "bench", 50.0, 0.5, environment)
        for latency in (bench.nodes(), bench.echo("single_threaded"), bench.echo("events")):
            assert 0.0 < latency.p50 <= latency.p99 <= latency.max and 0.0 < latency.answered <= 1.0


def test_an_other_end_that_dies_is_named_with_its_output(loop: ModuleType, tmp_path: Path) -> None:
    with own_domain(None, str(tmp_path)) as domain:
        environment = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        bench = loop._Bench(tmp_path / "bench", 50.0, 0.5, environment)
        dying = Program("dying", (sys.executable, "-c", "raise SystemExit('no such robot')"), required=True)
        with pytest.raises(RunFailure, match=r"dying ended with status 1[\s\S]*no such robot"):
            bench._run([dying])


def test_rows_are_medians_over_the_repeats(loop: ModuleType) -> None:
    def side(*values: float) -> list[Any]:
        return [loop.Latency(v, 2 * v, 3 * v, 1.0) for v in values]

    found = {"ours": side(1.0, 9.0, 2.0), "echo": side(4.0, 1.0, 0.5), "events": side(0.5, 0.5, 0.5)}
    rows = {r.name: r for r in loop._results(found, {"rate_hz": 100.0, "seconds": 1, "repeats": 3})}
    assert len(rows) == 6
    p99 = rows["sensor to command through mpc and gate, 100 Hz, p99"]
    assert (p99.ours, p99.peer, p99.ratio) == (4.0, 2.0, 0.5) and not p99.higher_is_better
    assert np.isclose(rows["echo with EventsExecutor.spin_once, 100 Hz, max"].ours, 1.5)


def test_the_logger_is_measured_through_the_node_that_users_run(loop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = importlib.import_module("benchmarks.logger")
    monkeypatch.setattr(logger, "RATE_HZ", 1000.0)
    monkeypatch.setattr(logger, "QUICK_SECONDS", 1.0)
    (result,) = logger.run(quick=True)
    assert result.settings["sent"] == 1000 and 0 < result.ours <= result.peer
    assert result.settings["lost"] == round(1000 * (1 - result.ours / result.peer))
