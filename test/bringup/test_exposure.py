"""Nothing of the running system listens on a public address, unless the user says so."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from wm_ros.bringup import exposure
from wm_ros.bringup.domain import own_domain

DISCOVERY_GROUP = "239.255.0.1"
"""Joined on the interfaces that the profile names."""
NODE = """
import rclpy, sys
rclpy.init()
node = rclpy.create_node("listener")
print("up", flush=True)
sys.stdin.read()
"""


@contextmanager
def listening(added: Callable[[dict[str, str]], dict[str, str]]) -> Iterator[tuple[psutil.Process, int]]:
    """A node that runs with this added to an environment without the user's wishes, and its domain."""
    chosen = (exposure.RANGE, exposure.TRANSPORTS, exposure.MIDDLEWARE, *exposure.PROFILES, *exposure.OTHERS)
    given = {k: v for k, v in os.environ.items() if k not in chosen}
    with own_domain(None, "exposure") as domain:
        environment = {**given, **added(given), "ROS_DOMAIN_ID": str(domain)}
        node = subprocess.Popen([sys.executable, "-c", NODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
        try:
            assert node.stdout is not None and node.stdout.readline() == "up\n"
            yield psutil.Process(node.pid), domain
        finally:
            node.communicate("")


def shared(process: psutil.Process) -> list[str]:
    """Memory that Fast DDS shares with other processes."""
    return [m.path for m in process.memory_maps() if "/dev/shm/fast" in m.path]


@pytest.mark.parametrize("apart", [False, True])
def test_a_node_with_these_defaults_receives_on_the_loopback_interface_only(apart: bool) -> None:
    def added(given: dict[str, str]) -> dict[str, str]:
        return exposure.defaults(given) | (exposure.without_shared_memory(given) if apart else {})

    with listening(added) as (process, domain):
        connections = process.net_connections("inet")
        assert bool(shared(process)) is not apart
    ports = range(7400 + 250 * domain, 7400 + 250 * (domain + 1))
    discovery = {c.laddr.ip for c in connections if c.type == socket.SOCK_DGRAM and c.laddr.port in ports}
    assert discovery - {DISCOVERY_GROUP} == {"127.0.0.1"}
    assert not [c for c in connections if c.type == socket.SOCK_STREAM and c.laddr.ip != "127.0.0.1"]


def test_on_a_network_the_control_path_shares_no_memory_either() -> None:
    with listening(lambda given: exposure.without_shared_memory({**given, exposure.RANGE: "SUBNET"})) as (process, _):
        assert not shared(process)


@pytest.mark.parametrize("name", [exposure.TRANSPORTS, *exposure.PROFILES])
def test_transports_of_the_users_own_stay(name: str) -> None:
    assert exposure.without_shared_memory({name: "mine"}) == {}


def test_another_middleware_would_not_read_the_profile_and_keeps_its_range() -> None:
    assert exposure.without_shared_memory({exposure.MIDDLEWARE: "rmw_cyclonedds_cpp"}) == {}


def test_the_profile_that_this_package_has_set_itself_is_nobodys_wish() -> None:
    assert exposure.without_shared_memory(exposure.defaults({})) == exposure.without_shared_memory({}) != {}


@pytest.mark.parametrize("name", [exposure.RANGE, *exposure.OTHERS])
def test_who_says_how_the_system_is_reached_is_obeyed(name: str) -> None:
    assert exposure.defaults({name: "SUBNET"}) == {}


def test_a_profile_of_the_users_own_stays() -> None:
    added = exposure.defaults({exposure.PROFILES[0]: "/my.xml"})
    assert added == {exposure.RANGE: "LOCALHOST"}


@pytest.mark.parametrize("added", [exposure.defaults, exposure.without_shared_memory])
def test_the_shipped_profiles_name_the_loopback_interface_alone(added: Callable[[dict[str, str]], dict[str, str]]) -> None:
    profile = Path(added({})[exposure.PROFILES[0]])
    space = "{http://www.eprosima.com}"
    tree = ElementTree.parse(profile)
    assert [e.text for white in tree.iter(f"{space}interfaceWhiteList") for e in white] == ["127.0.0.1"]
    assert [e.text for e in tree.iter(f"{space}useBuiltinTransports")] == ["false"]
