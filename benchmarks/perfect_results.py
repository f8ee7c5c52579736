"""What `benchmarks.perfect` found: one row per episode in a CSV, and the table and picture that are made of it."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from wm_ros.cli.bench import Result
from wm_ros.cli.versions import versions
from wm_ros.viz.theme import LIGHT

NAME = "perfect_dynamics"
RANDOM = "random_actions"
"""What the planners are held against."""
Key = tuple[str, str, int, str]
"""Task, planner, seed, digest of the settings."""


@dataclass(frozen=True)
class Cell:
    """One episode of one planner."""

    task: str
    planner: str
    seed: int
    digest: str
    """Names the settings: planner, stride, contract, ticks, threads."""
    ticks: int
    returned: float
    """Sum of the contract's rewards."""
    suite_return: float
    """The same episode under the suite's own reward, where the contract's has a margin."""
    ms_p50: float
    """Wall time of a plan, median over the episode."""
    ms_p99: float
    model_steps: float
    """Per plan; each covers `stride` control ticks."""
    model_share: float
    """Of the planning time spent in the simulator, the rewards included."""
    no_plan: int
    """Ticks on which the planner found nothing, and the robot held."""
    wall_s: float
    """Of the whole episode."""
    settings: str
    """JSON: the stride, the horizon in model steps, and what differs from the planner's defaults."""

    @property
    def key(self) -> Key:
        return self.task, self.planner, self.seed, self.digest


_INTRODUCTION = """\
Each planner plans on the true simulator, anew at every control tick, from the observation alone. Returns are on dm_control's scale of 0 to
1000, means over the seeds. *Suite's reward* is the same episode counted without the margin that the contracts of the pendulum and the
reacher add; on the other tasks it is the return. *Model steps* are those of one plan. *In the simulator* is the share of the planning time
that rollouts and their rewards take, on {threads} threads. Settings that are not listed are the planner's defaults.
"""


