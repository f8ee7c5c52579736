"""`make soak-hour`: a system that drives for an hour while faults of chance strike it, in real time or in lockstep.

For two thirds of the time no process is killed, so that what each of them needs of memory can be held against time; then they are, too.
What it looks at: the invariant monitor's verdict on every single command, the outcome that each fault must have, whether memory grows, and
whether the robot's stamps drift against the steady clock (in lockstep: whether every observation is one period after the last). Which
faults, in which order and after which pause follows from the seed. Exit status 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from fault.growth import Growth, MemoryWatch, drift_ms
from fault.harness import Cell, Scenario, Shape, play
from fault.scenarios import BASIC, BESIDE, NO_NEWS
from fault.soak import named, write
from std_srvs.srv import Trigger

from wm_ros.bringup.domain import own_domain
from wm_ros.cli.versions import versions

CALM = 2 / 3
"""Share of the time in which no process is killed."""
MOST_PAUSE_S = 4.0
"""Between two faults; drawn evenly from 0 on, where the command line says nothing else."""
KEPT = 100
"""Newest commands that stay in memory between two faults."""
LATENESS_EVERY_NS = 5_000_000_000
MOST_DRIFT_MS = 5.0
WAKE = (*NO_NEWS, "stale_plan")
GAP_NS = 1_000_000_000
"""A reset moves the robot's clock at least this far."""


def simulated(kind: str, outcome: str) -> Scenario:
    """A fault of the simulator's own."""

    def inject(cell: Cell) -> int:
        assert cell.set("sim", fault=kind)[0].successful
        return time.monotonic_ns()

    def heal(cell: Cell) -> None:
        assert cell.set("sim", fault="none")[0].successful

    return Scenario(f"sim_{kind}", f"sim: {kind}", inject, outcome, NO_NEWS if outcome == "hold" else (), heal=heal, periods=0.0)


def begun_anew(cell: Cell) -> None:
    cell.start("sim")
    cell.reset()


def picked(*names: str) -> tuple[Scenario, ...]:
    found = {s.name: s for s in BASIC}
    return tuple(found[name] for name in names)


EVERYWHERE = picked(
    "mpc_stopped", "gate_stopped", "logger_stopped", "episode_manager_stopped", "visualizer_stopped", "two_publishers", "estop", "disarmed",
    "controller_corrupt", "controller_truncated", "controller_foreign", "controller_elsewhere", "controller_nan", "controller_disagrees",
    "hundred_swaps",
)  # fmt: skip
KILLED = picked("mpc_killed", "gate_killed", "logger_killed", "episode_manager_killed", "visualizer_killed")


@dataclass(frozen=True)
class Kind:
    """What a soak is made of."""

    shape: Shape
    calm: tuple[Scenario, ...]
    rough: tuple[Scenario, ...]
    """In the last part, besides."""


KINDS = {
    "realtime": Kind(
        Shape("sim", BESIDE),
        (
            *EVERYWHERE,
            *picked("clock_paused", "clock_back", "clock_ahead", "mpc_stopped_clock_paused", "policy_server_stopped", "controller_slow"),
            *(simulated(kind, "hold") for kind in ("dropout", "stall", "nan", "missing_joint", "wrong_size", "backwards")),
            *(simulated(kind, "serves") for kind in ("freeze", "permute", "command_loss")),
        ),
        (*KILLED, *picked("sim_stopped", "sim_killed", "policy_server_killed", "two_stacks", "mpc_woken", "all_killed")),
    ),
    "lockstep": Kind(
        Shape("sim", ("logger", "episode_manager", "visualizer"), lockstep=True),
        (*EVERYWHERE, *(replace(s, outcome="silent", reasons=()) for s in picked("sim_stopped"))),
        (*KILLED, *(replace(s, outcome="silent", reasons=(), heal=begun_anew) for s in picked("sim_killed"))),
    ),
}


