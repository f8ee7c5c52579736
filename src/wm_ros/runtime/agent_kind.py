"""Which agent a configuration file is for, and who runs its controllers: known without torch, for those who only start processes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml

from wm_ros.contract import resources
from wm_ros.contract.errors import UserError

Source = Literal["mpc", "policy"]

SOURCES: dict[str, Source] = {"pets": "mpc", "mbpo": "policy", "sac": "policy", "dreamer": "policy"}
"""Agent → whose commands its controllers become: planners run in `mpc`, policies in `policy_server`."""
DEFAULT = "pets"
"""Of a file that has the settings of none."""


def kind_of(name: str | Path) -> str:
    """The agent that a file of settings, or a shipped one by its name, is for: the one whose section it has.

    Raises:
        UserError: no such file, no YAML, or sections of several agents.
    """
    path = resources.find("config/agents", name, ".yaml")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from None
    found = [kind for kind in SOURCES if isinstance(data, dict) and kind in data]
    if "mbpo" in found:
        found = [kind for kind in found if kind != "sac"]  # the section of its policy
    if len(found) > 1:
        raise UserError(f"{path}: has sections of several agents, {' and '.join(found)}: keep one of them")
    return found[0] if found else DEFAULT
