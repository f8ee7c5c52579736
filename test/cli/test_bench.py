"""The frame of the benchmarks, and the bar of learn-check."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from wm_ros.cli import bench, main
from wm_ros.cli.learn_check import LearnCheck, table


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    calls: list[bool] = []

    def measure(quick: bool) -> list[bench.Result]:
        calls.append(quick)
        return [
            bench.Result("latency", 2.0, 4.0, "bare rclpy 9", "ms", higher_is_better=False, settings={"rate_hz": 50}),
            bench.Result("rate", 2.0, 4.0, "other 1", "1/s", higher_is_better=True),
            bench.Result("failed", float("nan"), 4.0, "other 1", "1/s", higher_is_better=True),
        ]

    module = ModuleType("a_benchmark")
    module.measure = measure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_benchmark", module)
    monkeypatch.setattr(bench, "BENCHMARKS", {"some": "a_benchmark:measure"})
    return calls


def test_records_have_the_published_shape_and_a_ratio_above_one_means_better(
    registered: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["bench", "some", "--quick", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert registered == [True]
    assert all(set(r) == {"name", "ours", "peer", "peer_version", "ratio", "unit", "settings", "versions"} for r in records)
    assert [r["ratio"] for r in records] == [2.0, 0.5, None] and records[0]["settings"] == {"rate_hz": 50}


def test_all_benchmarks_write_a_table_each(registered: list[bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["bench", "all", "--write", str(tmp_path)]) == 0
    text = (tmp_path / "some.md").read_text()
    assert "| latency | 2 | 4 | ms | 2.00 | bare rclpy 9 | rate_hz 50 |" in text
    assert "latency" in capsys.readouterr().out


def test_an_interrupted_benchmark_keeps_the_figures_that_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(quick: bool) -> Iterator[bench.Result]:
        yield bench.Result("first", 2.0, 4.0, "other 1", "ms", higher_is_better=False)
        raise KeyboardInterrupt

    module = ModuleType("a_long_benchmark")
    module.measure = measure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_long_benchmark", module)
    monkeypatch.setattr(bench, "BENCHMARKS", {"long": "a_long_benchmark:measure", "never": "a_long_benchmark:measure"})
    assert main.run(["bench", "all", "--write", str(tmp_path), "--json"]) == 130
    out, err = capsys.readouterr()
    assert [record["name"] for record in json.loads(out)] == ["first"]
    assert "bench long: first: 2 ms, peer 4, 2.00 times" in err and f"1 figures were measured, which are in {tmp_path}" in err
    assert "| first | 2 | 4 | ms |" in (tmp_path / "long.md").read_text() and not (tmp_path / "never.md").exists()


def test_some_rates_are_measured_and_the_figures_of_the_others_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(quick: bool, rates_hz: tuple[float, ...] = (50.0, 100.0)) -> Iterator[bench.Result]:
        for rate in rates_hz:
            yield bench.Result(f"{rate:g} Hz", 1000.0 / rate / len(rates_hz), 4.0, "other 1", "ms", higher_is_better=False)

    module = ModuleType("a_loop")
    module.measure = measure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_loop", module)
    monkeypatch.setattr(bench, "BENCHMARKS", {"loop": "a_loop:measure"})
    assert main.run(["bench", "loop", "--write", str(tmp_path)]) == 0
    assert main.run(["bench", "loop", "--rates", "100", "--write", str(tmp_path)]) == 0
    text = (tmp_path / "loop.md").read_text()
    assert "| 50 Hz | 10 | 4 | ms |" in text and "| 100 Hz | 10 | 4 | ms |" in text and text.count("100 Hz") == 1
    assert [record["ours"] for record in json.loads((tmp_path / "loop.json").read_text())] == [10.0, 10.0]
    capsys.readouterr()
    assert main.run(["bench", "loop", "--rates", "0"]) == 2
    assert "--rates is for loop, above 0" in capsys.readouterr().err


def test_every_registered_benchmark_can_be_loaded() -> None:
    for name in bench.BENCHMARKS:
        assert all(callable(found) for found in bench._load(name))


def summary(seed: int, returns: list[float], wall_s: float = 200.0, missed: float | None = 0.001) -> dict[str, Any]:
    return {
        "seed": seed,
        "training_returns": [1.0],
        "evaluation_returns": returns,
        "wall_s": {"total": wall_s},
        "deadline_miss_fraction": missed,
        "deadline_misses": 1,
        "deadlines": 1500,
    }


def test_the_bar_holds_for_the_median_the_worst_the_time_and_the_deadlines() -> None:
    check = LearnCheck()
    good = [summary(seed, [850.0, 840.0]) for seed in range(5)]
    assert check.faults(good) == []
    assert "seed 4: return 600" in check.faults([*good[:4], summary(4, [600.0])])[0]
    assert "median return" in check.faults([summary(seed, [750.0]) for seed in range(5)])[0]
    assert "seed 0: 400 s" in check.faults([summary(0, [850.0], wall_s=400.0), *good[1:]])[0]
    assert "deadline" in check.faults([summary(0, [850.0], missed=0.02), *good[1:]])[0]
    assert "deadline" in check.faults([summary(0, [850.0], missed=None), *good[1:]])[0]


def test_the_table_has_a_row_for_every_seed() -> None:
    lines = table([summary(0, [850.0, 830.0]), summary(1, [700.0])]).splitlines()
    assert len(lines) == 4 and "| 0 | 1 | 850 830 | 840 | 1 of 1500 | 200 |" in lines
