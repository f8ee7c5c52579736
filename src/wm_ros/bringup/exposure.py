"""Who reaches the running system over the middleware: this machine only, and the control path not by shared memory, unless the user says
otherwise."""

from __future__ import annotations

from collections.abc import Mapping

from wm_ros.contract import resources

RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""Where Fast DDS looks for its configuration; the second name is that of ROS 2 Jazzy and before."""
TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"
MIDDLEWARE = "RMW_IMPLEMENTATION"
"""Fast DDS where nobody names another."""
OTHERS = ("ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER", "ROS_LOCALHOST_ONLY", "CYCLONEDDS_URI", "ZENOH_SESSION_CONFIG_URI")
"""Who sets one of these has said how the system is to be reached."""
_THIS_MACHINE, _LOOPBACK = "fastdds_localhost.xml", "fastdds_loopback.xml"


def defaults(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to the environment of every process, so that nothing listens on a public address.

    Args:
        environment: the user's own; what stands there wins.
    """
    if any(environment.get(name) for name in OTHERS) or environment.get(RANGE, "LOCALHOST").upper() != "LOCALHOST":
        return {}
    added = {RANGE: "LOCALHOST"}
    if not any(environment.get(name) for name in PROFILES):
        added |= _profile(_THIS_MACHINE)
    return {name: value for name, value in added.items() if not environment.get(name)}


def without_shared_memory(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add besides for a process that nobody else may hold up.

    Fast DDS writes to a neighbour on the same machine through memory that both lock. Processes next to one that was stopped have been held
    up, and been deaf to it from then on: see docs/reliability.md.

    Args:
        environment: the user's own; what stands there wins.
    """
    if not environment.get(MIDDLEWARE, "rmw_fastrtps_cpp").startswith("rmw_fastrtps"):
        return {}
    ours = defaults({})
    users = {name: value for name, value in environment.items() if value != ours.get(name)}
    if any(users.get(name) for name in (*PROFILES, TRANSPORTS)):
        return {}
    if not defaults(users):
        return {TRANSPORTS: "UDPv4"}
    # For the range LOCALHOST the middleware brings its shared memory back, whatever the profile says; here the profile keeps the rest away.
    return {RANGE: "SUBNET", **_profile(_LOOPBACK)}


def _profile(name: str) -> dict[str, str]:
    return dict.fromkeys(PROFILES, str(resources.share_directory() / "config" / name))
