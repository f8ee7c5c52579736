"""The control loop through the real nodes, sensor stamp to command received, beside a bare rclpy echo."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median

import numpy as np

from wm_ros.agents.explorer import Explorer, ExplorerConfig
from wm_ros.bringup.domain import own_domain
from wm_ros.bringup.supervisor import Supervisor
from wm_ros.bringup.system import SINGLE_THREAD, NodeProcess, Process, Program
from wm_ros.cli.bench import Result
from wm_ros.cli.failure import RunFailure
from wm_ros.contract import schema
from wm_ros.contract.schema import Contract
from wm_ros.export import controller as export
from wm_ros.export.template import template

RATES_HZ = (50.0, 100.0)
WARM_UP_S = 1.0
_POLL_S = 0.05
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Latency:
    """Of one run, in milliseconds."""

    p50: float
    p99: float
    max: float
    answered: float
    """Share of the sensor messages that were answered with a command."""


def run(quick: bool) -> list[Result]:
    """Latencies at 50 and 100 Hz; the sides run one after the other, in turns."""
    seconds, repeats = (3.0, 1) if quick else (10.0, 5)
    results: list[Result] = []
    with own_domain(None, "bench loop") as domain, tempfile.TemporaryDirectory(prefix="wm_ros_bench_") as folder:
        environment = {**SINGLE_THREAD, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        for rate in RATES_HZ:
            bench = _Bench(Path(folder) / f"{rate:g}", rate, seconds, environment)
            sides: dict[str, Callable[[], Latency]] = {"ours": bench.nodes, "echo": lambda b=bench: b.echo("single_threaded")}  # type: ignore[misc]
            if rate == RATES_HZ[-1]:
                sides["events"] = lambda b=bench: b.echo("events")  # type: ignore[misc]
            found: dict[str, list[Latency]] = {name: [] for name in sides}
            for _ in range(repeats):
                for name, run in sides.items():
                    found[name].append(run())
            results += _results(found, {"rate_hz": rate, "seconds": seconds, "repeats": repeats})
    return results


def _results(found: Mapping[str, list[Latency]], settings: dict[str, float | int]) -> list[Result]:
    rclpy = f"rclpy {_rclpy_version()}"

    def rows(name: str, ours: str, peer: str, peer_version: str) -> list[Result]:
        answered = {f"answered_{side}": round(median(r.answered for r in found[key]), 4) for side, key in (("ours", ours), ("peer", peer))}
        return [
            Result(
                f"{name}, {settings['rate_hz']:g} Hz, {part}",
                median(getattr(r, part) for r in found[ours]),
                median(getattr(r, part) for r in found[peer]),
                peer_version,
                "ms",
                higher_is_better=False,
                settings={**settings, **answered},
            )
            for part in ("p50", "p99", "max")
        ]

    results = rows("sensor to command through mpc and gate", "ours", "echo", f"{rclpy}, bare echo: one node in place of two, no checks")
    if "events" in found:
        results += rows("echo with EventsExecutor.spin_once", "events", "echo", f"{rclpy}, SingleThreadedExecutor.spin_once")
    return results


class _Bench:
    """Everything for one rate: the contract at that rate, and a controller for it."""

    def __init__(self, folder: Path, rate_hz: float, seconds: float, environment: Mapping[str, str]) -> None:
        self._folder, self._seconds, self._environment = folder, seconds, environment
        folder.mkdir(parents=True)
        contract = _at_rate(rate_hz)
        self._contract = folder / "contract.yaml"
        self._contract.write_text(contract.canonical_json(), encoding="utf-8")  # JSON is YAML
        # The smallest real controller: what is measured is the way to and from it, not a plan.
        explorer = Explorer(contract, ExplorerConfig())
        self._controller = folder / "controller.onnx"
        export.write(self._controller, template(explorer, contract), explorer, contract, export.Origin(version=0, seed=0))
        self._runs = 0

    def nodes(self) -> Latency:
        """Sensor → mpc → command_gate → command, each a process."""
        common = {"contract": str(self._contract), "mode": "realtime"}
        return self._run(
            [
                NodeProcess("command_gate", common),
                NodeProcess("mpc", {**common, "controller": str(self._controller), "threads": 1}),
            ],
            "--arm",
        )

    def echo(self, executor: str) -> Latency:
        """Sensor → one bare rclpy node → command."""
        command = (sys.executable, str(_HERE / "loop_echo.py"), "--contract", str(self._contract), "--executor", executor)
        return self._run([Program("echo", command, required=True)])

    def _run(self, other_end: list[Process], *options: str) -> Latency:
        self._runs += 1
        folder = self._folder / f"run_{self._runs}"
        out = folder / "latency.json"
        clock = (sys.executable, str(_HERE / "loop_clock.py"), "--contract", str(self._contract), "--seconds", str(self._seconds))
        clock += ("--warm-up", str(WARM_UP_S), "--out", str(out), *options)
        with Supervisor(folder, self._environment) as supervisor:
            supervisor.start([*other_end, Program("clock", clock, required=True)])
            while "clock" in supervisor.names:
                for death in supervisor.poll():
                    if death.name != "clock" or death.status != 0:
                        raise RunFailure(f"bench loop: {death.describe()}")
                time.sleep(_POLL_S)
        measured = json.loads(out.read_text())
        latencies = np.array(measured["latency_ms"])
        if not len(latencies):
            raise RunFailure("bench loop: no command came back in the measured time: the machine is too busy to measure on")
        p50, p99 = np.quantile(latencies, [0.5, 0.99])
        return Latency(float(p50), float(p99), float(latencies.max()), len(latencies) / measured["sent"])


def _at_rate(rate_hz: float) -> Contract:
    data = schema.load("cartpole_swingup").model_dump(mode="json")
    data["control"]["rate_hz"] = rate_hz
    return schema.parse(data, "bench loop")


def _rclpy_version() -> str:
    for package in ("rclpy", "ros-rclpy"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
