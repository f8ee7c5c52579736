"""The other end of a node's topics and services, and the node itself as the process that users run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from wm_ros.contract.resources import share_directory

PATIENCE_S = 90.0
LOST_S = 20.0
"""rmw_fastrtps drops an answer where the server has not discovered the client's reader yet, and only warns: then it is asked again."""
Health = tuple[bytes, str, dict[str, str]]
"""Level, message and values of a node's diagnostics."""


class Peer:
    """A ROS node of the test in a namespace of its own, spun only while the test waits for something."""

    def __init__(self, name: str) -> None:
        self.namespace = f"{name}_{os.getpid()}"
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node: Node = rclpy.create_node("peer", namespace=self.namespace, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.health: dict[str, Health] = {}
        """Node → its newest diagnostics."""
        self.node.create_subscription(DiagnosticArray, "diagnostics", self._on_diagnostics, 100)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.health[status.name.rsplit("/", 1)[-1]] = (status.level, status.message, {v.key: v.value for v in status.values})

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Spins until the condition holds and gives its value."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s for {what}; diagnostics: {self.health}"
            self.executor.spin_once(timeout_sec=0.05)
        return value

    def fresh_health(self, node: str, condition: Callable[[bytes, str, dict[str, str]], Any], what: str) -> Health:
        """Diagnostics sent from now on that meet a condition."""
        self.health.pop(node, None)
        self.wait(lambda: node in self.health and condition(*self.health[node]), what)
        return self.health[node]

    def call(self, kind: Any, name: str, request: Any | None = None) -> Any:
        """Calls a service and gives its answer."""
        client = self.node.create_client(kind, name)
        try:
            self.wait(client.service_is_ready, f"service {name}")
            asked: list[tuple[float, Any]] = []

            def answer() -> Any:
                if not asked or time.monotonic() - asked[-1][0] > LOST_S:
                    asked.append((time.monotonic(), client.call_async(kind.Request() if request is None else request)))
                return next((future for _, future in asked if future.done()), None)

            return self.wait(answer, f"the answer of {name}").result()
        finally:
            self.node.destroy_client(client)

    def set(self, node: str, **values: Any) -> list[Any]:
        """Sets parameters of another node; gives its answers."""
        request = SetParameters.Request(parameters=[Parameter(k, value=v).to_parameter_msg() for k, v in values.items()])
        return list(self.call(SetParameters, f"{node}/set_parameters", request).results)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


class Process:
    """A node's process; its output is kept for the test."""

    def __init__(
        self,
        module: str,
        namespace: str,
        log: Path,
        *,
        around: Sequence[str] = (),
        remap: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **parameters: Any,
    ) -> None:
        """`around` is put before the command, such as nsenter; `remap` are FROM:=TO; `environment` is added to the present one."""
        self.log = log
        options = [word for k, v in parameters.items() for word in ("-p", f"{k}:={json.dumps(v) if isinstance(v, bool) else v}")]
        remaps = ["-r", f"__ns:=/{namespace}", "-r", f"/clock:=/{namespace}/clock", *(word for rule in remap for word in ("-r", rule))]
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [*around, sys.executable, "-m", f"wm_ros.nodes.{module}", "--ros-args", *remaps, *options],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )

    def stop(self, how: int = signal.SIGINT) -> int:
        """Ends the process and gives its status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    @property
    def output(self) -> str:
        return self.log.read_text()


@contextmanager
def running(module: str, namespace: str, log: Path, **parameters: Any) -> Iterator[Process]:
    """A node that runs meanwhile, and must have stopped cleanly when it is told to."""
    process = Process(module, namespace, log, **parameters)
    try:
        yield process
        status = process.stop()
        assert status == 0, f"{module} ended with status {status}:\n{process.output}"
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()


def contract_file(folder: Path, **changes: Any) -> Path:
    """The shipped contract with some of its parts changed, as a file."""
    data = yaml.safe_load((share_directory() / "config/contracts/cartpole_swingup.yaml").read_text())
    for part, fields in changes.items():
        data[part] = {**data[part], **fields} if isinstance(fields, dict) and part in data else fields
    path = folder / "contract.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path
