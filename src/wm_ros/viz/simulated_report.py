"""The report of a training in simulation: one HTML file that needs nothing else."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

from wm_ros.contract.errors import UserError
from wm_ros.viz import charts, page
from wm_ros.viz.learning_curve import published_of
from wm_ros.viz.report import REPORT_NAME, WIDTH_IN
from wm_ros.viz.theme import STAND_INS

_FIGURES = {
    "critic_loss": "critics' squared error",
    "value": "value of the policy's actions",
    "entropy": "entropy of the policy",
    "temperature": "temperature",
}


def write_simulated_report(folder: Path) -> Path:
    """Writes `report.html` beside the `metrics.json`, `metrics.csv` and `returns.csv` of a training; it appears whole or not at all.

    Raises:
        UserError: a file cannot be read or written.
    """
    path = folder / REPORT_NAME
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        looks, episodes = (_read(folder / name) for name in ("metrics.csv", "returns.csv"))
        name = metrics["contract"].replace("_", " ")
        lead = f"{metrics['frames']} frames, {metrics['steps']} steps, {metrics['updates']} updates. Seed {metrics['seed']}."
        parts = [page.heading(f"{name}: training in simulation", lead), _tiles(metrics), _returns(metrics, looks, episodes)]
        body = "\n".join([*parts, _figures(looks), _facts(metrics)])
        scratch = path.with_suffix(".html.part")
        scratch.write_text(page.page(f"{name}: training in simulation", body), encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        raise UserError(f"{error.filename or path}: {error.strerror}: mend this, then write the report with --resume") from None
    return path


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _tiles(metrics: dict[str, Any]) -> str:
    latency, seconds = metrics["latency_ms"], max(metrics["train_s"], 1e-9)
    return page.tiles([
        (f"{metrics['mean_return']:.0f}", "", f"mean return of the last {metrics['evaluations']} evaluation episodes"),
        (f"{metrics['updates'] / seconds:.0f}", "1/s", f"gradient updates, over {seconds:.0f} s"),
        (f"{latency['p50']:.2f} / {latency['p99']:.2f}", "ms", "inference p50 / p99"),
        (f"{metrics['parity']:.0e}", "", "largest difference of onnxruntime and torch"),
    ])


def _returns(metrics: dict[str, Any], looks: list[dict[str, str]], episodes: list[dict[str, str]]) -> str:
    others = published_of(metrics["contract"])
    text = "Dots are single episodes: training with exploration, evaluation with the exported controller, without. The line is their mean."
    if others:
        text += " Thin lines are published curves of the same task; their sources stand in docs/results."
    with charts.styled(STAND_INS):
        figure = charts.new_figure(WIDTH_IN, 3.4)
        axes = figure.subplots()
        for purpose, color in (("train", STAND_INS.train), ("evaluate", STAND_INS.evaluate)):
            rows = [row for row in episodes if row["purpose"] == purpose]
            at, values = [float(r["frames"]) for r in rows], [float(r["total_reward"]) for r in rows]
            axes.scatter(at, values, s=7, alpha=0.5, color=color, label=purpose)
        axes.plot([float(r["frames"]) for r in looks], [float(r["mean_return"]) for r in looks], color=STAND_INS.evaluate, lw=1.8)
        for method, points in others.items():
            shown = [(x, y) for x, y in points if x <= 2 * metrics["frames"]]
            if len(shown) > 1:
                axes.plot(*zip(*shown, strict=True), lw=0.9, alpha=0.7, label=method)
        axes.set_xlabel("frames")
        axes.set_ylabel("return")
        axes.legend(fontsize=8)
    return page.section("Returns", text, charts.inline_svg(figure, "return against frames"))


def _figures(looks: list[dict[str, str]]) -> str:
    with charts.styled(STAND_INS):
        figure = charts.new_figure(WIDTH_IN, 4.6)
        for axes, (key, title) in zip(figure.subplots(2, 2, sharex=True).flat, _FIGURES.items(), strict=True):
            axes.plot([float(r["frames"]) for r in looks], [float(r[key]) for r in looks], color=STAND_INS.train, lw=1.8, marker="o", ms=3)
            axes.set_title(title)
    spread = statistics.median(float(r["entropy"]) for r in looks)
    text = f"Means between evaluations; entropy in nats of an action in half ranges, {spread:.2f} in the middle."
    return page.section("Learning", text, charts.inline_svg(figure, "losses, value, entropy and temperature against frames"))


def _facts(metrics: dict[str, Any]) -> str:
    keys = ("agent", "contract", "contract_hash", "frames_per_tick", "episodes", "simulators", "threads")
    rows = [(key.replace("_", " "), str(metrics[key])) for key in keys]
    rows += [("config", json.dumps(metrics["config"])), ("versions", json.dumps(metrics["versions"]))]
    return page.section("Settings", "What one needs to repeat it.", page.facts(rows))
