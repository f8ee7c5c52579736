"""The folder of a run: a new one is made, an old one is moved aside, nothing recorded is lost."""

from __future__ import annotations

import time
from pathlib import Path

from wm_ros.contract.errors import UserError


def fresh(path: Path) -> tuple[Path, Path | None]:
    """Makes an empty folder.

    Args:
        path: where; what is there already moves to `<path>-<time of its last change>`.

    Returns:
        The folder, absolute, and where the old one went, if there was one.

    Raises:
        UserError: the place is a file, or not writable.
    """
    path = path.expanduser().resolve()
    moved = None
    try:
        if path.exists() and not path.is_dir():
            raise UserError(f"run_dir: {path} is a file: name a folder")
        if path.is_dir() and any(path.iterdir()):
            moved = _free(path.with_name(f"{path.name}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(path.stat().st_mtime))}"))
            path.rename(moved)
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run_dir: {path}: {error.strerror}: choose another folder with --run-dir") from None
    return path, moved


def _free(path: Path) -> Path:
    candidate, count = path, 1
    while candidate.exists():
        count += 1
        candidate = path.with_name(f"{path.name}-{count}")
    return candidate
