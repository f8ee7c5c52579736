"""The SROS 2 policies grant what the running graph uses, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_controller
import yaml
from lxml import etree
from peer import Peer
from rclpy.qos import qos_profile_sensor_data
from visualization_msgs.msg import MarkerArray

from wm_ros.bringup.monitored import MonitoredSystem
from wm_ros.bringup.system import NodeProcess, SystemOptions, describe
from wm_ros.contract import resources

POLICY = resources.share_directory() / "config" / "sros2" / "policy.xml"
OPERATOR = "operator"
GRANTS = (("topics", "publish"), ("topics", "subscribe"), ("services", "reply"), ("services", "request"))
Endpoints = dict[str, set[str]]
"""publish, subscribe, reply or request → full names."""


def policies(namespace: str) -> dict[str, Endpoints]:
    """Node → what it may do, with names resolved as in this namespace."""
    tree = etree.parse(POLICY)
    tree.xinclude()
    granted = {}
    for enclave in tree.iter("enclave"):
        (profile,) = enclave.iter("profile")
        node = profile.get("node")
        assert enclave.get("path") == f"/wm_ros/{node}" and profile.get("ns") == "/"
        assert {a for block in profile for a in block.attrib.values()} == {"ALLOW"}
        granted[node] = {
            verb: {resolved(e.text, node, namespace) for block in profile.findall(kind) if block.get(verb) for e in block}
            for kind, verb in GRANTS
        }
    return granted


def resolved(name: str, node: str, namespace: str) -> str:
    return name if name.startswith("/") else f"/{namespace}/{name.replace('~', node, 1)}"


class Watcher(Peer):
    """Looks at the graph."""

    def endpoints(self, node: str) -> Endpoints:
        where = f"/{self.namespace}"
        asked = {
            "publish": self.node.get_publisher_names_and_types_by_node(node, where),
            "subscribe": self.node.get_subscriber_names_and_types_by_node(node, where),
            "reply": self.node.get_service_names_and_types_by_node(node, where),
            "request": self.node.get_client_names_and_types_by_node(node, where),
        }
        return {verb: {name for name, _ in found} for verb, found in asked.items()}

    def graph(self) -> dict[str, Endpoints]:
        there = [n for n, where in self.node.get_node_names_and_namespaces() if where == f"/{self.namespace}" and n != "peer"]
        return {node: self.endpoints(node) for node in there}


@pytest.fixture
def watcher(domain: int) -> Iterator[Watcher]:
    made = Watcher("policies")
    yield made
    made.close()


def test_each_node_uses_exactly_what_its_policy_grants(watcher: Watcher, tmp_path: Path) -> None:
    agent = tmp_path / "agent.yaml"
    small = {"ensemble": {"members": 2, "elites": 2, "layers": 1, "width": 8}}
    small["planner"] = {"horizon": 2, "candidates": 4, "iterations": 1, "elites": 2, "kept": 1}
    agent.write_text(yaml.safe_dump({"pets": small}))
    options = SystemOptions(
        namespace=watcher.namespace,
        train=True,
        agent=str(agent),
        standby=str(tiny_controller.constant(tmp_path / "policy.onnx")),
        headless=False,
        use_sim_time=True,
        run_directory=str(tmp_path),
    )
    system = describe(options)
    # The visualizer listens only while somebody looks.
    watcher.node.create_subscription(MarkerArray, "markers", lambda message: None, qos_profile_sensor_data)
    # It listens to the one who drives, and may to either.
    granted = policies(watcher.namespace)
    granted["episode_manager"]["subscribe"].remove(f"/{watcher.namespace}/policy/controller")
    expected = {node: grants for node, grants in granted.items() if node != OPERATOR}
    assert set(expected) == {p.name for p in system if isinstance(p, NodeProcess)} | {"monitor"}, "an enclave for every node"

    def differences() -> list[str]:
        graph = watcher.graph()
        return [
            f"{node} {verb}: uses {sorted(used - granted)} without a grant, is granted {sorted(granted - used)} without use"
            for node, grants in expected.items()
            for verb, granted in grants.items()
            if (used := graph.get(node, {}).get(verb, set())) != granted
        ]

    with MonitoredSystem(system, tmp_path / "logs", patience_s=60.0):
        watcher.wait(lambda: len(watcher.health) == len(expected), "the diagnostics of every node")
        try:
            watcher.wait(lambda: not differences(), "the policies and the graph to agree")
        except AssertionError:
            raise AssertionError("\n".join(differences())) from None


def test_only_the_gate_may_publish_commands_and_only_the_robot_its_sensors() -> None:
    granted = policies("")
    sources = (("mpc/command", "mpc"), ("policy/command", "policy_server"))
    for topic, publisher in (("command", "command_gate"), *sources, ("joint_states", "sim")):
        assert {n for n, g in granted.items() if f"//{topic}" in g["publish"]} == {publisher}
    assert {n for n, g in granted.items() if "//command_gate/arm" in g["request"]} == {"episode_manager", OPERATOR}
    assert {n for n, g in granted.items() if "//estop" in g["publish"]} == {OPERATOR}


def test_no_grant_is_a_pattern() -> None:
    names = {name for grants in policies("").values() for names in grants.values() for name in names}
    assert len(names) > 50 and not [n for n in names if set(n) & set("*?[]")]
