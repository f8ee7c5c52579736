"""wm-ros curve: several trainings in simulation as one learning curve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from wm_ros.contract.errors import UserError


@dataclass(frozen=True)
class Curve:
    """Draw finished trainings of `wm-ros train --sim`, a seed each, beside published curves of the task: CSV, picture, page."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the trainings."""
    command: str
    """What made them, for the page; SEED in place of the seed, LABEL of the label."""
    labels: tuple[str, ...] = ()
    """One for each run: then runs of several agents, or settings, of one task are compared."""
    results: Path = Path("runs/curve")
    """Folder for the files, such as docs/results."""
    name: str = ""
    """Of the files; by default the task's name and the agent's."""
    bar: float | None = None
    """Return that the page counts the frames to, for every seed."""
    timed: bool = True
    """--no-timed leaves seconds and rates out: for trainings beside other work, whose times say nothing."""
    note: str = ""
    """What else the page should say."""

    def run(self) -> int:
        """Writes the files."""
        from wm_ros.viz.simulated_curve import read, write_curve

        if not self.runs:
            raise UserError("runs: missing: give the folders of finished trainings")
        runs = [read(folder) for folder in self.runs]
        name = self.name or f"{runs[0][0]['contract']}_{runs[0][0]['agent']}"
        paths = write_curve(
            runs, name, self.results, self.command, labels=self.labels, bar=self.bar, timed=self.timed, note=self.note
        )
        for path in paths:
            print(f"written    {path}")
        return 0
