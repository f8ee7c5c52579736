"""Nothing of the running system listens on a public address, unless the user says so."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import psutil
import pytest

from wm_ros.bringup import exposure
from wm_ros.bringup.domain import own_domain

NODE = """
import rclpy, sys
rclpy.init()
node = rclpy.create_node("listener")
print("up", flush=True)
sys.stdin.read()
"""


def test_a_node_with_these_defaults_receives_on_the_loopback_interface_only() -> None:
    given = {k: v for k, v in os.environ.items() if k not in (exposure.RANGE, *exposure.PROFILES, *exposure.OTHERS)}
    with own_domain(None, "exposure") as domain:
        environment = {**given, **exposure.defaults(given), "ROS_DOMAIN_ID": str(domain)}
        node = subprocess.Popen([sys.executable, "-c", NODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
        try:
            assert node.stdout is not None and node.stdout.readline() == "up\n"
            connections = psutil.Process(node.pid).net_connections("inet")
        finally:
            node.communicate("")
    ports = range(7400 + 250 * domain, 7400 + 250 * (domain + 1))
    discovery = {c.laddr.ip for c in connections if c.type == socket.SOCK_DGRAM and c.laddr.port in ports}
    assert discovery == {"127.0.0.1"}
    assert not [c for c in connections if c.type == socket.SOCK_STREAM and c.laddr.ip != "127.0.0.1"]


@pytest.mark.parametrize("name", [exposure.RANGE, *exposure.OTHERS])
def test_who_says_how_the_system_is_reached_is_obeyed(name: str) -> None:
    assert exposure.defaults({name: "SUBNET"}) == {}


def test_a_profile_of_the_users_own_stays() -> None:
    added = exposure.defaults({exposure.PROFILES[0]: "/my.xml"})
    assert added == {exposure.RANGE: "LOCALHOST"}


def test_the_shipped_profile_names_the_loopback_interface_alone() -> None:
    profile = Path(exposure.defaults({})[exposure.PROFILES[0]])
    space = "{http://www.eprosima.com}"
    tree = ElementTree.parse(profile)
    assert [e.text for e in tree.iter(f"{space}address")] == ["127.0.0.1"]
    assert [e.text for e in tree.iter(f"{space}useBuiltinTransports")] == ["false"]
