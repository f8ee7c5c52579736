"""Where the package's own data files are: contracts, agent configurations, MJCF, rviz configuration."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from wm_ros.contract.errors import UserError


def share_directories() -> list[Path]:
    """Folders that can hold `config/`, `sim/` and `launch/`, best first.

    A source checkout comes first, then the overlays of a colcon build, then the prefix of a plain pip install.
    """
    checkout = Path(__file__).resolve().parents[3]
    overlays = [
        Path(prefix) / "share" / "wm_ros" for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix
    ]
    return [d for d in (checkout, *overlays, Path(sys.prefix) / "share" / "wm_ros") if (d / "config").is_dir()]


def share_directory() -> Path:
    """The first of `share_directories`.

    Raises:
        UserError: the package was installed without its data files.
    """
    found = share_directories()
    if not found:
        raise UserError("wm_ros: no config/ folder beside the package: reinstall it with 'pip install .' or 'colcon build'")
    return found[0]


def find(kind: str, name: str | Path, suffix: str) -> Path:
    """Resolves `name` to a file.

    Args:
        kind: folder below the share directory, for instance `config/contracts`.
        name: a path to an existing file, or the bare name of a file that ships with the package.
        suffix: ending of the shipped files, with its dot.

    Raises:
        UserError: there is no such file; the message lists the shipped names.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path.resolve()
    shipped = {p.stem: p for directory in reversed(share_directories()) for p in (directory / kind).glob(f"*{suffix}")}
    if str(name) in shipped:
        return shipped[str(name)]
    if path.name == str(name) and path.stem in shipped and path.suffix == suffix:
        return shipped[path.stem]
    raise UserError(f"{name}: no such file, and no shipped {kind} of that name (shipped: {', '.join(sorted(shipped)) or 'none'})")
