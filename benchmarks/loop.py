"""The control loop through the real nodes, sensor stamp to command received, beside a bare rclpy echo.

50, 100 and 200 Hz, with a policy (SAC's networks) and with MPC (the shipped PETS agent), on a quiet machine and with every processor kept
busy by a process of the same niceness. Weights are untrained: they cost what trained ones cost.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch

from wm_ros.agents.controller import Controller
from wm_ros.agents.pets import PetsController
from wm_ros.agents.sac import SacController
from wm_ros.bringup.domain import own_domain
from wm_ros.bringup.supervisor import Supervisor
from wm_ros.bringup.system import SINGLE_THREAD, NodeProcess, Process, Program, middleware_of_control_path
from wm_ros.cli.bench import Result, table
from wm_ros.cli.failure import RunFailure
from wm_ros.contract import schema
from wm_ros.contract.schema import Contract
from wm_ros.export import controller as export
from wm_ros.export.template import template
from wm_ros.training import config

RATES_HZ = (50.0, 100.0, 200.0)
DRIVERS: dict[str, tuple[str, Literal["mpc", "policy"]]] = {"policy": ("policy_server", "policy"), "mpc": ("mpc", "mpc")}
"""What drives → its node, and the source that the gate listens to."""


def planning(contract: Contract) -> Controller:
    """The shipped PETS agent; above 50 Hz its plan is shorter and narrower by the rate, so that it fits into a period."""
    pets, share = config.load("pets").pets, min(1.0, 50.0 / contract.control.rate_hz)
    planner = pets.planner
    planner = replace(planner, horizon=round(share * planner.horizon), candidates=round(share * planner.candidates))
    return PetsController(contract, replace(pets, planner=planner))


def acting(contract: Contract) -> Controller:
    """SAC's networks as shipped."""
    return SacController(contract, config.load_as("sac", config.SacAgentConfig).sac)


CONTROLLERS: dict[str, Callable[[Contract], Controller]] = {"policy": acting, "mpc": planning}
QUICK_RATES_HZ = (100.0,)
WARM_UP_S = 1.0
_POLL_S = 0.05
_HERE = Path(__file__).resolve().parent
ECHO = "echo"


@dataclass(frozen=True)
class Latency:
    """Of one run; times in milliseconds."""

    p50: float
    p99: float
    p999: float
    max: float
    jitter_p99: float
    """Of the time between two commands, beside the period."""
    misses: int
    """Sensor messages without a command within one period."""
    sent: int
    cpu: Mapping[str, float]
    """Process → share of one processor."""
    inference: float = 0.0
    """Median of one inference, as measured when the controller was written."""


