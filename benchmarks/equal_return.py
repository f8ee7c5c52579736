"""What a planner costs at equal return: every planner with perfect dynamics over a range of budgets, and what comes near the best."""

from __future__ import annotations

import csv
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import tyro
from benchmarks.perfect import TIMED_TICKS, Entry, entries, machine, run_cell

from wm_ros.cli.bench import Result
from wm_ros.cli.versions import versions
from wm_ros.contract import resources, schema
from wm_ros.planners.planner import PlannerConfig
from wm_ros.viz.theme import LIGHT

NAME = "equal_return"
SHARE = 0.95
"""Of the best return that counts as reached."""
PETS_STEPS = 525_000
"""Model steps per action of mbrl-lib's PETS on cart-pole: horizon 15, 350 candidates, 20 particles, 5 iterations."""
BUDGET = {
    "random_shooting": "candidates",
    "cem": "candidates",
    "icem": "candidates",
    "mppi": "candidates",
    "ilqr": "iterations",
    "mcts": "simulations",
}
"""Planner → the setting that its budget is counted in."""


@dataclass(frozen=True)
class Options:
    """Runs what has not been run yet; every episode is kept at once."""

    out: Path = Path("docs/results")
    """Folder of `equal_return.csv`, `.md` and `.png`."""
    settings: str = "perfect_dynamics"
    """The planners at factor 1: a file like config/planners/perfect_dynamics.yaml, or its name."""
    tasks: tuple[str, ...] = ("cartpole_swingup", "cheetah_run")
    factors: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    """Budgets, in those of the settings."""
    seeds: tuple[int, ...] = (0, 1, 2)
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """That roll out."""
    ticks: int | None = None
    """Length of an episode; the contract's own if None."""
    planners: tuple[str, ...] = tuple(BUDGET)
    retime: bool = False
    """Measure the times of all plans anew, one after the other on a quiet machine; the returns stay."""


@dataclass(frozen=True)
class Row:
    """One episode, or with seed -1 the time of a plan."""

    task: str
    planner: str
    factor: float
    seed: int
    digest: str
    """Names the settings: planner, budget, stride, contract, ticks, threads."""
    returned: float
    model_steps: float
    """Per plan."""
    ms: float
    """Of a plan, median."""
    settings: str


@dataclass(frozen=True)
class Point:
    """One planner with one budget."""

    factor: float
    returned: float
    """Mean over seeds."""
    model_steps: float
    ms: float
    settings: str


def scaled(config: PlannerConfig, factor: float) -> PlannerConfig:
    """The planner with its budget multiplied; elites keep their share."""
    knob = BUDGET[config.kind]  # type: ignore[attr-defined]
    value = max(2 if knob == "candidates" else 1, round(getattr(config, knob) * factor))
    changes: dict[str, Any] = {knob: value}
    if knob == "candidates":
        names = {f.name for f in fields(config)}
        if "elites" in names:
            changes["elites"] = min(value, max(2, round(getattr(config, "elites") * factor)))  # noqa: B009  (not all have it)
        for least in {"shown", "kept"} & names:
            changes[least] = min(getattr(config, least), changes.get("elites", value))
    return replace(config, **changes)