@dataclass
class Log:
    """What has been seen."""

    lockstep: bool
    period_ns: int
    commands: int = 0
    unsafe: Counter[str] = field(default_factory=Counter)
    played: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    out_of_step: int = 0
    """Lockstep: commands for another observation than the next, the same, or the first after a reset."""
    lateness: list[tuple[float, float]] = field(default_factory=list)
    _last_stamp_ns: int = 0
    _bucket_ns: int = 0

    def take(self, cell: Cell, calm: bool) -> None:
        """Judges the commands that have come, and forgets them."""
        count = max(0, len(cell.commands) - KEPT)
        taken = cell.commands[:count]
        del cell.commands[:count]
        for command in taken:
            self.commands += 1
            self.unsafe.update(command.faults)
            step, self._last_stamp_ns = command.stamp_ns - self._last_stamp_ns, command.stamp_ns
            if self.lockstep:
                self.out_of_step += calm and step not in (0, self.period_ns) and step < GAP_NS
            elif calm:
                self._note_lateness(command.t_ns, command.t_ns - command.stamp_ns)

    def _note_lateness(self, t_ns: int, late_ns: int) -> None:
        if t_ns - self._bucket_ns > LATENESS_EVERY_NS:
            self._bucket_ns = t_ns
            self.lateness.append((1e-9 * t_ns, 1e-9 * late_ns))
        elif self.lateness and 1e-9 * late_ns < self.lateness[-1][1]:
            self.lateness[-1] = (1e-9 * t_ns, 1e-9 * late_ns)


def soak(
    kind: Kind, minutes: float, seed: int, folder: Path, say: Callable[[str], None], most_pause_s: float = MOST_PAUSE_S
) -> tuple[Log, list[Growth]]:
    """Drives, strikes and watches until the time is over."""
    rng = np.random.default_rng(seed)
    cell = Cell("long_soak", folder, kind.shape, seed)
    watch = MemoryWatch(lambda: {name: p.process.pid for name, p in dict(cell.processes).items()})
    log = Log(kind.shape.lockstep, cell.contract.control.period_ns)
    begin = time.monotonic()
    try:
        record(cell)
        while (gone := (time.monotonic() - begin) / (60.0 * minutes)) < 1.0:
            scenarios: Sequence[Scenario] = kind.calm if gone < CALM else (*kind.calm, *kind.rough)
            scenario = scenarios[rng.integers(len(scenarios))]
            # What a fault is called is the table's affair. Here one may strike in the wake of another, and the gate names the first.
            scenario = replace(scenario, reasons=(*scenario.reasons, *WAKE) if scenario.outcome == "hold" else ())
            result = play(cell, scenario, float(rng.uniform(0.0, most_pause_s)))
            log.played[scenario.name] += 1
            log.wrong += [f"{scenario.name}: {w}" for w in result.violations]
            say(f"{60 * minutes * gone:.0f} s {scenario.name} {'; '.join(result.violations) or 'as required'}")
            log.take(cell, gone < CALM)
            if sum(log.played.values()) % 20 == 0:
                record(cell)
    except AssertionError as error:
        log.wrong.append(str(error)[:500])
        say(log.wrong[-1])
    finally:
        memory = watch.close()
        log.take(cell, False)
        cell.close()
    return log, memory


def record(cell: Cell) -> None:
    """Ends the bag that is being written, if any, drops it, and begins the next."""
    cell.ask(Trigger, "logger/stop", Trigger.Request())
    for bag in (cell.folder / "bags").glob("*"):
        shutil.rmtree(bag, ignore_errors=True)
    cell.ask(Trigger, "logger/start", Trigger.Request())


