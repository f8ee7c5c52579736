"""The report of a run: one HTML file that needs nothing else, and one picture for a README."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data.align import read_episodes
from wm_ros.runtime.controller import ControllerSession
from wm_ros.sim.render import render_frames
from wm_ros.viz import charts, imagined, page
from wm_ros.viz.charts import OpenLoop
from wm_ros.viz.demo_state import plural
from wm_ros.viz.drawing import drawing
from wm_ros.viz.run_record import EpisodeRecord, RunRecord, controllers, numbers, read_run, section
from wm_ros.viz.strip import draw_strip
from wm_ros.viz.theme import LIGHT, STAND_INS, Theme
from wm_ros.viz.video import Render, film

REPORT_NAME = "report.html"
WIDTH_IN = 10.0


def write_report(run_directory: Path, render: Render = render_frames) -> Path:
    """Writes `report.html` into a run directory; the file appears whole or not at all.

    What the run lacks (bags, plans, metrics, GL) is said in the report.

    Args:
        run_directory: as the demo leaves it.
        render: draws the pictures of the film; another one for tests.

    Raises:
        UserError: not a run directory, or it cannot be written to.
    """
    record = read_run(run_directory)
    name = record.contract.name.replace("_", " ") if record.contract is not None else run_directory.name
    body = "\n".join(
        [
            page.heading(f"{name}: report of a run", _lead(record)),
            page.tiles(list(_figures(record))),
            _show(record, render),
            _returns(record),
            _trajectory(record),
            _imagined(record),
            _errors(record),
            _timing(record),
            _models(record),
            _facts(record),
        ]
    )
    path = run_directory / REPORT_NAME
    scratch = path.with_suffix(".html.part")
    try:
        scratch.write_text(page.page(f"{name}: report", body), encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def write_picture(run_directory: Path, path: Path, theme: Theme = LIGHT) -> Path:
    """Writes the main picture of a run as PNG: the trajectory with its plans, the returns, the prediction error.

    Raises:
        UserError: not a run directory, or it has no recorded episode to draw.
    """
    record = read_run(run_directory)
    episode, contract = record.shown, record.contract
    if episode is None or contract is None:
        raise UserError(f"{run_directory}: no recorded episode in bags/, so there is no picture to draw: run the demo again")
    models = _open_loops(record)
    with charts.styled(theme):
        figure = charts.new_figure(WIDTH_IN, 7.2, theme)
        figure.patch.set(facecolor="#ffffff" if theme is LIGHT else "#12161d", alpha=1.0)
        parts: Any = figure.subfigures(3, 1, height_ratios=(0.4, 1.3, 1.0))
        top, upper, lower = parts
        for part in parts:
            part.patch.set_alpha(0.0)
        if contract.simulator is not None:
            draw_strip(top.subplots(), contract, episode, theme)
        panels = _panels(upper, contract)
        charts.draw_trajectory(panels, episode, contract, record.plan_period_s, theme)
        below = lower.subplots(1, 2 if models else 1, squeeze=False)[0]
        charts.draw_returns(below[0], record, theme)
        if models:
            charts.draw_error_summary(below[1], models, theme)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, format="png", dpi=150)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    return path


# ---- text -------------------------------------------------------------------------------------------------------------


def _lead(record: RunRecord) -> str:
    learned, evaluated = record.returns("train"), record.returns("evaluate")
    parts = [f"{len(learned)} learning {'episode' if len(learned) == 1 else 'episodes'} from nothing"]
    if evaluated:
        parts.append(
            f"then {len(evaluated)} evaluation {'episode' if len(evaluated) == 1 else 'episodes'} with the exported ONNX controller"
        )
    seed = record.summary.get("seed")
    return ", ".join(parts) + (f". Seed {seed}." if seed is not None else ".")


def _figures(record: RunRecord) -> Iterator[tuple[str, str, str]]:
    """Key figures, as many as there are."""
    evaluated, learned = record.returns("evaluate"), record.returns("train")
    if evaluated:
        yield f"{np.median(evaluated):.0f}", "", "median evaluation return"
    if learned:
        yield f"{max(learned):.0f}", f"in episode {int(np.argmax(learned)) + 1}", "best return while learning"
    wall = record.summary.get("wall_s")
    total = section(record.summary, "wall_s").get("total") if isinstance(wall, dict) else wall
    if isinstance(total, int | float):
        yield f"{total:.0f}", "s", "wall time in total"
    latency = _latencies(record)
    if len(latency):
        yield f"{np.percentile(latency, 50):.1f} / {np.percentile(latency, 99):.1f}", "ms", "observation to command, p50 / p99"
    missed = record.summary.get("deadline_miss_fraction")
    if isinstance(missed, int | float):
        yield f"{100 * missed:.2f}", "%", "missed deadlines"


def _returns(record: RunRecord) -> str:
    text = "Sum of the contract's reward over an episode. Each learning episode was driven by the newest model; E marks evaluation."
    if not (record.returns("train") or record.returns("evaluate")):
        return page.section("Return per episode", text, page.missing("No episode was recorded, and summary.json has no returns."))
    with charts.styled(STAND_INS):
        figure = charts.new_figure(WIDTH_IN, 3.2)
        charts.draw_returns(figure.subplots(), record, STAND_INS)
    return page.section("Return per episode", text, charts.inline_svg(figure, "return per episode"))


# ---- the film ---------------------------------------------------------------------------------------------------------


def _show(record: RunRecord, render: Render) -> str:
    episode, contract = record.shown, record.contract
    if episode is None or contract is None:
        return page.section("The robot", "", page.missing("No episode was recorded, so there is nothing to show."))
    title, what = "The robot", f"{_name(episode)}, return {episode.total:.0f}"
    plans = "Green: the way of the tip that the controller imagines at each moment." if episode.plans else ""
    try:
        data, mime, speed = film(contract, episode, render)
        faster = f", {speed:.1f} times as fast as it was" if speed > 1.05 else ""
        content = page.image(data, mime, what)
        if plans:
            content += f"<p></p><p>The same as a drawing. {plans}</p>" + drawing(contract, episode)
        return page.section(title, f"{what}. Rendered by MuJoCo from the recorded joint positions{faster}.", content)
    except UserError as error:
        why = str(error).splitlines()[0]
    try:
        text = f"{what}. A drawing from the recorded joint positions, since there is no film: {why}. {plans}"
        return page.section(title, text, drawing(contract, episode))
    except UserError as error:
        return page.section(title, what, page.missing(f"Neither film nor drawing: {str(error).splitlines()[0]}"))


def _name(episode: EpisodeRecord) -> str:
    kind = {"train": "Learning", "evaluate": "Evaluation"}.get(episode.purpose, "Recorded")
    driver = f", controller version {episode.version}" if episode.version >= 0 else ""
    return f"{kind} episode {episode.number}{driver}"


# ---- charts -----------------------------------------------------------------------------------------------------------


def _panels(figure: Any, contract: Contract) -> Any:
    """Axes of a trajectory: the positions, the first one tallest, and the actions."""
    count = len(charts.positions(contract))
    return figure.subplots(count + 1, 1, sharex=True, height_ratios=[1.5, *[1.0] * (count - 1), 0.8])


def _trajectory(record: RunRecord) -> str:
    title, episode, contract = "What happened, and what was imagined", record.shown, record.contract
    if episode is None or contract is None:
        return page.section(title, "", page.missing("No episode was recorded, so there is no trajectory."))
    with charts.styled(STAND_INS):
        figure = charts.new_figure(WIDTH_IN, 2.2 + 1.9 * len(charts.positions(contract)))
        panels = _panels(figure, contract)
        charts.draw_trajectory(panels, episode, contract, record.plan_period_s, STAND_INS)
    text = (
        f"{_name(episode)}. Green: every {charts.PLAN_EVERY_TICKS}th plan, drawn from where it was made. "
        "The closer to what happened then, the better the model; the controller plans anew at every tick."
    )
    note = "" if episode.plans else page.missing(f"No plan was recorded in {episode.bag}, so only what happened is drawn.")
    return page.section(title, text, note + charts.inline_svg(figure, "trajectory"))


def _imagined(record: RunRecord) -> str:
    """What cameras were imagined to show; nothing where no controller of the run imagines any."""
    episode, contract = record.shown, record.contract
    if episode is None or contract is None or not contract.images:
        return ""
    path = next((p for p in controllers(record.directory) if p.is_file()), None)
    if path is None:
        return ""
    title = "What the cameras showed, and what was imagined"
    try:
        session = ControllerSession.load(path, contract)
        if not session.imagines:
            return ""
        parts = [e for e in read_episodes(record.directory / "bags" / episode.bag, contract) if e.provenance.episode == episode.number]
        content = ""
        for channel in session.imagined_cameras:
            found = imagined.moments(session, max(parts, key=len), channel)
            if found:
                data = imagined.picture(found, contract.control.period_s, LIGHT, WIDTH_IN)
                content += page.image(data, "image/png", f"frames of the camera {channel}, and imagined ones")
    except UserError as error:
        return page.section(title, "", page.missing(str(error).splitlines()[0]))
    text = (
        f"{_name(episode)}. At some moments the future as {session.name} expected it, given what it had seen until then, and above it what "
        "the camera showed then. Computed anew from the bag."
    )
    return page.section(title, text, content or page.missing("The episode ends before the first imagined frame."))


def _open_loops(record: RunRecord) -> list[OpenLoop]:
    return [model for model in map(charts.open_loop, record.metrics) if model is not None]


def _errors(record: RunRecord) -> str:
    title, models = "Open-loop prediction error", _open_loops(record)
    text = (
        "A model predicts from one observation on, fed with the recorded actions and its own predictions, in an episode that it has not "
        "seen: the one that it drove. Root mean square in the columns' units; faint lines are earlier models."
    )
    if not models:
        return page.section(title, text, page.missing("No model left an open-loop measurement in models/*/metrics.json."))
    with charts.styled(STAND_INS):
        panels = len(models[-1].columns) + 1
        figure = charts.new_figure(WIDTH_IN, 0.4 + 2.3 * -(-panels // 3))
        charts.draw_errors(figure, models, record.contract, STAND_INS)
    return page.section(title, text, charts.inline_svg(figure, "open-loop prediction error against horizon"))


def _timed(record: RunRecord) -> list[EpisodeRecord]:
    """Episodes whose timing counts: evaluations run in real time, learning may run in lockstep."""
    return [e for e in (record.of("evaluate") or record.episodes) if len(e.latency_ms) > 1 and len(e.period_ms) > 1]


def _latencies(record: RunRecord) -> Any:
    return np.concatenate([np.empty(0), *(e.latency_ms for e in _timed(record))])


def _timing(record: RunRecord) -> str:
    title, timed, contract = "Timing", _timed(record), record.contract
    if not timed or contract is None:
        why = "No bag holds both observations and commands of mpc or policy_server, so latency and jitter are not known."
        return page.section(title, "", page.missing(why))
    period_ms = 1e3 * contract.control.period_s
    kind = "evaluation" if record.of("evaluate") else "recorded"
    pace = "" if record.of("evaluate") else " In lockstep, as in learning, the period is what the machine allows and not the robot's."
    text = (
        f"As the logger received the messages of {plural(len(timed), f'{kind} episode')}: from an observation to the command computed "
        f"from it, and between commands, beside the control period of {period_ms:g} ms.{pace}"
    )
    with charts.styled(STAND_INS):
        figure = charts.new_figure(WIDTH_IN, 2.9)
        left, right = figure.subplots(1, 2)
        charts.draw_latency(left, _latencies(record), period_ms, STAND_INS)
        charts.draw_jitter(right, np.concatenate([e.period_ms for e in timed]) - period_ms, STAND_INS)
    return page.section(title, text, charts.inline_svg(figure, "histograms of latency and jitter"))


# ---- tables -----------------------------------------------------------------------------------------------------------


def _models(record: RunRecord) -> str:
    if not record.metrics:
        return ""
    rows = []
    for metrics in record.metrics:
        latency, holdout = section(metrics, "latency_ms"), numbers(metrics.get("holdout_loss"))
        rows.append(
            [
                str(metrics.get("version", "")),
                str(metrics.get("episodes", "")),
                str(metrics.get("transitions", "")),
                _figure(metrics.get("train_s"), "{:.1f} s"),
                _figure(metrics.get("export_s"), "{:.2f} s"),
                _figure(float(np.nanmin(holdout)) if holdout.size and not np.isnan(holdout).all() else None, "{:.3g}"),
                _figure(metrics.get("parity"), "{:.1e}"),
                f"{_figure(latency.get('p50'), '{:.1f}')} / {_figure(latency.get('p99'), '{:.1f} ms')}",
            ]
        )
    header = ["model", "episodes", "transitions", "training", "export", "held-out loss", "parity", "inference p50 / p99"]
    text = "One row for each model; parity is the largest difference between torch and onnxruntime on the same inputs."
    return page.section("Models", text, page.table(header, rows))


def _figure(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) and not isinstance(value, bool) else "–"


def _facts(record: RunRecord) -> str:
    rows = list(_flat(record.summary))
    if record.contract is not None and "contract_hash" not in record.summary:
        rows.append(("contract_hash", record.contract.hash))
    content = page.facts(rows) if rows else page.missing("There is no summary.json.")
    if record.remarks:
        content += "<p></p><h2>Remarks</h2>" + page.remarks(record.remarks)
    return page.section("Run", str(record.directory), content)


def _flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """summary.json as (name, value), nested names joined by points."""
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list):
            yield name, ", ".join(_short(v) for v in value) or "none"
        else:
            yield name, _short(value)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
