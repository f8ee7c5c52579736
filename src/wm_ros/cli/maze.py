"""wm-ros maze: tabular Dyna on the mazes of Sutton and Barto."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wm_ros.cli.versions import versions
from wm_ros.contract.errors import UserError


@dataclass(frozen=True)
class MazeCommand:
    """Run Dyna-Q and Dyna-Q+ on Sutton and Barto's mazes (figures 8.2, 8.4, 8.5) and write CSV, picture and page; takes seconds."""

    results: Path = Path("runs/maze")
    """Folder for dyna_maze.csv, .png and .md, such as docs/results."""
    seeds: int = 30
    """Seeds 0 to this, each with tables of its own."""

    def run(self) -> int:
        """Runs all experiments."""
        if self.seeds < 1:
            raise UserError(f"seeds: {self.seeds} must be at least 1")
        from wm_ros.sim import maze
        from wm_ros.training import maze_experiments as experiments
        from wm_ros.viz.dyna_maze import write_maze_results

        seeds = range(self.seeds)
        episodes = {f"n = {n}": experiments.steps_per_episode(c, seeds).astype(float) for n, c in experiments.DYNA_MAZE.items()}
        changes = {
            change.name: (change.at, {name: experiments.cumulative_reward(change, c, seeds) for name, c in change.learners.items()})
            for change in (experiments.BLOCKING, experiments.SHORTCUT)
        }
        shortest = {"figure 8.2": f"{maze.DYNA.shortest()} steps"}
        for change in (experiments.BLOCKING, experiments.SHORTCUT):
            first, second = (m.shortest() for m in change.mazes)
            shortest[change.name] = f"{first}, then {second} steps"
        command = f"wm-ros maze --results {self.results} --seeds {self.seeds}"
        found = versions()
        made_with = ", ".join(f"{name} {found[name]}" for name in ("wm_ros", "numpy") if name in found)
        for path in write_maze_results(episodes, changes, shortest, self.results, command, made_with):
            print(f"written    {path}")
        return 0
