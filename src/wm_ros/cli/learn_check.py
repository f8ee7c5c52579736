"""wm-ros learn-check: the demo over several seeds, held against the bar that the project sets itself."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_ros.cli.failure import RunFailure


@dataclass(frozen=True)
class LearnCheck:
    """Run the demo for several seeds and hold its evaluation returns, time and deadlines against the bar."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds to run, one after the other."""
    run_dir: Path = Path("runs/learn-check")
    """Folder of all runs; one folder per seed is made in it."""
    episodes: int = 5
    """Training episodes."""
    contract: str = "cartpole_swingup"
    """Contract of the task: a YAML file, or the name of a shipped one."""
    agent: str = "pets"
    """Agent configuration: a YAML file, or the name of one in config/agents."""
    resume: bool = False
    """Keep what an earlier check in the same folder found for seeds that came to their end."""
    median_return: float = 820.0
    """The median over seeds of each seed's mean evaluation return must reach this."""
    worst_return: float = 700.0
    """The mean evaluation return of every seed must reach this."""
    wall_s: float = 300.0
    """Longest time of one run, in seconds."""
    miss_fraction: float = 0.01
    """Largest share of missed deadlines in the real-time episodes."""

    results: Path | None = None
    """Folder for the evidence: CSV, JSON, picture and page, such as docs/results; none: only the table is printed."""

    def run(self) -> int:
        """Runs all seeds and prints a table; exit status 1 below the bar."""
        summaries = [(self.resume and self._summary(seed)) or self._demo(seed) for seed in self.seeds]
        print(table(summaries))
        if self.results is not None:
            from wm_ros.viz.learning_curve import write_results

            seeds = " ".join(map(str, self.seeds))
            command = f"wm-ros learn-check --contract {self.contract} --agent {self.agent} --seeds {seeds} --episodes {self.episodes}"
            name = f"{Path(self.contract).stem}_{Path(self.agent).stem}"
            for path in write_results(summaries, name, self.results, command, table(summaries)):
                print(f"written    {path}")
        faults = self.faults(summaries)
        for fault in faults:
            print(f"below the bar: {fault}")
        if not faults:
            print("the bar is reached")
        return 1 if faults else 0

    def faults(self, summaries: list[dict[str, Any]]) -> list[str]:
        """What of the bar is not reached."""
        means = {s["seed"]: statistics.fmean(s["evaluation_returns"]) for s in summaries}
        found = []
        median = statistics.median(means.values())
        if median < self.median_return:
            found.append(f"median return {median:.0f}, wanted {self.median_return:.0f}")
        worst = self.worst_return
        found += [f"seed {seed}: return {mean:.0f}, wanted {worst:.0f}" for seed, mean in means.items() if mean < worst]
        for summary in summaries:
            seed, wall_s, missed = summary["seed"], summary["wall_s"]["total"], summary["deadline_miss_fraction"]
            if wall_s > self.wall_s:
                found.append(f"seed {seed}: {wall_s:.0f} s, wanted {self.wall_s:.0f} s")
            if missed is None or missed > self.miss_fraction:
                found.append(f"seed {seed}: deadline misses {missed}, wanted at most {self.miss_fraction:.0%}")
        return found

    def _summary(self, seed: int) -> dict[str, Any] | None:
        """What an earlier check in the same folder found for this seed, if it came to its end."""
        path = self.run_dir / f"seed_{seed}" / "summary.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def _demo(self, seed: int) -> dict[str, Any]:
        folder = self.run_dir / f"seed_{seed}"
        command = [sys.executable, "-m", "wm_ros.cli", "demo", "--plain", "--seed", str(seed), "--episodes", str(self.episodes)]
        command += ["--run-dir", str(folder), "--contract", self.contract, "--agent", self.agent]
        status = subprocess.run(command, check=False).returncode
        if status in (130, -2):
            raise KeyboardInterrupt
        if status:
            raise RunFailure(f"the demo with seed {seed} ended with status {status}")
        return dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")))


def table(summaries: list[dict[str, Any]]) -> str:
    """A Markdown table with a row per seed."""
    rows = ["| seed | training returns | evaluation returns | mean | missed deadlines | time [s] |", "|---|---|---|---|---|---|"]
    for s in summaries:
        train, evaluated = (" ".join(f"{r:.0f}" for r in s[key]) for key in ("training_returns", "evaluation_returns"))
        mean = statistics.fmean(s["evaluation_returns"])
        missed = "not counted" if s["deadline_miss_fraction"] is None else f"{s['deadline_misses']} of {s['deadlines']}"
        rows.append(f"| {s['seed']} | {train} | {evaluated} | {mean:.0f} | {missed} | {s['wall_s']['total']:.0f} |")
    return "\n".join(rows)