def run(quick: bool, minutes: float | None = None, rates_hz: Sequence[float] = RATES_HZ) -> Iterator[Result]:
    """Every rate, driver and load, each beside an echo measured just before it; figures come as they are measured.

    Args:
        quick: 100 Hz on the machine as it is, three seconds each.
        minutes: of each run; 10 s where it is not given.
        rates_hz: to be measured, unless it is to be quick.
    """
    seconds = 3.0 if quick else 60.0 * minutes if minutes is not None else 10.0
    with own_domain(None, "bench loop") as domain, tempfile.TemporaryDirectory(prefix="wm_ros_bench_") as folder:
        environment = {**SINGLE_THREAD, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        for rate in QUICK_RATES_HZ if quick else rates_hz:
            bench = _Bench(Path(folder) / f"{rate:g}", rate, seconds, environment)
            for loaded in (False,) if quick else (False, True):
                echo = bench.echo("events", loaded)
                settings = {"rate_hz": rate, "seconds": seconds, "load": "every processor busy" if loaded else "none"}
                for driver in DRIVERS:
                    yield from _rows(f"{driver}, {rate:g} Hz{', busy' if loaded else ''}", bench.nodes(driver, loaded), echo, settings)
                if rate == 100.0 and not loaded:
                    default = bench.echo("single_threaded", loaded)
                    yield from _rows("echo with EventsExecutor.spin_once", echo, default, settings, "SingleThreadedExecutor.spin_once")


def page(records: list[dict[str, Any]]) -> str:
    """Markdown: one line per run in place of one per figure, and the plain table below it."""
    runs: dict[str, dict[str, dict[str, Any]]] = {}
    for record in records:
        name, _, part = record["name"].rpartition(", ")
        runs.setdefault(name, {})[part] = record
    columns = ["p50", "p99", "p99.9", "max"]
    lines = [
        "Milliseconds from a sensor's stamp to the arrival of the command, ours / bare echo; p99 of the jitter of the period; sensor",
        "messages without a command within one period; processor time of each process, as a share of one processor. Overhead is the p50",
        "less the echo's and less one inference.",
        "",
        f"| run | {' | '.join(columns)} | overhead | jitter | missed | processor |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, parts in runs.items():
        settings = parts["p50"]["settings"]
        figures = [f"{parts[c]['ours']:.2f} / {parts[c]['peer']:.2f}" for c in columns]
        overhead = f"{parts['p50']['ours'] - parts['p50']['peer'] - settings['inference_ms']:.2f}"
        jitter = f"{settings['jitter_p99_ms']:.2f} / {settings['jitter_p99_ms_peer']:.2f}"
        missed = f"{settings['misses']} of {settings['sent']} / {settings['misses_peer']}"
        lines.append(f"| {name} | {' | '.join(figures)} | {overhead} | {jitter} | {missed} | {settings['cpu']} |")
    return "\n".join([*lines, "", table(records)])


def _rows(name: str, ours: Latency, peer: Latency, settings: Mapping[str, Any], kind: str = "bare echo in EventsExecutor") -> list[Result]:
    measured = {
        "jitter_p99_ms": round(ours.jitter_p99, 3),
        "jitter_p99_ms_peer": round(peer.jitter_p99, 3),
        "misses": ours.misses,
        "misses_peer": peer.misses,
        "sent": ours.sent,
        "inference_ms": round(ours.inference, 3),
        "cpu": "; ".join(f"{process} {100 * share:.1f} %" for process, share in ours.cpu.items()),
    }
    figures = {"p50": (ours.p50, peer.p50), "p99": (ours.p99, peer.p99), "p99.9": (ours.p999, peer.p999), "max": (ours.max, peer.max)}
    version = f"rclpy {_rclpy_version()}, {kind}"
    return [
        Result(f"{name}, {part}", mine, theirs, version, "ms", higher_is_better=False, settings={**settings, **measured})
        for part, (mine, theirs) in figures.items()
    ]


class _Bench:
    """Everything for one rate: the contract at that rate, and controllers for it."""

    def __init__(self, folder: Path, rate_hz: float, seconds: float, environment: Mapping[str, str]) -> None:
        self._folder, self._seconds, self._environment = folder, seconds, environment
        folder.mkdir(parents=True)
        self._contract = folder / "contract.yaml"
        self._contract.write_text(_at_rate(rate_hz).canonical_json(), encoding="utf-8")  # JSON is YAML
        self._inference_ms: dict[str, float] = {}
        self._runs = 0

    def nodes(self, driver: str, loaded: bool) -> Latency:
        """Sensor → the driver's node → command_gate → command, each a process."""
        node, source = DRIVERS[driver]
        common = {"contract": str(self._contract), "mode": "realtime"}
        serving = {**common, "controller": str(self._controller(driver)), "threads": 1}
        apart = middleware_of_control_path(schema.load(self._contract), {**os.environ, **self._environment})
        nodes: list[Process] = [
            NodeProcess("command_gate", {**common, "source": source}, environment=apart),
            NodeProcess(node, serving, environment=apart),
        ]
        return replace(self._run(nodes, loaded, "--arm"), inference=self._inference_ms[driver])

    def _controller(self, driver: str) -> Path:
        path = self._folder / f"{driver}.onnx"
        if not path.is_file():
            contract = schema.load(self._contract)
            controller, generator = CONTROLLERS[driver](contract), torch.Generator().manual_seed(0)
            for module in controller.modules():
                if hasattr(module, "initialize"):
                    module.initialize(generator)
            written = export.write(path, template(controller, contract), controller, contract, export.Origin(version=1, seed=0))
            self._inference_ms[driver] = written.latency_p50_ms
        return path

    def echo(self, executor: str, loaded: bool) -> Latency:
        """Sensor → one bare rclpy node → command."""
        command = (sys.executable, str(_HERE / "loop_echo.py"), "--contract", str(self._contract), "--executor", executor)
        return self._run([Program(ECHO, command, required=True)], loaded)

    def _run(self, other_end: list[Process], loaded: bool, *options: str) -> Latency:
        self._runs += 1
        folder = self._folder / f"run_{self._runs}"
        out = folder / "latency.json"
        clock = (sys.executable, str(_HERE / "loop_clock.py"), "--contract", str(self._contract), "--seconds", str(self._seconds))
        clock += ("--warm-up", str(WARM_UP_S), "--out", str(out), *options)
        busy = (sys.executable, "-c", "while True: pass")
        load: list[Process] = [Program(f"load_{i}", busy) for i in range(os.cpu_count() or 1)] if loaded else []
        with Supervisor(folder, self._environment) as supervisor:
            supervisor.start([*other_end, *load, Program("clock", clock, required=True)])
            watched = {process.name: psutil.Process(supervisor.pid(process.name)) for process in other_end}
            used: dict[str, list[tuple[float, float]]] = {name: [] for name in watched}
            while "clock" in supervisor.names:
                for name, process in watched.items():
                    times = process.cpu_times()
                    used[name].append((time.monotonic(), times.user + times.system))
                for death in supervisor.poll():
                    if death.name != "clock" or death.status != 0:
                        raise RunFailure(f"bench loop: {death.describe()}")
                time.sleep(_POLL_S)
        return self._latency(json.loads(out.read_text()), {name: _share(samples, self._seconds) for name, samples in used.items()})

    def _latency(self, measured: Mapping[str, Any], cpu: Mapping[str, float]) -> Latency:
        sent, arrived = np.array(measured["sent_ns"]), np.array(measured["arrived_ns"])
        answered = arrived >= 0
        latencies = 1e-6 * (arrived - sent)[answered]
        if len(latencies) < 2:
            raise RunFailure("bench loop: no command came back in the measured time: the machine is too busy to measure on")
        period_ms = 1e3 * schema.load(self._contract).control.period_s
        p50, p99, p999 = (float(q) for q in np.quantile(latencies, [0.5, 0.99, 0.999]))
        # Between commands for two observations in a row; what is missing is counted as missed.
        jitter = np.abs(1e-6 * np.diff(arrived)[answered[1:] & answered[:-1]] - period_ms)
        missed = int((~answered).sum() + (latencies > period_ms).sum())
        return Latency(p50, p99, p999, float(latencies.max()), float(np.quantile(jitter, 0.99)), missed, len(sent), cpu)


def _share(samples: list[tuple[float, float]], seconds: float) -> float:
    """Processor time per second over the measured time, which is the last part of a run."""
    end, used = samples[-1]
    begin, before = next(sample for sample in samples if end - sample[0] <= seconds)
    return (used - before) / max(end - begin, 1e-6)


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
