"""`make soak`: every fault of the table, many times, from a seeded schedule; writes what came of them into docs/reliability.md, and every
single time into docs/results/faults.csv, with the settings beside it in faults.json.

The schedule (order, and the phase of the control period at which each fault strikes) follows from the seed. Exit status 1 where one outcome
was wrong, or the invariant monitor saw an unsafe command.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path

import gl
import numpy as np
from fault.harness import Cell, Result, Scenario, Shape, play
from fault.link import why_not
from fault.scenarios import SCENARIOS

from wm_ros.bringup.domain import own_domain
from wm_ros.cli.versions import versions
from wm_ros.contract import schema

BEGIN, END = "<!-- {} -->", "<!-- end of {} -->"
MOST_PAUSE_PERIODS = 3.0
ROUND = 5
"""Every fault is played so often before any of them is played again: a run that is interrupted has most of the table."""


def schedule(scenarios: Iterable[Scenario], repeats: int, seed: int) -> list[tuple[Scenario, float]]:
    """(fault, pause before it in control periods), in rounds, and in groups that share the shape of a cell."""
    rng = np.random.default_rng(seed)
    shapes: dict[Shape, list[Scenario]] = {}
    for scenario in scenarios:
        shapes.setdefault(scenario.shape, []).append(scenario)
    planned = []
    for done in range(0, repeats, ROUND):
        for shape in shapes.values():
            group = shape * min(ROUND, repeats - done)
            planned += [(group[i], float(rng.uniform(0, MOST_PAUSE_PERIODS))) for i in rng.permutation(len(group))]
    return planned


def run(planned: list[tuple[Scenario, float]], folder: Path, seed: int = 0) -> list[Result]:
    """Plays the schedule, or what comes of it before Ctrl-C; a cell in which a fault could not be healed is replaced by a new one."""
    results: list[Result] = []
    cell: Cell | None = None
    made = 0
    try:
        for number, (scenario, pause) in enumerate(planned):
            try:
                if cell is None or cell.shape != scenario.shape:
                    if cell is not None:
                        cell.close()
                    cell, made = None, made + 1
                    place = folder / f"cell_{made}"
                    place.mkdir(parents=True)
                    cell = Cell(f"soak_{made}", place, scenario.shape, seed + made)
                result = play(cell, scenario, pause * cell.period_s)
            except AssertionError as error:
                result = Result(scenario, None, (str(error)[:300],))
                if cell is not None:
                    cell.close()
                cell = None
            results.append(result)
            took = "" if result.seconds is None else f" {1e3 * result.seconds:.0f} ms"
            wrong = "".join(f"\n    {w}" for w in result.violations)
            print(f"{number + 1}/{len(planned)} {scenario.name}:{took} {'WRONG' if wrong else 'as required'}{wrong}", flush=True)
    except KeyboardInterrupt:
        print(f"interrupted after {len(results)} of {len(planned)} faults: these count", flush=True)
    finally:
        if cell is not None:
            cell.close()
    return results


def run_apart(planned: list[tuple[Scenario, float]], folder: Path, seed: int) -> list[Result]:
    """As `run`, in a process of its own: a process keeps the transports with which its first participant began."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        played = pool.apply(_played, ([(s.name, pause) for s, pause in planned], folder / "apart", seed))
    return [Result(scenario, *found) for (scenario, _), found in zip(planned, played, strict=True)]


def _played(planned: list[tuple[str, float]], folder: Path, seed: int) -> list[tuple[float | None, tuple[str, ...]]]:
    by_name = {s.name: s for s in SCENARIOS}
    return [(r.seconds, r.violations) for r in run([(by_name[name], pause) for name, pause in planned], folder, seed)]


