"""QoS profiles as rosbag2 notes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import yaml

_INFINITE = {"sec": 9223372036, "nsec": 854775807}


@dataclass(frozen=True)
class Qos:
    """The part of a QoS profile that our topics differ in; the rest are ROS 2's defaults."""

    reliability: Literal["reliable", "best_effort"] = "reliable"
    durability: Literal["volatile", "transient_local"] = "volatile"
    depth: int = 10

    def as_dict(self) -> dict[str, Any]:
        """The profile with every field, as version 9 of rosbag2's metadata has it."""
        return {
            "history": "keep_last",
            "depth": self.depth,
            "reliability": self.reliability,
            "durability": self.durability,
            "deadline": dict(_INFINITE),
            "lifespan": dict(_INFINITE),
            "liveliness": "automatic",
            "liveliness_lease_duration": dict(_INFINITE),
            "avoid_ros_namespace_conventions": False,
        }

    def as_yaml(self) -> str:
        """The one-profile list in an MCAP channel's metadata."""
        return yaml.safe_dump([self.as_dict()], sort_keys=False).strip()
