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

from wm_ros.agents.explorer import Explorer, ExplorerConfig
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
    module = importlib.import_module("benchmarks.loop")
    # The smallest real controller: a plan takes seconds to export.
    monkeypatch.setattr(module, "CONTROLLERS", dict.fromkeys(module.DRIVERS, lambda contract: Explorer(contract, ExplorerConfig())))
    return module


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
        policy, mpc, echo = bench.nodes("policy", False), bench.nodes("mpc", False), bench.echo("single_threaded", True)
    assert [set(side.cpu) for side in (policy, mpc, echo)] == [{"command_gate", "policy_server"}, {"command_gate", "mpc"}, {"echo"}]
    for side in (policy, mpc, echo):
        assert 0.0 < side.p50 <= side.p99 <= side.p999 <= side.max and 0 <= side.misses <= side.sent and side.jitter_p99 > 0.0


def test_an_other_end_that_dies_is_named_with_its_output(loop: ModuleType, tmp_path: Path) -> None:
    with own_domain(None, str(tmp_path)) as domain:
        environment = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        bench = loop._Bench(tmp_path / "bench", 50.0, 0.5, environment)
        dying = Program("dying", (sys.executable, "-c", "raise SystemExit('no such robot')"), required=True)
        with pytest.raises(RunFailure, match=r"dying ended with status 1[\s\S]*no such robot"):
            bench._run([dying], loaded=False)


def test_the_page_of_the_loop_has_a_line_for_each_run_and_what_came_of_it(loop: ModuleType) -> None:
    ours = loop.Latency(1.0, 2.0, 3.0, 12.0, 0.25, 2, 1000, {"command_gate": 0.1, "mpc": 0.2}, inference=0.3)
    echo = loop.Latency(0.5, 1.0, 1.5, 4.0, 0.125, 0, 1000, {"echo": 0.05})
    rows = loop._rows("mpc, 100 Hz", ours, echo, {"rate_hz": 100.0, "seconds": 10.0, "load": "none"})
    assert [(r.name, r.ours, r.peer) for r in rows][1:3] == [("mpc, 100 Hz, p99", 2.0, 1.0), ("mpc, 100 Hz, p99.9", 3.0, 1.5)]
    figures = "1.00 / 0.50 | 2.00 / 1.00 | 3.00 / 1.50 | 12.00 / 4.00 | 0.20 | 0.25 / 0.12 | 2 of 1000 / 0"
    assert f"| mpc, 100 Hz | {figures} | command_gate 10.0 %; mpc 20.0 % |" in loop.page([r.record() for r in rows])


def test_what_is_late_and_what_never_came_are_missed(loop: ModuleType, tmp_path: Path) -> None:
    bench = loop._Bench.__new__(loop._Bench)
    bench._contract = tmp_path / "contract.yaml"
    bench._contract.write_text(loop._at_rate(100.0).canonical_json())
    sent = [k * 10_000_000 for k in range(5)]
    latencies = [1_000_000, 3_000_000, 11_000_000, -1, 1_000_000]
    arrived = [s + late if late >= 0 else -1 for s, late in zip(sent, latencies, strict=True)]
    found = bench._latency({"sent_ns": sent, "arrived_ns": arrived}, {})
    assert (found.misses, found.sent, found.max, found.p50) == (2, 5, 11.0, 2.0)
    assert np.isclose(found.jitter_p99, np.quantile([2.0, 8.0], 0.99))


def test_the_logger_is_measured_through_the_node_that_users_run(loop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = importlib.import_module("benchmarks.logger")
    monkeypatch.setattr(logger, "RATE_HZ", 1000.0)
    monkeypatch.setattr(logger, "QUICK_SECONDS", 1.0)
    (result,) = logger.run(quick=True)
    assert result.settings["sent"] == 1000 and 0 < result.ours <= result.peer
    assert result.settings["lost"] == round(1000 * (1 - result.ours / result.peer))
