"""The laws of the house are about every room and every node that there is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RULES = (ROOT / "pyproject.toml").read_text()


def law(name: str) -> str:
    """The import-linter contract whose name holds these words."""
    (text,) = (part for part in RULES.split("[[tool.importlinter.contracts]]") if name in part)
    return text


def sources(text: str) -> set[str]:
    found = re.search(r"source_modules = \[(.*?)\]", text, re.DOTALL)
    assert found is not None
    return set(re.findall(r'"([\w.]+)"', found.group(1)))


def test_every_node_but_the_trainer_is_held_below_the_robot_line() -> None:
    nodes = {f"wm_ros.nodes.{p.stem}" for p in (ROOT / "src" / "wm_ros" / "nodes").glob("*.py") if not p.stem.startswith("__")}
    assert sources(law("only the trainer reaches above")) == nodes - {"wm_ros.nodes.trainer"}


def test_every_room_is_held_from_rclpy_but_the_nodes() -> None:
    rooms = {f"wm_ros.{p.parent.name}" for p in (ROOT / "src" / "wm_ros").glob("*/__init__.py")}
    held = sources(law("only nodes import rclpy")) | sources(law("imports no rclpy itself"))
    assert held == rooms - {"wm_ros.nodes"}
