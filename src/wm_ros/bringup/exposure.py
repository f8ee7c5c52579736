"""Who can reach the running system over the network: this machine only, unless the user says otherwise."""

from __future__ import annotations

from collections.abc import Mapping

from wm_ros.contract import resources

RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""Where Fast DDS looks for its configuration; the second name is that of ROS 2 Jazzy and before."""
OTHERS = ("ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER", "ROS_LOCALHOST_ONLY", "CYCLONEDDS_URI", "ZENOH_SESSION_CONFIG_URI")
"""Who sets one of these has said how the system is to be reached."""


def defaults(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to the environment of every process, so that nothing listens on a public address.

    Args:
        environment: the user's own; what stands there wins.
    """
    if any(environment.get(name) for name in OTHERS) or environment.get(RANGE, "LOCALHOST").upper() != "LOCALHOST":
        return {}
    added = {RANGE: "LOCALHOST"}
    if not any(environment.get(name) for name in PROFILES):
        profile = str(resources.share_directory() / "config" / "fastdds_localhost.xml")
        added |= dict.fromkeys(PROFILES, profile)
    return {name: value for name, value in added.items() if not environment.get(name)}
