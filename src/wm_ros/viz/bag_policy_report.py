"""The report of a policy that was trained from bags: one HTML file that needs nothing else."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from wm_ros.contract.errors import UserError
from wm_ros.viz import charts, page
from wm_ros.viz.demo_state import plural
from wm_ros.viz.report import REPORT_NAME, WIDTH_IN
from wm_ros.viz.theme import STAND_INS

_FIGURES = {
    "critic_loss": "critics' squared error",
    "value": "value of the policy's actions",
    "entropy": "entropy of the policy",
    "temperature": "temperature",
    "spread": "what the model's members are apart",
    "drop_rate": "share of imagined ticks left out",
}


def write_bag_policy_report(folder: Path) -> Path:
    """Writes `report.html` beside the `metrics.json` and `metrics.csv` of such a training; it appears whole or not at all.

    Raises:
        UserError: a file cannot be read or written.
    """
    path = folder / REPORT_NAME
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        with (folder / "metrics.csv").open(encoding="utf-8") as file:
            looks = list(csv.DictReader(file))
        title = f"{metrics['contract'].replace('_', ' ')}: a policy from bags"
        learned = f"{plural(metrics['episodes'], 'episode')} with {plural(metrics['steps'], 'step')}"
        lead = f"{metrics['agent']} from {learned}, {plural(metrics['updates'], 'update')}. Seed {metrics['seed']}."
        parts = [page.heading(title, lead), _tiles(metrics), _penalty(metrics), _learning(looks), _data(metrics)]
        scratch = path.with_suffix(".html.part")
        scratch.write_text(page.page(title, "\n".join(parts)), encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        raise UserError(f"{error.filename or path}: {error.strerror}: mend this, then write the report with --resume") from None
    return path


def _tiles(metrics: dict[str, Any]) -> str:
    latency, seconds = metrics["latency_ms"], metrics["train_s"]
    return page.tiles([
        (f"{seconds:.0f}", "s", "of training"),
        ("–" if metrics["pessimism"] is None else f"{metrics['pessimism']:.3g}", "", "reward taken off for a spread of one"),
        (f"{latency['p50']:.2f} / {latency['p99']:.2f}", "ms", "inference p50 / p99"),
        (f"{metrics['parity']:.0e}", "", "largest difference of onnxruntime and torch"),
    ])


def _penalty(metrics: dict[str, Any]) -> str:
    title, choice = "What keeps the policy where the data are", metrics["pessimism_choice"]
    if metrics["pessimism"] is None:
        text = "Nothing: there is no model. What actions are worth that nobody took is a guess, and the policy takes the best guess."
        return page.section(title, text, "")
    if choice is None:
        return page.section(title, "The weight of the penalty on the members' spread was given in the settings.", "")
    text = (
        "The members' spread, times this weight, is taken off every reward. The weight is discount × errors per spread × range of the "
        f"returns, measured on {'held-out' if choice['held_out'] else 'learned'} ticks."
    )
    if not choice["held_out"]:
        text += " Nothing was held out, so the model was judged by what it has learned from, which flatters it."
    rows = [
        ("weight", f"{choice['weight']:.4g}"),
        (f"errors per spread, at {choice['coverage']:.0%} of the ticks", f"{choice['error_per_spread']:.3g}"),
        ("range of the recorded discounted returns", f"{choice['worth']:.3g}"),
        ("model's error, deviations of the targets", f"{choice['error']:.3g}"),
        ("spread, mean", f"{choice['spread']:.3g}"),
        ("ticks judged", f"{choice['ticks']}"),
    ]
    return page.section(title, text, page.facts(rows))


def _learning(looks: list[dict[str, str]]) -> str:
    text = "Means of 1000 updates each. A value that climbs past what the recordings can have returned is a model, or a critic, fooled."
    shown = [(key, title) for key, title in _FIGURES.items() if looks and key in looks[0]]
    if not shown:
        return page.section("Learning", text, page.missing("There was no update."))
    with charts.styled(STAND_INS):
        figure = charts.new_figure(WIDTH_IN, 2.3 * ((len(shown) + 1) // 2))
        for axes, (key, title) in zip(figure.subplots((len(shown) + 1) // 2, 2, sharex=True).flat, shown, strict=True):
            axes.plot([float(r["update"]) for r in looks], [float(r[key]) for r in looks], color=STAND_INS.train, lw=1.8, marker="o", ms=3)
            axes.set_title(title)
    return page.section("Learning", text, charts.inline_svg(figure, "losses and figures of the policy against updates"))


def _data(metrics: dict[str, Any]) -> str:
    rows = [(Path(bag["path"]).name, bag["sha256"][:12]) for bag in metrics["training_bags"]]
    keys = ("contract", "contract_hash", "threads")
    rows += [(key.replace("_", " "), str(metrics[key])) for key in keys]
    rows += [("held out", plural(len(metrics["held_out"]), "episode"))]
    rows += [("config", json.dumps(metrics["config"])), ("versions", json.dumps(metrics["versions"]))]
    refused = page.remarks([f"not used: {reason}" for reason in metrics["not_used"]]) if metrics["not_used"] else ""
    text = "What one needs to repeat it; bags with the beginning of their sha256."
    return page.section("Data and settings", text, page.facts(rows) + refused)
