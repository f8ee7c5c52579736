"""What holds for every `wm-ros train --resume`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wm_ros.cli.display import Display
from wm_ros.contract.errors import UserError


def refuse_others(checkpoint: Path, differs: Mapping[str, bool]) -> None:
    """Refuses options that a training was not begun with.

    Args:
        checkpoint: of the training.
        differs: option → whether what was given is another.

    Raises:
        UserError: names them.
    """
    others = [name for name, other in differs.items() if other]
    if others:
        raise UserError(f"{checkpoint}: was begun with another {' and '.join(others)}: leave that option away, or begin in another folder")


def warn_of_versions(begun: Mapping[str, str], show: Display) -> None:
    """Says so where the packages are not those that a training was begun with."""
    from wm_ros.export.controller import versions

    if begun != versions():
        show.line(f"warning: begun with {begun}, now {versions()}: the last bits may differ")