def bench(options: Options) -> dict[str, dict[str, list[Point]]]:
    """Task → planner → its budgets, the smallest first."""
    torch.set_num_threads(1)
    table = _Table(options.out / f"{NAME}.csv")
    wanted = [
        (replace(entry, config=scaled(entry.config, factor)), factor)
        for entry in entries(options.settings)
        if entry.task in options.tasks and entry.config is not None and entry.planner in options.planners
        for factor in options.factors
    ]
    # Small budgets of few iterations are the same ones.
    wanted = list({entry: (entry, factor) for entry, factor in wanted}.values())
    episodes = [(entry, factor, seed) for entry, factor in wanted for seed in options.seeds]
    # Times come last and side by side, so that a machine that is busy for a while troubles all planners alike.
    jobs = [*episodes, *((entry, factor, -1) for entry, factor in wanted)]
    missing = [
        job for job in jobs if not table.has(job[0], job[2], _ticks(job[0], options), options.threads) or (options.retime and job[2] < 0)
    ]
    started = time.perf_counter()
    for i, (entry, factor, seed) in enumerate(missing, start=1):
        ticks = TIMED_TICKS if seed < 0 else _ticks(entry, options)
        cell = run_cell(entry, max(seed, 0), options.threads, ticks)
        digest = entry.digest(_ticks(entry, options), options.threads)
        table.add(Row(entry.task, entry.planner, factor, seed, digest, cell.returned, cell.model_steps, cell.ms_p50, cell.settings))
        left = (time.perf_counter() - started) / i * (len(missing) - i)
        what = f"{cell.ms_p50:.1f} ms per plan" if seed < 0 else f"seed {seed}: return {cell.returned:.0f}"
        print(
            f"[{i}/{len(missing)}] {entry.task} {entry.planner} x {factor:g}: {what}; about {left:.0f} s left", file=sys.stderr, flush=True
        )
    found: dict[str, dict[str, list[Point]]] = {}
    for entry, factor in wanted:
        rows = [table.row(entry, seed, _ticks(entry, options), options.threads) for seed in options.seeds]
        timed = table.row(entry, -1, _ticks(entry, options), options.threads)
        point = Point(factor, fmean(r.returned for r in rows), fmean(r.model_steps for r in rows), timed.ms, timed.settings)
        found.setdefault(entry.task, {}).setdefault(entry.planner, []).append(point)
    _write(found, options)
    return found


class _Table:
    """The CSV; finished rows are found again after an interruption."""

    def __init__(self, path: Path) -> None:
        self._path, self._rows = path, {}
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                kinds: dict[str, Any] = {"str": str, "int": int, "float": float}
                for row in csv.DictReader(file):
                    self._keep(Row(**{f.name: kinds[str(f.type)](row[f.name]) for f in fields(Row)}))

    def _keep(self, row: Row) -> None:
        self._rows[row.digest, row.seed] = row

    def has(self, entry: Entry, seed: int, ticks: int, threads: int) -> bool:
        return (entry.digest(ticks, threads), seed) in self._rows

    def row(self, entry: Entry, seed: int, ticks: int, threads: int) -> Row:
        return self._rows[entry.digest(ticks, threads), seed]

    def add(self, row: Row) -> None:
        self._keep(row)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([f.name for f in fields(Row)])
            writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in asdict(r).values()] for r in self._rows.values())
        os.replace(temporary, self._path)


def _ticks(entry: Entry, options: Options) -> int:
    return schema.load(entry.task).episode_ticks if options.ticks is None else options.ticks


def target(planners: dict[str, list[Point]]) -> float:
    """The return that counts as reached: a share of the best that any planner came to."""
    return SHARE * max(p.returned for points in planners.values() for p in points)


def cheapest(points: Iterable[Point], wanted: float) -> Point | None:
    """The fastest budget that reaches the return; None where none does."""
    return min((p for p in points if p.returned >= wanted), key=lambda p: p.ms, default=None)


def pets_ms(planners: dict[str, list[Point]]) -> float:
    """What PETS' published number of model steps would take at the rate of the fastest planner here."""
    return PETS_STEPS * min(p.ms / p.model_steps for points in planners.values() for p in points)