def table(results: list[Result], scenarios: Iterable[Scenario], period_s: float) -> str:
    """Markdown: a line per fault."""
    lines = ["| fault | must come of it | as required | median | p95 | max | due within | in time |", "|---|---|---|---|---|---|---|---|"]
    for scenario in scenarios:
        mine = [r for r in results if r.scenario is scenario]
        if not mine:
            continue
        times = [1e3 * r.seconds for r in mine if r.seconds is not None]
        figures = [f"{f(times):.0f} ms" for f in (np.median, lambda t: np.quantile(t, 0.95), max)] if times else ["", "", ""]
        limit = due_ms(scenario, period_s)
        due = ("", "") if limit is None else (f"{limit:.0f} ms", f"{sum(t <= limit for t in times)} of {len(times)}")
        good = sum(not r.violations for r in mine)
        cells = [scenario.injection, outcome(scenario), f"{good} of {len(mine)}", *figures, *due]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def named(parser: argparse.ArgumentParser, only: str, scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Those that `--only` names, with commas between them; all where it names none. An unknown name ends the program."""
    names = {n.strip() for n in only.split(",") if n.strip()}
    unknown = names - {s.name for s in scenarios}
    if unknown:
        parser.error(f"--only: no fault {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in scenarios)}")
    return [s for s in scenarios if not names or s.name in names]


def due_ms(scenario: Scenario, period_s: float) -> float | None:
    """Within which time the safe action is promised; None where it waits for something else."""
    return 1e3 * scenario.periods * period_s if scenario.outcome == "hold" and scenario.periods else None


def write_results(folder: Path, results: list[Result], config: dict[str, object], period_s: float) -> None:
    """faults.csv, a line for each fault that was played, and faults.json, what it was played with."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "faults.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["number", "fault", "outcome", "verdict", "ms_to_safe_action", "due_ms", "wrong"])
        for number, result in enumerate(results, 1):
            scenario, limit = result.scenario, due_ms(result.scenario, period_s)
            took = "" if result.seconds is None else f"{1e3 * result.seconds:.2f}"
            due = "" if limit is None else f"{limit:g}"
            verdict = "wrong" if result.violations else "as required"
            rows.writerow([number, scenario.name, scenario.outcome, verdict, took, due, "; ".join(result.violations)])
    record = {**config, "control_period_s": period_s, "processors": os.cpu_count(), "versions": versions()}
    (folder / "faults.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def outcome(scenario: Scenario) -> str:
    """What must come of a fault, in words."""
    words = {
        "hold": f"hold: {' or '.join(f'`{r}`' for r in scenario.reasons)}",
        "serves": "the controller goes on",
        "silent": "no command; the actuator's own timeout",
    }[scenario.outcome]
    return words + (", until armed again" if scenario.rearm else "") + (f"; `{scenario.told[0]}` tells" if scenario.told else "")


def write(page: Path, text: str, name: str = "soak") -> None:
    """Puts the text between the page's marks of that name."""
    begin, end = BEGIN.format(name), END.format(name)
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"{page}: has no {begin} … {end}")
    partial = page.with_suffix(".partial")
    partial.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
    partial.replace(page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20, help="of every fault")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule")
    parser.add_argument("--only", default="", help="names of faults, with commas between them; all by default")
    parser.add_argument("--write", type=Path, help="page that takes the table")
    parser.add_argument("--results", type=Path, help="folder that takes faults.csv and faults.json")
    given = parser.parse_args()
    chosen = named(parser, given.only, SCENARIOS)
    missing = "; ".join(filter(None, (why_not(), gl.fault())))
    left_out = [s.name for s in chosen if (s.shape.linked and why_not()) or (s.shape.seeing and gl.fault())]
    chosen = [s for s in chosen if s.name not in left_out]
    if left_out:
        print(f"not played: {', '.join(left_out)}: {missing}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="wm_ros_soak_"))
    started = time.monotonic()
    with own_domain(None, "soak") as domain:
        os.environ.update(ROS_DOMAIN_ID=str(domain), ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST", XDG_CACHE_HOME=str(folder / "cache"))
        planned = schedule(chosen, given.repeats, given.seed)
        linked = [p for p in planned if p[0].shape.linked]
        results = run_apart(linked, folder, given.seed) if linked else []
        results += run([p for p in planned if not p[0].shape.linked], folder, given.seed)
    wrong = sum(bool(r.violations) for r in results)
    command = f"`make soak REPEATS={given.repeats} SEED={given.seed}`, {datetime.now(timezone.utc):%Y-%m-%d}"
    part = "" if len(results) == len(planned) else f" of {len(planned)}, then interrupted,"
    head = (
        f"{command}, {os.cpu_count()} x {platform.machine()}, Python {platform.python_version()}: {len(results)} faults{part} in "
        f"{(time.monotonic() - started) / 60:.0f} min, {wrong} not as required."
    )
    if left_out:
        head += f" Not played: {', '.join(left_out)} ({missing})."
    period_s = schema.load("cartpole_swingup").control.period_s
    text = f"{head}\n\n{table(results, chosen, period_s)}"
    print(text)
    if given.results is not None:
        config = {
            "command": command,
            "repeats": given.repeats,
            "seed": given.seed,
            "faults": [s.name for s in chosen],
            "left_out": left_out,
        }
        write_results(given.results, results, config, period_s)
    if given.write is not None:
        write(given.write, text)
    if wrong:
        print(f"logs are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
