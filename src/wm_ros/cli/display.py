"""How a training shows itself, and the folder that it begins in."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wm_ros.contract.errors import UserError


class Display:
    """A progress bar on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        if sys.stdout.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[figures]}"))
            self._bar.start()

    def begin(self, name: str, total: int, done: int = 0) -> None:
        """A new bar."""
        if self._bar is not None:
            self._task = self._bar.add_task(name, total=total, completed=done, figures="")
        else:
            print(f"{name}: {total - done}", flush=True)

    def advance(self, count: int = 1) -> None:
        """So many more."""
        if self._bar is not None:
            self._bar.advance(self._task, count)

    def look(self, figures: str, line: str) -> None:
        """Figures for the bar, or a line where there is none."""
        if self._bar is not None:
            self._bar.update(self._task, figures=figures)
        else:
            print(line, flush=True)

    def line(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def make_folder(folder: Path, outputs: tuple[str, ...]) -> None:
    """Makes the folder of a training.

    Raises:
        UserError: there is one in it already, or it cannot be made.
    """
    there = [name for name in outputs if (folder / name).exists()]
    if there:
        raise UserError(f"out: {folder} has a training in it ({there[0]}): go on with it by --resume, or give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out: {folder}: {error.strerror}: give another folder") from None
