"""What the visualizer publishes and how rviz2 shows it: one table, read by the node and checked against config/wm_ros.rviz."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Display:
    """One published topic and its display."""

    topic: str
    """Relative to the launch namespace."""
    message_type: str
    rviz_class: str


MARKERS = Display("markers", "visualization_msgs/msg/MarkerArray", "rviz_default_plugins/MarkerArray")
PLAN_PATH = Display("plan_path", "nav_msgs/msg/Path", "rviz_default_plugins/Path")
DISPLAYS = (MARKERS, PLAN_PATH)

NAMESPACES = ("world", "robot", "candidates", "plan", "spread")
"""Marker namespaces, each a switch in rviz2."""


def imagined(channel: str) -> str:
    """Topic of what a camera shows and is imagined to show next; an Image display for each camera is the user's to add."""
    return f"imagined/{channel}"
