"""The evidence of a learning check: returns against frames for every seed, beside published curves, as CSV, picture and page."""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from wm_ros.contract.resources import share_directories

FRAMES_PER_EPISODE = 1000
"""Frames of 10 ms in an episode of 10 s, as dm_control counts them."""


def write_results(summaries: list[dict[str, Any]], name: str, directory: Path, command: str, table: str) -> list[Path]:
    """Writes `<name>.csv`, `<name>.json`, `<name>.png` and `<name>.md` into `directory`.

    Args:
        summaries: `summary.json` of the demo for each seed.
        name: of the files, such as `cartpole_swingup_pets`.
        directory: made where it is not there.
        command: what reproduces the figures.
        table: Markdown table of the runs.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{name}{suffix}" for suffix in (".csv", ".json", ".png", ".md")]
    rows = [row for summary in summaries for row in _rows(summary)]
    with paths[0].open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["seed", "purpose", "episode", "frames_learned_from", "return"])
        writer.writerows(rows)
    returns = ("seed", "training_returns", "evaluation_returns", "frames")
    timing = ("wall_s", "latency_ms", "deadlines", "deadline_misses", "cpus")
    facts = [{key: s.get(key) for key in (*returns, *timing, "contract_hash", "controller_sha256", "versions")} for s in summaries]
    paths[1].write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    _draw(rows, published(name), paths[2])
    means = [statistics.fmean(s["evaluation_returns"]) for s in summaries]
    paths[3].write_text(
        f"# {name}\n\n`{command}`\n\n{table}\n\n"
        f"Median over seeds of the mean evaluation return: **{statistics.median(means):.0f}**, worst seed **{min(means):.0f}**, "
        "on dm_control's scale of 0 to 1000. Evaluation runs in real time with the exported controller, node to node.\n\n"
        f"![Return against frames]({name}.png)\n\n"
        f"Rows: [{name}.csv]({name}.csv); latencies, versions and hashes: [{name}.json]({name}.json). "
        "Published curves count frames of 10 ms in the same way; their sources stand in the second column of the published CSV. "
        "The methods behind them learn the reward; PETS is given the contract's.\n",
        encoding="utf-8",
    )
    return paths


def published(name: str) -> dict[str, list[tuple[float, float]]]:
    """Published curves of the same task: method → (frames, return), mean over what `docs/results/<task>_published.csv` lists."""
    for share in share_directories():
        for path in sorted((share / "docs" / "results").glob("*_published.csv")):
            if name.startswith(path.name.removesuffix("_published.csv")):
                points: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
                with path.open(encoding="utf-8") as file:
                    for row in csv.DictReader(file):
                        points[row["method"]][float(row["env_frames"])].append(float(row["return_mean"]))
                return {m: [(x, statistics.fmean(y)) for x, y in sorted(by_frame.items())] for m, by_frame in sorted(points.items())}
    return {}


def published_of(contract: str) -> dict[str, list[tuple[float, float]]]:
    """`published` for the name of a contract, also one that an adapter made of a dm_control task."""
    return published(contract) or published(contract.removeprefix("dm_control_"))


def _rows(summary: dict[str, Any]) -> list[tuple[int, str, int, int, float]]:
    training = [(summary["seed"], "train", k, k * FRAMES_PER_EPISODE, value) for k, value in enumerate(summary["training_returns"])]
    learned = len(training) * FRAMES_PER_EPISODE
    return training + [
        (summary["seed"], "evaluate", len(training) + k, learned, value) for k, value in enumerate(summary["evaluation_returns"])
    ]


def _draw(rows: list[tuple[int, str, int, int, float]], others: dict[str, list[tuple[float, float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for method, points in others.items():
        shown = [(x, y) for x, y in points if x > 0]
        axes.plot(*zip(*shown, strict=True), lw=1.2, alpha=0.7, label=method)
    for seed in sorted({row[0] for row in rows}):
        curve = [(frames, value) for s, purpose, _, frames, value in rows if s == seed and purpose == "train" and frames]
        evaluated = [(frames, value) for s, purpose, _, frames, value in rows if s == seed and purpose == "evaluate"]
        curve += [(evaluated[0][0], statistics.fmean(v for _, v in evaluated))] if evaluated else []
        label = "PETS of wm_ros, one line per seed" if seed == rows[0][0] else None
        axes.plot(*zip(*curve, strict=True), color="black", lw=1, marker="o", ms=3, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("frames of 10 ms that the controller has learned from")
    axes.set_ylabel("return")
    axes.set_ylim(0, 1000)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=130)
