"""`make soak`: every fault of the table, many times, from a seeded schedule; writes what came of them into docs/reliability.md.

The schedule (order, and the phase of the control period at which each fault strikes) follows from the seed. Exit status 1 where one outcome
was wrong, or the invariant monitor saw an unsafe command.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from fault.harness import Cell, Result, Scenario, play
from fault.scenarios import SCENARIOS

from wm_ros.bringup.domain import own_domain
from wm_ros.contract import schema

BEGIN, END = "<!-- soak -->", "<!-- end of soak -->"
MOST_PAUSE_PERIODS = 3.0


def schedule(scenarios: Iterable[Scenario], repeats: int, seed: int) -> list[tuple[Scenario, float]]:
    """(fault, pause before it in control periods), in groups that share a cell: its plant and nodes."""
    rng = np.random.default_rng(seed)
    groups: dict[tuple[str, tuple[str, ...]], list[Scenario]] = {}
    for scenario in scenarios:
        groups.setdefault((scenario.plant, scenario.others), []).extend([scenario] * repeats)
    return [(group[i], float(rng.uniform(0, MOST_PAUSE_PERIODS))) for group in groups.values() for i in rng.permutation(len(group))]


def run(planned: list[tuple[Scenario, float]], folder: Path) -> list[Result]:
    """Plays the schedule; a cell in which a fault could not be healed is replaced by a new one."""
    results: list[Result] = []
    cell: Cell | None = None
    shape: tuple[str, tuple[str, ...]] | None = None
    made = 0
    try:
        for number, (scenario, pause) in enumerate(planned):
            if cell is None or shape != (scenario.plant, scenario.others):
                if cell is not None:
                    cell.close()
                cell, shape, made = None, (scenario.plant, scenario.others), made + 1
                place = folder / f"cell_{made}"
                place.mkdir(parents=True)
                cell = Cell(f"soak_{made}", place, *shape)
            try:
                result = play(cell, scenario, pause * cell.period_s)
            except AssertionError as error:
                result = Result(scenario, None, (str(error)[:300],))
                cell.close()
                cell = None
            results.append(result)
            took = "" if result.seconds is None else f" {1e3 * result.seconds:.0f} ms"
            wrong = "".join(f"\n    {w}" for w in result.violations)
            print(f"{number + 1}/{len(planned)} {scenario.name}:{took} {'WRONG' if wrong else 'as required'}{wrong}", flush=True)
    finally:
        if cell is not None:
            cell.close()
    return results


def table(results: list[Result], scenarios: Iterable[Scenario], period_s: float) -> str:
    """Markdown: a line per fault."""
    lines = ["| fault | must come of it | as required | median | p95 | max | due within |", "|---|---|---|---|---|---|---|"]
    for scenario in scenarios:
        mine = [r for r in results if r.scenario is scenario]
        if not mine:
            continue
        times = [1e3 * r.seconds for r in mine if r.seconds is not None]
        figures = [f"{f(times):.0f} ms" for f in (np.median, lambda t: np.quantile(t, 0.95), max)] if times else ["", "", ""]
        due = f"{1e3 * scenario.periods * period_s:.0f} ms" if scenario.outcome == "hold" and scenario.periods else ""
        good = sum(not r.violations for r in mine)
        lines.append(f"| {scenario.injection} | {outcome(scenario)} | {good} of {len(mine)} | {' | '.join(figures)} | {due} |")
    return "\n".join(lines)


def outcome(scenario: Scenario) -> str:
    """What must come of a fault, in words."""
    words = {
        "hold": f"hold: {' or '.join(f'`{r}`' for r in scenario.reasons)}",
        "serves": "the controller goes on",
        "silent": "no command; the actuator's own timeout",
    }[scenario.outcome]
    return words + (", until armed again" if scenario.rearm else "") + (f"; `{scenario.told[0]}` tells" if scenario.told else "")


def write(page: Path, text: str) -> None:
    """Puts the text between the page's marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    partial = page.with_suffix(".partial")
    partial.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    partial.replace(page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20, help="of every fault")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule")
    parser.add_argument("--only", default="", help="names of faults, with commas between them; all by default")
    parser.add_argument("--write", type=Path, help="page that takes the table")
    given = parser.parse_args()
    names = {n.strip() for n in given.only.split(",") if n.strip()}
    unknown = names - {s.name for s in SCENARIOS}
    if unknown:
        parser.error(f"--only: no fault {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in SCENARIOS)}")
    chosen = [s for s in SCENARIOS if not names or s.name in names]
    folder = Path(tempfile.mkdtemp(prefix="wm_ros_soak_"))
    started = time.monotonic()
    with own_domain(None, "soak") as domain:
        os.environ.update(ROS_DOMAIN_ID=str(domain), ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
        results = run(schedule(chosen, given.repeats, given.seed), folder)
    wrong = sum(bool(r.violations) for r in results)
    command = f"`make soak REPEATS={given.repeats} SEED={given.seed}`, {datetime.now(timezone.utc):%Y-%m-%d}"
    head = (
        f"{command}, {os.cpu_count()} x {platform.machine()}, Python {platform.python_version()}: {len(results)} faults in "
        f"{(time.monotonic() - started) / 60:.0f} min, {wrong} not as required."
    )
    text = f"{head}\n\n{table(results, chosen, schema.load('cartpole_swingup').control.period_s)}"
    print(text)
    if given.write is not None:
        write(given.write, text)
    if wrong:
        print(f"logs are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
