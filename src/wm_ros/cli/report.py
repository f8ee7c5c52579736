"""wm-ros report: the report of a recorded run, written anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from wm_ros.contract.errors import UserError


@dataclass(frozen=True)
class Report:
    """Write report.html of a run from its bags, controller and summary."""

    folder: tyro.conf.Positional[Path]
    """Folder of the run, as `wm-ros demo` leaves it."""

    def run(self) -> int:
        """Writes the report and says where it is."""
        if not (self.folder / "bags").is_dir():
            raise UserError(f"{self.folder}: no run: it has no folder bags; give one that wm-ros demo has written, such as runs/demo")
        from wm_ros.viz.report import write_report

        write_report(self.folder)
        print(self.folder / "report.html")
        return 0
