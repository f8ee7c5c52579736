"""The benchmark of planners with perfect dynamics: resumed, counted, and the shipped settings do solve their tasks."""

from __future__ import annotations

import csv
import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from one_thread import one_thread  # noqa: F401

from wm_ros.contract import schema
from wm_ros.contract.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "reacher_two_link": {
        "horizon_s": 0.12,
        "stride": 2,
        "planners": {
            "icem": {"candidates": 4, "iterations": 2, "elites": 2, "kept": 1},
            "cem": {"candidates": 3, "elites": 2, "stride": 1},
        },
    }
}


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.perfect")


@pytest.fixture
def options(perfect: ModuleType, tmp_path: Path) -> Any:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return perfect.Options(out=tmp_path / "out", settings=str(tmp_path / "small.yaml"), seeds=(0, 1), threads=1, ticks=4)


def rows(options: Any) -> list[dict[str, str]]:
    with (options.out / "perfect_dynamics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def counted(perfect: ModuleType, monkeypatch: pytest.MonkeyPatch, dies_at: int = 10**6) -> list[tuple[str, int]]:
    """Names the episodes that are run, and is interrupted in the one of that number."""
    ran: list[tuple[str, int]] = []
    true = perfect.run_cell

    def spy(entry: Any, seed: int, *rest: Any) -> Any:
        if len(ran) == dies_at:
            raise KeyboardInterrupt
        ran.append((entry.planner, seed))
        return true(entry, seed, *rest)

    monkeypatch.setattr(perfect, "run_cell", spy)
    return ran


ALL = [(planner, seed) for planner in ("random_actions", "cem", "icem") for seed in (0, 1)]


def test_an_interrupted_run_goes_on_where_it_was(perfect: ModuleType, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        first = counted(perfect, patch, dies_at=3)
        with pytest.raises(KeyboardInterrupt):
            perfect.bench(options)
    assert len(rows(options)) == 3
    with monkeypatch.context() as patch:
        second = counted(perfect, patch)
        perfect.bench(options)
    assert sorted(first + second) == sorted(ALL) and len(rows(options)) == 6
    assert counted(perfect, monkeypatch) == [] and perfect.bench(options) is not None


def test_other_settings_of_a_planner_are_another_measurement(perfect: ModuleType, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    perfect.bench(options)
    before = {(r["planner"], r["seed"]): r["digest"] for r in rows(options)}
    changed = yaml.safe_load(Path(options.settings).read_text())
    changed["reacher_two_link"]["planners"]["icem"]["candidates"] = 5
    Path(options.settings).write_text(yaml.safe_dump(changed))
    ran = counted(perfect, monkeypatch)
    perfect.bench(options)
    assert ran == [("icem", 0), ("icem", 1)]
    after = {(r["planner"], r["seed"]): r["digest"] for r in rows(options)}
    assert len(rows(options)) == 6 and {k for k in before if before[k] != after[k]} == {("icem", "0"), ("icem", "1")}


def test_the_results_tell_how_to_repeat_them(perfect: ModuleType, options: Any) -> None:
    perfect.bench(options)
    page = (options.out / "perfect_dynamics.md").read_text()
    assert "`wm-ros bench perfect`" in page and "Seeds 0, 1; 4 ticks" in page and "mujoco 3" in page
    assert '"candidates":4' in page and "| random actions |" in page
    assert (options.out / "perfect_dynamics.png").read_bytes().startswith(b"\x89PNG")
    row = next(r for r in rows(options) if r["planner"] == "icem")
    # Two iterations of four draws, one elite kept and the mean; three steps each.
    assert float(row["model_steps"]) == 2 * (4 + 1 + 1) * 3 and 0 < float(row["model_share"]) < 1 and float(row["ms_p50"]) > 0
    assert "torch" in row["versions"] and row["no_plan"] == "0"
    cem = next(r for r in rows(options) if r["planner"] == "cem")
    assert '"horizon":6' in cem["settings"] and '"stride":1' in cem["settings"]


def test_a_seed_gives_the_same_return_again_and_another_one_does_not(perfect: ModuleType, options: Any) -> None:
    entry = next(e for e in perfect.entries(options.settings) if e.planner == "icem")
    first, again, other = (perfect.run_cell(entry, seed, 1, 6) for seed in (0, 0, 1))
    assert first.returned == again.returned != other.returned


def test_returns_are_held_against_random_actions(perfect: ModuleType, options: Any) -> None:
    results = perfect.bench(replace(options, planners=("random_actions", "icem"))).against_random()
    assert [r.name for r in results] == ["perfect dynamics, reacher_two_link, icem"]
    assert results[0].peer_version == "random actions" and results[0].settings["model steps per plan"] == 36


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planners": {"oracle": {}}}, r"reacher_two_link\.planners\.oracle: no such planner; there are random_shooting, cem, icem"),
        ({"planners": {"icem": {"candidates": 0}}}, r"reacher_two_link\.planners\.icem: .*candidates"),
        ({"planners": {"icem": {"guesses": 3}}}, r"reacher_two_link\.planners\.icem: .*guesses"),
        ({"stride": "often"}, r"no settings of planners: .*stride"),
    ],
)
def test_wrong_settings_are_named(perfect: ModuleType, options: Any, change: dict[str, Any], message: str) -> None:
    Path(options.settings).write_text(yaml.safe_dump({"reacher_two_link": {**SMALL["reacher_two_link"], **change}}))
    with pytest.raises(UserError, match=message):
        perfect.entries(options.settings)


def test_the_simulators_speed_is_measured_beside_both_peers(perfect: ModuleType) -> None:
    loop, best = perfect.speed("pendulum_swingup", 8, 5, 1, threads=2)
    assert loop.ours == best.ours > 0 and loop.peer > 0 and best.peer > 0 and loop.unit == "frames/s"
    assert "mj_step in a loop" in loop.peer_version and "mujoco.rollout" in best.peer_version


def test_the_shipped_settings_cover_every_planner_on_every_task(perfect: ModuleType) -> None:
    entries = perfect.entries("perfect_dynamics")
    tasks = {e.task for e in entries}
    assert tasks == {"pendulum_swingup", "cartpole_swingup", "reacher_two_link", "cheetah_run"}
    for task in tasks:
        assert {e.planner for e in entries if e.task == task} == {"random_actions", *perfect.CONFIGS}
        for entry in (e for e in entries if e.task == task and e.config is not None):
            seconds = entry.config.horizon * entry.stride * schema.load(task).control.period_s
            assert 0.3 <= seconds <= 3.0, (task, entry.planner)


@pytest.mark.parametrize(("task", "ticks", "enough"), [("reacher_two_link", 80, 30.0), ("cheetah_run", 40, 15.0)])
def test_the_shipped_settings_solve_the_task(perfect: ModuleType, task: str, ticks: int, enough: float) -> None:
    entry = next(e for e in perfect.entries("perfect_dynamics") if e.task == task and e.planner == "icem")
    planned = perfect.run_cell(entry, 0, 1, ticks)
    assert planned.suite_return > enough and planned.no_plan == 0
    idle = next(e for e in perfect.entries("perfect_dynamics") if e.task == task and e.config is None)
    assert planned.suite_return > 2 * perfect.run_cell(idle, 0, 1, ticks).suite_return
