"""The SROS 2 policies grant what the running graph uses, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_controller
import yaml
from gl import pictures_or_skip
from lxml import etree
from peer import Peer
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

from wm_ros.bringup.monitored import MonitoredSystem
from wm_ros.bringup.system import NodeProcess, Process, SystemOptions, describe
from wm_ros.contract import resources, schema

POLICY = resources.share_directory() / "config" / "sros2" / "policy.xml"
OPERATOR = "operator"
SEEING, CAMERA = "cartpole_balance_pixels", "front"
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


def system_of(watcher: Watcher, folder: Path) -> tuple[Process, ...]:
    """The shipped system: both servers, and the trainer of the one that drives."""
    agent = folder / "agent.yaml"
    small = {"ensemble": {"members": 2, "elites": 2, "layers": 1, "width": 8}}
    small["planner"] = {"horizon": 2, "candidates": 4, "iterations": 1, "elites": 2, "kept": 1}
    agent.write_text(yaml.safe_dump({"pets": small}))
    options = SystemOptions(
        namespace=watcher.namespace,
        train=True,
        agent=str(agent),
        standby=str(tiny_controller.constant(folder / "policy.onnx")),
        headless=False,
        use_sim_time=True,
        run_directory=str(folder),
    )
    return describe(options)


def seeing_system_of(watcher: Watcher, folder: Path) -> tuple[Process, ...]:
    """The same robot with a camera of the contract's; a trainer has no topic of it."""
    contract = schema.load(SEEING)
    options = SystemOptions(
        namespace=watcher.namespace,
        contract=SEEING,
        controller=str(tiny_controller.looking(folder / "mpc.onnx", contract, dreams=True)),
        standby=str(tiny_controller.looking(folder / "policy.onnx", contract, dreams=True)),
        headless=False,
        use_sim_time=True,
        run_directory=str(folder),
    )
    return describe(options)


@pytest.mark.parametrize("seeing", [False, True])
def test_each_node_uses_exactly_what_its_policy_grants(watcher: Watcher, tmp_path: Path, seeing: bool) -> None:
    if seeing:
        pictures_or_skip()
    system = (seeing_system_of if seeing else system_of)(watcher, tmp_path)
    # The visualizer listens only while somebody looks.
    for kind, topic in ((MarkerArray, "markers"), *(((Image, f"imagined/{CAMERA}"),) if seeing else ())):
        watcher.node.create_subscription(kind, topic, lambda message: None, qos_profile_sensor_data)
    # It listens to the one who drives, and may to either.
    granted = policies(watcher.namespace)
    granted["episode_manager"]["subscribe"].remove(f"/{watcher.namespace}/policy/controller")
    nodes = {p.name for p in system if isinstance(p, NodeProcess)} | {"monitor"}
    if not seeing:
        granted = {
            node: {verb: {name for name in names if CAMERA not in name.split("/")} for verb, names in grants.items()}
            for node, grants in granted.items()
        }
        assert set(granted) == nodes | {OPERATOR}, "an enclave for every node"
    expected = {node: granted[node] for node in nodes}

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
    for topic, publisher in (("command", "command_gate"), *sources, ("joint_states", "sim"), (f"{CAMERA}/image_raw", "sim")):
        assert {n for n, g in granted.items() if f"//{topic}" in g["publish"]} == {publisher}
    assert {n for n, g in granted.items() if "//command_gate/arm" in g["request"]} == {"episode_manager", OPERATOR}
    assert {n for n, g in granted.items() if "//estop" in g["publish"]} == {OPERATOR}


def test_no_grant_is_a_pattern() -> None:
    names = {name for grants in policies("").values() for names in grants.values() for name in names}
    assert len(names) > 50 and not [n for n in names if set(n) & set("*?[]")]
