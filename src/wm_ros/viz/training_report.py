"""The report of an offline training: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.viz import charts, page
from wm_ros.viz.demo_state import plural
from wm_ros.viz.report import REPORT_NAME, WIDTH_IN
from wm_ros.viz.run_record import numbers, section
from wm_ros.viz.theme import STAND_INS


def write_training_report(folder: Path, contract: Contract) -> Path:
    """Writes `report.html` beside the `metrics.json` of a training; the file appears whole or not at all.

    Args:
        folder: of the training.
        contract: that was trained for.

    Raises:
        UserError: a file cannot be read or written.
    """
    path = folder / REPORT_NAME
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        name = contract.name.replace("_", " ")
        lead = f"{plural(metrics['episodes'], 'episode')} with {plural(metrics['transitions'], 'step')}. Seed {metrics['seed']}."
        parts = [page.heading(f"{name}: training from bags", lead), _tiles(metrics), _errors(metrics, contract), _fit(metrics)]
        body = "\n".join([*parts, _data(metrics)])
        scratch = path.with_suffix(".html.part")
        scratch.write_text(page.page(f"{name}: training from bags", body), encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        raise UserError(f"{error.filename or path}: {error.strerror}: mend this, then write the report with --resume") from None
    return path


def _tiles(metrics: dict[str, Any]) -> str:
    figures = [(f"{metrics['train_s']:.0f}", "s", f"for {metrics['steps']} gradient steps")]
    held_out = section(metrics, "open_loop")
    if held_out:
        horizon = held_out["horizon_s"][-1]
        figures.append((f"{held_out['normalized_rmse'][-1]:.2f}", "deviations", f"error {horizon:.2f} s ahead, held-out episodes"))
        figures.append((f"{100 * float(np.mean(held_out['coverage_90'])):.0f}", "%", "of truths inside the 90 % interval"))
    latency = section(metrics, "latency_ms")
    figures.append((f"{latency['p50']:.1f} / {latency['p99']:.1f}", "ms", "inference p50 / p99"))
    figures.append((f"{metrics['parity']:.0e}", "", "largest difference of onnxruntime and torch"))
    return page.tiles(figures)


def _errors(metrics: dict[str, Any], contract: Contract) -> str:
    title, model = "Open-loop error and calibration", charts.open_loop(metrics)
    if model is None:
        why = "No held-out episode is as long as the planner looks ahead, so the model was not measured: give more or longer episodes."
        return page.section(title, "", page.missing(why))
    text = (
        f"The model predicts from one observation on, fed with the recorded actions and its own predictions, in {len(metrics['held_out'])} "
        "held-out episodes that it has not seen. Root mean square in the columns' units. The last panel is the calibration: the share of "
        "recorded values inside the predicted 90 % interval; below the dashed line the model is too sure of itself."
    )
    with charts.styled(STAND_INS):
        figure = charts.new_figure(WIDTH_IN, 0.4 + 2.3 * -(-(len(model.columns) + 1) // 3))
        charts.draw_errors(figure, [model], contract, STAND_INS)
    return page.section(title, text, charts.inline_svg(figure, "open-loop prediction error against horizon, and calibration"))


def _fit(metrics: dict[str, Any]) -> str:
    loss, error = numbers(metrics["train_loss"]), numbers(metrics["holdout_loss"])
    every, steps = metrics["config"]["fit"]["check_every"], metrics["steps"]
    at = np.minimum(every * np.arange(1, len(loss) + 1), steps)
    with charts.styled(STAND_INS):
        figure = charts.new_figure(WIDTH_IN, 2.9)
        left, right = figure.subplots(1, 2)
        left.plot(at, loss, color=STAND_INS.train, lw=1.8, marker="o", ms=3)
        left.set_title("training loss")
        right.plot(at, error, color=STAND_INS.evaluate, lw=1.8, marker="o", ms=3)
        right.set_yscale("log")
        right.set_title("one-step error on validation transitions")
        for axes in (left, right):
            axes.set_xlabel("gradient steps")
    text = "The weights of the lowest validation error are kept. Validation transitions come from the training episodes."
    return page.section("Fit", text, charts.inline_svg(figure, "training loss and validation error over gradient steps"))


def _data(metrics: dict[str, Any]) -> str:
    held = [[e["bag"], str(e["part"]), str(e["ticks"])] for e in metrics["held_out"]]
    content = page.facts([(b["path"], b["sha256"][:16]) for b in metrics["training_bags"]])
    if held:
        content += "<p></p><h2>Held out</h2>" + page.table(["bag", "part", "steps"], held)
    if metrics["not_used"]:
        content += "<p></p><h2>Not used</h2>" + page.remarks(metrics["not_used"])
    return page.section("Bags", "Learned from these, with the hash that stands in the controller.", content)
