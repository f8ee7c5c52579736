"""config/wm_ros.rviz shows what the visualizer publishes, by class, topic and message type."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from wm_ros.contract import resources
from wm_ros.viz import displays, markers

# Which message each display class of rviz_default_plugins subscribes to.
RVIZ_TYPES = {
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
    "rviz_default_plugins/Path": "nav_msgs/msg/Path",
    "rviz_default_plugins/Grid": None,
}


@pytest.fixture(scope="module")
def manager() -> dict[str, Any]:
    config = yaml.safe_load((resources.share_directory() / "config" / "wm_ros.rviz").read_text())
    manager = config["Visualization Manager"]
    assert isinstance(manager, dict)
    return manager


def test_every_display_shows_a_topic_of_the_visualizer_with_its_class_and_type(manager: dict[str, Any]) -> None:
    shown = {d["Topic"]["Value"]: d for d in manager["Displays"] if "Topic" in d}
    assert set(shown) == {d.topic for d in displays.DISPLAYS}
    for display in displays.DISPLAYS:
        assert shown[display.topic]["Class"] == display.rviz_class
        assert RVIZ_TYPES[display.rviz_class] == display.message_type
    assert all(d["Class"] in RVIZ_TYPES and d["Enabled"] for d in manager["Displays"])


def test_displays_ask_for_a_quality_of_service_that_the_visualizer_offers(manager: dict[str, Any]) -> None:
    for display in (d for d in manager["Displays"] if "Topic" in d):
        assert display["Topic"]["Durability Policy"] == "Volatile"
        assert display["Topic"]["Reliability Policy"] == "Reliable"


def test_fixed_frame_and_namespaces_are_those_of_the_marks(manager: dict[str, Any]) -> None:
    assert manager["Global Options"]["Fixed Frame"] == markers.FRAME
    marks = next(d for d in manager["Displays"] if d["Class"] == displays.MARKERS.rviz_class)
    assert marks["Namespaces"] == dict.fromkeys(displays.NAMESPACES, True)