class Results:
    """The rows of the CSV; finished episodes are found again after an interruption."""

    def __init__(self, folder: Path, command: str, threads: int, machine: str) -> None:
        self._folder, self._command, self._threads, self._machine = folder, command, threads, machine
        self._path = folder / f"{NAME}.csv"
        self._cells: dict[Key, Cell] = {}
        self._ran_on: dict[Key, tuple[str, str]] = {}
        if self._path.is_file():
            with self._path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    cell = Cell(**{f.name: _PARSE[str(f.type)](row[f.name]) for f in fields(Cell)})
                    self._cells[cell.key] = cell
                    self._ran_on[cell.key] = (row["machine"], row["versions"])

    def has(self, key: Key) -> bool:
        """Whether this episode is done."""
        return key in self._cells

    def add(self, cell: Cell) -> None:
        """Keeps an episode, on disk too."""
        self._cells[cell.key] = cell
        found = versions()
        self._ran_on[cell.key] = (
            self._machine,
            "; ".join(f"{name} {found[name]}" for name in ("python", "wm_ros", "mujoco", "torch", "numpy") if name in found),
        )
        self._save(list(self._cells))

    def retime(self, key: Key, timed: Cell) -> None:
        """Takes over the times of another, shorter episode of the same planner."""
        cell = self._cells[key]
        self._cells[key] = replace(cell, ms_p50=timed.ms_p50, ms_p99=timed.ms_p99, model_share=timed.model_share)

    def _save(self, keys: list[Key]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*(f.name for f in fields(Cell)), "machine", "versions"])
            for key in keys:
                writer.writerow([_rounded(value) for value in asdict(self._cells[key]).values()] + list(self._ran_on[key]))
        os.replace(temporary, self._path)

    def write(self, keys: list[Key]) -> None:
        """CSV, table and picture; of an episode that was run with several settings, the one in `keys` stays."""
        wanted = set(keys)
        replaced = {key[:3] for key in keys}
        self._cells = {key: cell for key, cell in sorted(self._cells.items()) if key in wanted or key[:3] not in replaced}
        self._save(list(self._cells))
        (self._folder / f"{NAME}.md").write_text(self._page(), encoding="utf-8")
        _draw(self._groups(), self._folder / f"{NAME}.png")

    def _groups(self) -> dict[str, dict[str, list[Cell]]]:
        """Task → planner → episodes, random actions first, then the best planner first."""
        grouped: dict[str, dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
        for cell in self._cells.values():
            grouped[cell.task][cell.planner].append(cell)

        def rank(planner: tuple[str, list[Cell]]) -> tuple[bool, float]:
            return planner[0] != RANDOM, -fmean(c.returned for c in planner[1])

        return {task: dict(sorted(planners.items(), key=rank)) for task, planners in sorted(grouped.items())}

    def against_random(self) -> list[Result]:
        """Mean return of every planner beside that of random actions."""
        found = []
        for task, planners in self._groups().items():
            floor = planners.get(RANDOM, [])
            for planner, cells in planners.items():
                if planner == RANDOM or not floor:
                    continue
                settings = {
                    "seeds": len(cells),
                    "ticks": cells[0].ticks,
                    "ms per plan": round(median(c.ms_p50 for c in cells), 1),
                    "model steps per plan": round(fmean(c.model_steps for c in cells)),
                    "threads": self._threads,
                }
                ours, peer = (fmean(c.returned for c in group) for group in (cells, floor))
                name = f"perfect dynamics, {task}, {planner}"
                found.append(Result(name, ours, peer, "random actions", "return", higher_is_better=True, settings=settings))
        return found

    def _page(self) -> str:
        tables = []
        for task, planners in self._groups().items():
            rows = [
                "| planner | return | worst seed | suite's reward | ms per plan | p99 | model steps | in the simulator | settings |",
                "|---|---|---|---|---|---|---|---|---|",
            ]
            for planner, cells in planners.items():
                suite = f"{fmean(c.suite_return for c in cells):.0f}"
                returns = (f"{fmean(c.returned for c in cells):.0f}", f"{min(c.returned for c in cells):.0f}", suite)
                if planner == RANDOM:
                    rows.append(f"| random actions | {' | '.join(returns)} | | | | | |")
                    continue
                times = (f"{median(c.ms_p50 for c in cells):.1f}", f"{max(c.ms_p99 for c in cells):.1f}")
                work = (f"{fmean(c.model_steps for c in cells):.0f}", f"{100 * fmean(c.model_share for c in cells):.0f} %")
                lost = sum(c.no_plan for c in cells)
                note = f"`{cells[0].settings}`" + (f", no plan on {lost} ticks" if lost else "")
                rows.append(f"| {planner} | {' | '.join((*returns, *times, *work))} | {note} |")
            seeds = sorted({c.seed for cells in planners.values() for c in cells})
            ticks = sorted({c.ticks for cells in planners.values() for c in cells})
            head = f"## {task}\n\nSeeds {', '.join(map(str, seeds))}; {' or '.join(map(str, ticks))} ticks per episode."
            tables.append(head + "\n\n" + "\n".join(rows))
        ran_on = sorted({f"{machine}; {found}" for machine, found in self._ran_on.values()})
        return (
            f"# Planners with perfect dynamics\n\n`{self._command}`\n\n{_INTRODUCTION.format(threads=self._threads)}\n"
            + "\n\n".join(tables)
            + f"\n\n![Return against milliseconds per plan]({NAME}.png)\n\nRows, one per episode: [{NAME}.csv]({NAME}.csv). "
            f"Settings: `config/planners/{NAME}.yaml`.\n\nRun on:\n\n" + "".join(f"- {line}\n" for line in ran_on)
        )


def _draw(groups: dict[str, dict[str, list[Cell]]], path: Path) -> None:
    """Return against milliseconds per plan, one panel per task, one mark per seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.9 * max(1, len(groups)), 3.4), dpi=140, layout="constrained")
    axes = figure.subplots(1, max(1, len(groups)), squeeze=False)[0]
    names = sorted({planner for planners in groups.values() for planner in planners if planner != RANDOM})
    marks = {name: ("osD^vPX*"[i % 8], f"C{i}") for i, name in enumerate(names)}
    for axis, (task, planners) in zip(axes, groups.items(), strict=False):
        for planner, cells in planners.items():
            if planner == RANDOM:
                axis.axhline(fmean(c.returned for c in cells), color=LIGHT.muted, linestyle=":", linewidth=1, label="random actions")
                continue
            mark, color = marks[planner]
            axis.plot([c.ms_p50 for c in cells], [c.returned for c in cells], mark, color=color, markersize=5, alpha=0.8, label=planner)
        axis.set_title(task, fontsize=9, color=LIGHT.ink)
        axis.set_xscale("log")
        axis.set_ylim(0, 1000)
        axis.set_xlabel("ms per plan", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(color=LIGHT.grid, linewidth=0.5)
    axes[0].set_ylabel("return", fontsize=8)
    labels = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=len(labels), fontsize=7, frameon=False)
    figure.savefig(path)


def _rounded(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


_PARSE: dict[str, Any] = {"str": str, "int": int, "float": float}