def _write(found: dict[str, dict[str, list[Point]]], options: Options) -> None:
    parts = [
        "# What a planner costs at equal return\n",
        "`wm-ros bench equal_return`\n",
        "Every planner plans on the true simulator (see [planners with perfect dynamics](perfect_dynamics.md) for the settings), with "
        f"{', '.join(f'{f:g}' for f in options.factors)} times its budget there. The table says what each needs for "
        f"{100 * SHARE:.0f} % of the best return of any planner: milliseconds and model steps per plan. The reference is the work "
        f"of mbrl-lib's PETS, {PETS_STEPS:,} model steps per action, at the rate that the fastest planner has here. Seeds "
        f"{', '.join(map(str, options.seeds))}, {options.threads} threads, {machine()}; "
        + ", ".join(f"{name} {version}" for name, version in versions().items() if name in ("python", "wm_ros", "mujoco", "torch"))
        + ".\n",
    ]
    for task, planners in found.items():
        wanted = target(planners)
        rows = ["| planner | ms per plan | model steps per plan | return | best return | settings |", "|---|---|---|---|---|---|"]
        ranked = sorted(planners.items(), key=lambda item: getattr(cheapest(item[1], wanted), "ms", float("inf")))
        for planner, points in ranked:
            best, point = max(p.returned for p in points), cheapest(points, wanted)
            if point is None:
                rows.append(f"| {planner} | not reached | | | {best:.0f} | |")
            else:
                figures = f"{point.ms:.1f} | {point.model_steps:.0f} | {point.returned:.0f} | {best:.0f}"
                rows.append(f"| {planner} | {figures} | `{point.settings}` |")
        rows.append(f"| PETS' number of model steps | {pets_ms(planners):.0f} | {PETS_STEPS} | | | |")
        parts.append(f"## {task}\n\nWanted: {wanted:.0f}.\n\n" + "\n".join(rows) + "\n")
    parts.append(
        f"![Return against milliseconds per plan]({NAME}.png)\n\nRows, one per episode and, with seed -1, per timing: [CSV]({NAME}.csv).\n"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{NAME}.md").write_text("\n".join(parts), encoding="utf-8")
    _draw(found, options.out / f"{NAME}.png")


def _draw(found: dict[str, dict[str, list[Point]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(found), 3.8), dpi=140, layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for axis, (task, planners) in zip(axes, found.items(), strict=True):
        for i, (planner, points) in enumerate(sorted(planners.items())):
            axis.plot(
                [p.ms for p in points], [p.returned for p in points], "osD^vPX*"[i % 8] + "-", color=f"C{i}", markersize=5, label=planner
            )
        axis.axhline(target(planners), color=LIGHT.limit, linestyle="--", linewidth=1, label=f"{100 * SHARE:.0f} % of the best")
        axis.axvline(pets_ms(planners), color=LIGHT.muted, linestyle=":", linewidth=1, label="PETS' number of model steps")
        axis.set_title(task, fontsize=9, color=LIGHT.ink)
        axis.set_xscale("log")
        axis.set_ylim(0, 1000)
        axis.set_xlabel("ms per plan", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(color=LIGHT.grid, linewidth=0.5)
    axes[0].set_ylabel("return", fontsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    figure.savefig(path)


def run(quick: bool) -> list[Result]:
    """Milliseconds per plan at equal return beside the work of mbrl-lib's PETS."""
    options = Options(out=resources.share_directory() / "docs" / "results")
    if quick:
        with tempfile.TemporaryDirectory() as folder:
            return _results(bench(replace(options, out=Path(folder), factors=(0.25, 1.0), seeds=(0,), ticks=10)), options)
    return _results(bench(options), options)


def _results(found: dict[str, dict[str, list[Point]]], options: Options) -> list[Result]:
    results = []
    for task, planners in found.items():
        wanted = target(planners)
        for planner, points in planners.items():
            point = cheapest(points, wanted)
            if point is None:
                continue
            settings = {"return": round(point.returned), "model steps": round(point.model_steps), "threads": options.threads}
            name = f"plan at {100 * SHARE:.0f} % of the best return, {task}, {planner}"
            peer = f"{PETS_STEPS} model steps, mbrl-lib's PETS"
            results.append(Result(name, point.ms, pets_ms(planners), peer, "ms", higher_is_better=False, settings=settings))
    return results


if __name__ == "__main__":
    bench(tyro.cli(Options))
