"""wm-ros demo: learn from nothing in lockstep simulation, then drive in real time with what was learned."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wm_ros.bringup.domain import own_domain, present_domain
from wm_ros.bringup.monitored import MonitoredSystem, SystemFailure
from wm_ros.bringup.system import SystemOptions, describe
from wm_ros.cli import run_folder
from wm_ros.cli.failure import RunFailure
from wm_ros.cli.record import Record
from wm_ros.cli.versions import versions
from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.runtime.agent_kind import SOURCES, kind_of
from wm_ros.runtime.confinement import inside
from wm_ros.runtime.signature import signature_path

if TYPE_CHECKING:
    from wm_ros.viz.console import Console

LEARN, EVALUATE, REPORT = "learn", "evaluate", "report"
SETTLE_S = 3.0
"""Longest wait after the last episode for the diagnostics that count it: they come at 1 Hz."""


@dataclass(frozen=True)
class Demo:
    """Learn a task from nothing and drive it in real time with the learned ONNX controller.

    All nodes run as processes of their own. Leaves bags, controller.onnx, report.html and summary.json in the run folder.
    """

    seed: int = 0
    """Seed of every random draw: start states, exploration, training, planning."""
    run_dir: Path = Path("runs/demo")
    """Folder of the run; an older one is moved aside."""
    episodes: int = 5
    """Training episodes."""
    evaluate: int = 3
    """Evaluation episodes in real time."""
    contract: str = "cartpole_swingup"
    """Contract of the task: a YAML file, or the name of a shipped one."""
    agent: str = "pets"
    """Agent configuration: a YAML file, or the name of one in config/agents."""
    params_file: str = ""
    """YAML file of node parameters, read after config/nodes.yaml."""
    plain: bool = False
    """Plain lines in place of the live picture, also on a terminal."""
    log_level: str = "info"
    """Least severe messages in the nodes' log files."""

    def run(self) -> int:
        """Runs the demo to its end."""
        if self.episodes < 1 or self.evaluate < 1:
            raise UserError("episodes, evaluate: at least 1 each")
        contract = schema.load(self.contract)
        if contract.simulator is None:
            raise UserError(f"contract {self.contract}: simulator: missing: the demo drives a simulated robot")
        wanted = present_domain() if os.environ.get("ROS_DOMAIN_ID") else None
        with own_domain(wanted, str(self.run_dir.resolve())) as domain:
            folder, moved = run_folder.fresh(self.run_dir)
            return _Run(self, contract, folder, moved, domain).run()