def page(log: Log, memory: list[Growth], head: str, drift: str) -> str:
    """Markdown."""
    verdict = [
        f"{sum(log.played.values())} faults, {len(log.wrong)} outcomes not as required",
        f"{sum(log.unsafe.values())} unsafe commands",
    ]
    lines = [f"{head} {log.commands} commands; {'; '.join(verdict)}; {drift}.", ""]
    lines += ["| node | judged over | private memory at the end | grown | per hour |", "|---|---|---|---|---|"]
    lines += [f"| {g.node} | {g.minutes:.1f} min | {g.mb:.0f} MB | {g.grown_mb:+.2f} MB | {g.mb_per_hour:+.1f} MB |" for g in memory]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=tuple(KINDS), required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--priority", type=int, default=0, help="realtime_priority of the control path, for a machine that does other work")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule")
    parser.add_argument("--only", default="", help="names of faults, with commas between them; all of the mode by default")
    parser.add_argument("--pause", type=float, default=MOST_PAUSE_S, help="longest pause between two faults, s")
    parser.add_argument("--write", type=Path, help="page that takes the table")
    parser.add_argument("--results", type=Path, help="folder that takes soak_MODE.json")
    given = parser.parse_args()
    kind = KINDS[given.mode]
    if given.only:
        kind = replace(kind, calm=tuple(named(parser, given.only, (*kind.calm, *kind.rough))), rough=())
    folder = Path(tempfile.mkdtemp(prefix="wm_ros_long_soak_"))
    begin = time.monotonic()
    with own_domain(None, "long soak") as domain:
        os.environ.update(ROS_DOMAIN_ID=str(domain), ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST", XDG_CACHE_HOME=str(folder / "cache"))
        # At real-time priority a controller that never pauses starves whoever could replace it.
        calm = tuple(s for s in kind.calm if not (given.priority and s.name == "controller_slow"))
        kind = replace(kind, shape=replace(kind.shape, priority=given.priority), calm=calm)
        log, memory = soak(kind, given.minutes, given.seed, folder, lambda text: print(text, flush=True), given.pause)
    minutes = (time.monotonic() - begin) / 60.0
    command = f"make soak-hour MODES={given.mode} MINUTES={given.minutes:g} SEED={given.seed} PRIORITY={given.priority}"
    if given.only or given.pause != MOST_PAUSE_S:
        command += f", with --only '{given.only}' --pause {given.pause:g}"
    head = f"`{command}`, {datetime.now(timezone.utc):%Y-%m-%d}, {os.cpu_count()} processors, {minutes:.1f} min:"
    moved = drift_ms(log.lateness) if len(log.lateness) >= 8 else None
    if log.lockstep:
        drift = f"{log.out_of_step} stamps out of step"
    else:
        drift = "too short to judge the clock" if moved is None else f"the robot's clock moved {moved:+.2f} ms against the steady clock"
    text = page(log, memory, head, drift)
    print(text)
    drifted = bool(log.out_of_step) or (moved is not None and abs(moved) > MOST_DRIFT_MS)
    wrong = bool(log.wrong or log.unsafe or drifted or any(g.leaks for g in memory))
    if given.results is not None:
        config = {
            "command": command,
            "mode": given.mode,
            "minutes": given.minutes,
            "seed": given.seed,
            "priority": given.priority,
            "minutes_run": round(minutes, 2),
        }
        found = {
            "as_required": not wrong,
            "commands": log.commands,
            "faults": dict(sorted(log.played.items())),
            "wrong": log.wrong,
            "unsafe": dict(log.unsafe),
            "drift_ms": moved,
            "stamps_out_of_step": log.out_of_step,
            "memory": [{**asdict(g), "mb_per_hour": g.mb_per_hour, "leaks": g.leaks} for g in memory],
        }
        machine = {"processors": os.cpu_count(), "load_average": os.getloadavg(), "versions": versions()}
        given.results.mkdir(parents=True, exist_ok=True)
        (given.results / f"soak_{given.mode}.json").write_text(
            json.dumps({**config, **found, **machine}, indent=2) + "\n", encoding="utf-8"
        )
    if given.write is not None:
        write(given.write, text, f"soak {given.mode}")
    if wrong:
        print(f"logs are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
