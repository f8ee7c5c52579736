"""The evidence of the maze experiments: CSV, picture and page."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Curves = Mapping[str, NDArray[np.float64]]
"""Name of a learner → [R, X], one row per seed."""

NAME = "dyna_maze"


def write_maze_results(
    episodes: Curves, changes: Mapping[str, tuple[int, Curves]], shortest: Mapping[str, str], directory: Path, command: str, versions: str
) -> list[Path]:
    """Writes `dyna_maze.csv`, `.png` and `.md` into `directory`.

    Args:
        episodes: steps of each episode in figure 8.2's maze.
        changes: name of a maze that changes → (when, cumulative reward at every step).
        shortest: name of a maze → its shortest way, in words.
        directory: made where it is not there.
        command: what reproduces the figures.
        versions: of what they were made with.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{NAME}{suffix}" for suffix in (".csv", ".png", ".md")]
    with paths[0].open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["experiment", "learner", "x", "mean", "std", "seeds"])
        for experiment, curves, every in [("dyna", episodes, 1), *((name, curves, 50) for name, (_, curves) in changes.items())]:
            for learner, values in curves.items():
                for x in range(every - 1, values.shape[1], every):
                    column = values[:, x]
                    writer.writerow([experiment, learner, x + 1, f"{column.mean():.6g}", f"{column.std():.6g}", len(column)])
    _draw(episodes, changes, paths[1])
    paths[2].write_text(_page(episodes, changes, shortest, command, versions), encoding="utf-8")
    return paths


def _draw(episodes: Curves, changes: Mapping[str, tuple[int, Curves]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    left, *others = figure.subplots(1, 1 + len(changes))
    for learner, values in episodes.items():
        left.plot(np.arange(2, values.shape[1] + 1), values.mean(0)[1:], lw=1.5, label=learner)
    left.set_ylim(0, 800)
    left.set_title("Dyna maze (figure 8.2)")
    left.set_xlabel("episode, from the second on")
    left.set_ylabel("steps, mean over seeds")
    for axes, (name, (at, curves)) in zip(others, changes.items(), strict=True):
        for learner, values in curves.items():
            mean, error = values.mean(0), values.std(0) / np.sqrt(len(values))
            (line,) = axes.plot(np.arange(1, len(mean) + 1), mean, lw=1.5, label=learner)
            axes.fill_between(np.arange(1, len(mean) + 1), mean - error, mean + error, color=line.get_color(), alpha=0.2, lw=0)
        axes.axvline(at, color="grey", lw=1, ls="--")
        axes.set_title(f"{name} maze (figure {'8.4' if name == 'blocking' else '8.5'})")
        axes.set_xlabel("steps; the maze changes at the dashed line")
        axes.set_ylabel("cumulative reward, mean over seeds")
    for axes in (left, *others):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def settled(values: NDArray[np.float64], within: float) -> int:
    """The first episode, counted from 1, from which the mean over seeds [R, X] is at most `within` for three episodes; 0 for none."""
    fine = values.mean(0) <= within
    runs = np.flatnonzero(fine[:-2] & fine[1:-1] & fine[2:])
    return int(runs[0]) + 1 if len(runs) else 0


def _page(episodes: Curves, changes: Mapping[str, tuple[int, Curves]], shortest: Mapping[str, str], command: str, versions: str) -> str:
    seeds = len(next(iter(episodes.values())))
    header = ("planning steps", "episode 1", "episode 2", "episode 3", "episode 10", "last ten", "within 20 steps from episode")
    rows = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for learner, values in episodes.items():
        mean = values.mean(0)
        shown: list[Any] = [f"{mean[k]:.0f}" for k in (0, 1, 2, 9)]
        rows.append(f"| {learner} | {' | '.join(shown)} | {mean[-10:].mean():.1f} | {settled(values, 20.0) or 'none'} |")
    table = ["| maze | learner | before the change | after it | in all | last 500 steps, of each seed |", "|" + "---|" * 6]
    for name, (at, curves) in changes.items():
        for learner, values in curves.items():
            before, total = values[:, at - 1], values[:, -1]
            late = np.quantile(total - values[:, max(0, values.shape[1] - 501)], (0.0, 0.5, 1.0))
            error = total.std() / np.sqrt(len(total))
            figures = f"{before.mean():.0f} | {(total - before).mean():.0f} | {total.mean():.0f} ± {error:.0f}"
            table.append(f"| {name} | {learner} | {figures} | {late[0]:.0f} to {late[2]:.0f}, median {late[1]:.0f} |")
    ways = "; ".join(f"{name}: {way}" for name, way in shortest.items())
    return f"""# Dyna on the mazes of Sutton and Barto

`{command}`

Tabular Dyna-Q and Dyna-Q+ (*Reinforcement Learning*, 2nd edition, sections 8.2 and 8.3), {seeds} seeds, {versions}.
Shortest ways: {ways}.

![Steps per episode, and cumulative reward in two mazes that change]({NAME}.png)

## Figure 8.2: planning steps

Steps to the goal, mean over seeds; step size 0.1, discount 0.95, 10 % random actions.

{_lines(rows)}

As in the book, planning decides how many episodes it takes: about 25 without it, 5 with 5 planning steps and 3 with 50, says the
text there. The first episode is the same for all three, for nothing can be planned before the first reward. It is a random walk,
whose mean is 869 steps by the linear equations of this maze (a test holds it); the book reports about 1700.

## Figures 8.4 and 8.5: mazes that change

Cumulative reward, mean over seeds, with its standard error. The book does not give the settings of these two; here the step size
is 1, with 10 planning steps and kappa 0.0001 where the way is blocked, 50 and 0.001 where a shortcut opens.

{_lines(table)}

As in the book, Dyna-Q+ is ahead in both. Who keeps to the long way of the shortcut maze gets at most 31 in 500 steps.

Rows: [{NAME}.csv]({NAME}.csv).
"""


def _lines(rows: list[str]) -> str:
    return "\n".join(rows)