class _Run:
    """One demo under way."""

    def __init__(self, demo: Demo, contract: schema.Contract, folder: Path, moved: Path | None, domain: int) -> None:
        self.demo, self.contract, self.folder, self.moved = demo, contract, folder, moved
        self.environment = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        self.wall_s: dict[str, float] = {}
        self.controller = folder / "controller.onnx"
        self.summary = folder / "summary.json"

    def run(self) -> int:
        from wm_ros.viz.console import Console

        demo, started = self.demo, time.monotonic()
        console = Console(
            sys.stdout,
            demo.episodes,
            demo.evaluate,
            demo.plain,
            title=f"{self.contract.name}, seed {demo.seed}",
            episode_s=self.contract.episode.duration_s,
        )
        try:
            if self.moved is not None:
                console.note(f"the run before this one is in {_short(self.moved)}")
            learned = self._timed(console, LEARN, lambda: self._learn(console))
            evaluated = self._timed(console, EVALUATE, lambda: self._evaluate(console))
            self.wall_s["total"] = time.monotonic() - started
            self._write_summary(learned, evaluated)
            self._timed(console, REPORT, self._write_report)
            self.wall_s["total"] = time.monotonic() - started
            self._write_summary(learned, evaluated)
        except SystemFailure as failure:
            raise RunFailure(f"{failure}\nwhat was recorded is in {_short(self.folder)}") from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"everything has stopped; what was recorded is in {_short(self.folder)}") from None
        finally:
            console.close()
        self._say_result(learned, evaluated)
        return 0

    # ---- the phases -----------------------------------------------------------------------------------------------

    def _learn(self, console: Console) -> Record:
        options = self._options(mode="lockstep", train=True, episodes=self.demo.episodes)
        record = Record("train", self.demo.episodes, self._driver())
        with MonitoredSystem(describe(options), self._logs(LEARN), self.environment) as system:
            self._follow(system, record, console, lambda: record.learned)
        source = inside(self.folder / "models", record.model["path"], "model", "it must be this run's trainer that announces")
        # Renamed into place, so that a half-written controller never has the name of a whole one.
        partial = self.controller.with_suffix(".partial")
        shutil.copyfile(source, partial)
        partial.replace(self.controller)
        if signature_path(source).is_file():
            shutil.copyfile(signature_path(source), signature_path(self.controller))
        return record

    def _evaluate(self, console: Console) -> Record:
        options = self._options(
            mode="realtime", controller=str(self.controller), evaluate=self.demo.evaluate, first_episode=self.demo.episodes
        )
        record = Record("evaluate", self.demo.evaluate, self._driver())
        with MonitoredSystem(describe(options), self._logs(EVALUATE), self.environment) as system:
            self._follow(system, record, console, _settled(record))
        return record

    def _follow(self, system: MonitoredSystem, record: Record, console: Console, done: Callable[[], bool]) -> None:
        for event in system.events(record.awaited):
            if event["event"] == "respawn":
                console.note(event["data"]["text"])
                continue
            record.take(event)
            console.handle(event)
            if record.stopped:
                raise SystemFailure(f"{record.stopped}; logs are in {_short(system.supervisor.log_directory)}")
            if done():
                return

    def _options(self, **chosen: Any) -> SystemOptions:
        demo = self.demo
        return SystemOptions(
            contract=demo.contract,
            agent=demo.agent,
            seed=demo.seed,
            params_file=demo.params_file,
            run_directory=str(self.folder),
            log_level=demo.log_level,  # type: ignore[arg-type]
            **chosen,
        )

    def _driver(self) -> Literal["mpc", "policy_server"]:
        return "policy_server" if SOURCES[kind_of(self.demo.agent)] == "policy" else "mpc"

    def _logs(self, phase: str) -> Path:
        return self.folder / "logs" / phase

    def _timed(self, console: Console, phase: str, work: Callable[[], Any]) -> Any:
        console.phase(phase)
        started = time.monotonic()
        try:
            return work()
        finally:
            self.wall_s[phase] = time.monotonic() - started

    def _write_report(self) -> None:
        from wm_ros.viz.report import write_report

        write_report(self.folder)

    # ---- the result -----------------------------------------------------------------------------------------------

    def _write_summary(self, learned: Record, evaluated: Record) -> None:
        deadlines, misses = evaluated.deadlines()
        summary = {
            "seed": self.demo.seed,
            "training_returns": [round(r, 3) for r in learned.returns],
            "evaluation_returns": [round(r, 3) for r in evaluated.returns],
            "frames": learned.ticks * frames_per_tick(self.contract, self.demo.contract),
            "wall_s": {phase: round(seconds, 3) for phase, seconds in self.wall_s.items()},
            "latency_ms": evaluated.latency_ms(),
            "deadlines": deadlines,
            "deadline_misses": misses,
            "deadline_miss_fraction": misses / deadlines if deadlines else None,
            "versions": versions(),
            "contract_hash": self.contract.hash,
            "controller_sha256": evaluated.serving.get("sha256", ""),
            "agent": self.demo.agent,
            "mode": {LEARN: "lockstep", EVALUATE: "realtime"},
            "cpus": os.cpu_count(),
            "bags": [os.path.relpath(bag, self.folder) for bag in (*learned.bags, *evaluated.bags)],
        }
        partial = self.summary.with_suffix(".partial")
        partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        partial.replace(self.summary)

    def _say_result(self, learned: Record, evaluated: Record) -> None:
        deadlines, misses = evaluated.deadlines()
        returns = " ".join(f"{r:.0f}" for r in evaluated.returns)
        print(f"evaluation returns {returns} after {len(learned.returns)} training episodes, {self.wall_s['total']:.0f} s in all")
        if deadlines:
            print(f"deadlines missed {misses} of {deadlines}")
        print(f"controller {_short(self.controller)}\nreport     {_short(self.folder / 'report.html')}\nsummary    {_short(self.summary)}")


def _settled(record: Record) -> Callable[[], bool]:
    """True once the episodes are over and every node's diagnostics have been heard again, or should have been."""
    over: list[tuple[float, Counter[str]]] = []

    def done() -> bool:
        if not record.episodes_done:
            return False
        if not over:
            over.append((time.monotonic(), Counter(record.heard)))
        since, before = over[0]
        return all(record.heard[node] > count for node, count in before.items()) or time.monotonic() - since > SETTLE_S

    return done


def frames_per_tick(contract: schema.Contract, name: str) -> int:
    """Physics steps of the simulator in one control tick: what dm_control counts as frames."""
    from wm_ros.contract import resources
    from wm_ros.sim.mjcf import load_model

    assert contract.simulator is not None
    _, model = load_model(contract, resources.find("config/contracts", name, ".yaml").parent)
    return round(contract.control.period_s / float(model.opt.timestep))


def _short(path: Path) -> str:
    """A path as the user would type it."""
    shown = os.path.relpath(path)
    return str(path) if shown.startswith("..") else shown
