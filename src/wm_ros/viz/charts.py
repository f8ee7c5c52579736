"""The charts of a run, drawn with matplotlib into given axes."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from wm_ros.contract.schema import Contract, Feature
from wm_ros.viz.run_record import EpisodeRecord, RunRecord, numbers, section
from wm_ros.viz.theme import STAND_INS, Theme, with_variables

Array = NDArray[np.float64]

PLAN_EVERY_TICKS = 10
MAX_PANELS = 4
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.7,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "wm_ros",
}


def new_figure(width: float, height: float, theme: Theme = STAND_INS) -> Figure:
    """An empty figure, `width` by `height` inches, in the style of all charts. Draw within `styled(theme)`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0.0)
    return figure


def styled(theme: Theme) -> Any:
    """A context in which axes have the theme's colors."""
    colors = {
        "text.color": theme.ink,
        "axes.labelcolor": theme.muted,
        "axes.titlecolor": theme.ink,
        "axes.edgecolor": theme.grid,
        "axes.facecolor": "none",
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "grid.color": theme.grid,
        "legend.labelcolor": theme.muted,
    }
    return matplotlib.rc_context({**STYLE, **colors})


def inline_svg(figure: Figure, label: str) -> str:
    """The figure as an `<svg>` element for a page, its colors as CSS variables."""
    out = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Fluid width; the viewBox keeps the shape.
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', "", svg, count=1)
    svg = re.sub(r"font(: [^;\"]*|-family: [^;\"]*)", lambda m: _plain_font(m.group(0)), svg)
    return with_variables(svg).replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _plain_font(declaration: str) -> str:
    """Leaves the size and takes the page's font, which is there on every machine."""
    return re.sub(r"('[^']*'(, )?)+(, )?(sans-serif)?", "inherit", declaration) if "'" in declaration else declaration


# ---- returns ----------------------------------------------------------------------------------------------------------


def draw_returns(axes: Any, record: RunRecord, theme: Theme) -> None:
    """Return per episode: learning as a line, evaluation apart from it."""
    train, evaluate = record.returns("train"), record.returns("evaluate")
    places = np.arange(1, len(train) + 1)
    if train:
        axes.plot(places, train, color=theme.train, lw=1.8, marker="o", ms=5, label="learning")
    if evaluate:
        where = len(train) + 1 + np.arange(len(evaluate))
        axes.axvspan(len(train) + 0.5, len(train) + len(evaluate) + 0.5, color=theme.evaluate, alpha=0.08, lw=0)
        axes.vlines(where, 0, evaluate, color=theme.evaluate, lw=1.2, alpha=0.5)
        axes.plot(where, evaluate, color=theme.evaluate, ls="", marker="D", ms=5.5, label="evaluation, in real time")
    for x, value in zip(np.arange(1, len(train) + len(evaluate) + 1), [*train, *evaluate], strict=True):
        axes.annotate(f"{value:.0f}", (x, value), (0, 6), textcoords="offset points", ha="center", fontsize=8, color=theme.ink)
    count = len(train) + len(evaluate)
    axes.set_xticks(np.arange(1, count + 1), [*map(str, places), *(f"E{i + 1}" for i in range(len(evaluate)))])
    axes.set_xlim(0.5, max(count, 1) + 0.5)
    axes.set_ylim(min(0.0, *train, *evaluate, 0.0), max([*train, *evaluate, 1.0]) * 1.15)
    axes.set_xlabel("episode")
    axes.grid(axis="x", visible=False)
    axes.set_title("return per episode")
    _legend_beside_title(axes)


# ---- prediction error -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenLoop:
    """Open-loop prediction error of a model."""

    version: int
    """The model that was measured."""
    horizon_s: Array
    """`[H]`."""
    columns: tuple[str, ...]
    rmse: Array
    """`[H, O]`, in the columns' units."""
    coverage_90: Array
    """`[H]`, share of truths within the predicted 90 % interval; may be empty."""
    normalized: Array
    """`[H]`, root mean square over columns of the error in standard deviations of the column; may be empty."""


def open_loop(metrics: dict[str, Any]) -> OpenLoop | None:
    """The open-loop part of a metrics.json, or None where it is missing or its sizes do not fit.

    A model is measured when the next one is trained, on the episode that has come since, for that one it has not seen.
    """
    part = section(metrics, "open_loop")
    horizon, rmse, coverage, normalized = (numbers(part.get(key)) for key in ("horizon_s", "rmse", "coverage_90", "normalized_rmse"))
    names, version = part.get("columns"), metrics.get("version")
    if not isinstance(names, list) or horizon.ndim != 1 or rmse.shape != (len(horizon), len(names)) or not rmse.size:
        return None
    return OpenLoop(
        version - 1 if isinstance(version, int) else -1,
        horizon,
        tuple(map(str, names)),
        rmse,
        coverage if coverage.shape == horizon.shape else np.empty(0),
        normalized if normalized.shape == horizon.shape else np.empty(0),
    )


def draw_errors(figure: Figure, models: Sequence[OpenLoop], contract: Contract | None, theme: Theme) -> None:
    """One panel for each column, the newest model over the fainter ones before it, and one for the calibration."""
    newest = models[-1]
    panels = len(newest.columns) + bool(len(newest.coverage_90))
    wide = min(3, panels)
    grid = figure.subplots(-(-panels // wide), wide, squeeze=False)
    units = {} if contract is None else {c: "" if f.encoding == "sin_cos" else f.units for f in features(contract) for c in f.columns}
    flat = grid.ravel()
    for i, (axes, name) in enumerate(zip(flat, newest.columns, strict=False)):
        for age, model in enumerate(reversed(models)):
            if model.columns == newest.columns:
                last = age == 0
                axes.plot(
                    model.horizon_s,
                    model.rmse[:, i],
                    color=theme.train,
                    lw=2.0 if last else 1.0,
                    alpha=1.0 if last else max(0.15, 0.5 - 0.08 * age),
                )
        axes.set_ylim(bottom=0)
        axes.set_title(name)
        unit = units.get(name, "")
        axes.set_ylabel(f"RMSE [{unit}]" if unit else "RMSE")
    if len(newest.coverage_90):
        axes = flat[len(newest.columns)]
        axes.axhline(0.9, color=theme.limit, lw=1.0, ls=(0, (4, 3)))
        axes.plot(newest.horizon_s, newest.coverage_90, color=theme.plan, lw=2.0)
        axes.set_ylim(0, 1.02)
        axes.set_title("inside the 90 % interval")
        axes.set_ylabel("share")
    for axes in flat[panels:]:
        axes.remove()
    for axes in flat[max(0, panels - wide) : panels]:
        axes.set_xlabel("horizon [s]")


def draw_error_summary(axes: Any, models: Sequence[OpenLoop], theme: Theme) -> None:
    """Error over the horizon in one line per model, columns together."""
    normalized = all(len(model.normalized) for model in models)
    scale = np.nanmax(models[-1].rmse, axis=0).clip(1e-9)
    for age, model in enumerate(reversed(models)):
        if model.columns != models[-1].columns:
            continue
        axes.plot(
            model.horizon_s,
            model.normalized if normalized else np.nanmean(model.rmse / scale, axis=1),
            color=theme.train,
            lw=2.0 if age == 0 else 1.0,
            alpha=1.0 if age == 0 else max(0.25, 0.6 - 0.1 * age),
            label=f"model {model.version}" if age in (0, len(models) - 1) else None,
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("horizon [s]")
    axes.set_ylabel("RMSE / standard deviation" if normalized else "RMSE, newest model's largest = 1")
    axes.set_title("open-loop prediction error")
    _legend_beside_title(axes)


# ---- timing -----------------------------------------------------------------------------------------------------------


def draw_latency(axes: Any, latency_ms: Array, period_ms: float, theme: Theme) -> None:
    """Histogram of the time from an observation's arrival to its command's."""
    _histogram(axes, latency_ms, theme.plan, 0.0)
    axes.axvline(period_ms, color=theme.limit, lw=1.2, ls=(0, (4, 3)))
    axes.annotate("control period", (period_ms, 1.0), (-4, -2), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8)
    axes.texts[-1].set(color=theme.limit, ha="right", va="top")
    p50, p99 = np.percentile(latency_ms, (50, 99))
    axes.set_title(f"observation to command: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    axes.set_xlabel("latency [ms]")


def draw_jitter(axes: Any, period_error_ms: Array, theme: Theme) -> None:
    """Histogram of command periods, as the difference to the control period."""
    _histogram(axes, period_error_ms, theme.train, None)
    axes.axvline(0.0, color=theme.muted, lw=1.0, ls=(0, (4, 3)))
    axes.set_title(f"jitter of the command's period: p99 {np.percentile(np.abs(period_error_ms), 99):.1f} ms")
    axes.set_xlabel("period minus control period [ms]")


def _histogram(axes: Any, values: Array, color: str, low: float | None) -> None:
    # A few late ones must be seen, but not squeeze the rest: they go to the last bin, which says so.
    bottom, top = np.percentile(values, (0.25, 99.75))
    span = max(top - bottom, 1e-3)
    lowest, highest = (bottom - 0.3 * span if low is None else low), top + 0.3 * span
    outside = int(((values < lowest) | (values > highest)).sum())
    axes.hist(values.clip(lowest, highest), bins=60, range=(lowest, highest), color=color, alpha=0.85, lw=0)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("ticks")
    axes.grid(axis="x", visible=False)
    axes.set_yticks([t for t in (0, 5, 10, 100, 1000, 10000) if t <= axes.get_ylim()[1]])
    axes.set_yticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:.0f}")
    if outside:
        axes.set_xlabel("")
        text = f"{outside} beyond, counted at the edge; worst {values[np.abs(values).argmax()]:.1f} ms"
        axes.annotate(text, (1.0, 0.8), xycoords="axes fraction", ha="right", fontsize=8)


# ---- trajectory -------------------------------------------------------------------------------------------------------


def features(contract: Contract) -> list[Feature]:
    """All features, in the order of the observation vector."""
    return [f for channel in contract.observation for f in channel.features]


def positions(contract: Contract) -> list[Feature]:
    """What is worth a panel: joint positions, or else the first features; angles first, since they tell the story."""
    found = [f for f in features(contract) if f.field == "position"] or features(contract)
    return sorted(found, key=lambda f: f.encoding != "sin_cos")[:MAX_PANELS]


def values_of(contract: Contract, feature: Feature, rows: Array) -> Array:
    """A feature `[...]` out of observation rows `[..., O]` (or longer ones), angles in (-pi, pi]."""
    columns = [contract.observation_names.index(c) for c in feature.columns]
    if len(columns) == 1:
        return rows[..., columns[0]]
    return np.arctan2(rows[..., columns[0]], rows[..., columns[1]])


def draw_trajectory(panels: Sequence[Any], episode: EpisodeRecord, contract: Contract, plan_period_s: float, theme: Theme) -> None:
    """Positions over time with the plans imagined on the way, then the actions.

    Args:
        panels: one for each of `positions`, and one more for the actions.
        episode: what happened, and its plans.
        contract: names and units.
        plan_period_s: time between the rows of a plan.
        theme: colors.
    """
    drawn = episode.plans[:: max(1, PLAN_EVERY_TICKS // _plan_spacing(episode))]
    for axes, feature in zip(panels, positions(contract), strict=False):
        actual = values_of(contract, feature, episode.observation)
        angle = feature.encoding == "sin_cos"
        if angle:
            actual = np.unwrap(actual)
            # Counted so that the end lies in (-pi, pi]: where a swing-up succeeds, upright is zero.
            actual -= 2 * np.pi * np.round(actual[-1] / (2 * np.pi))
        for i, plan in enumerate(drawn):
            imagined = np.concatenate([[actual[plan.tick]], values_of(contract, feature, plan.rows)])
            if angle:
                # From the angle that the plan starts from, whatever turn that is in.
                imagined = np.unwrap(imagined)
            time = episode.time[plan.tick] + plan_period_s * np.arange(len(imagined))
            axes.plot(time, imagined, color=theme.plan, lw=1.0, alpha=0.7, label="imagined" if i == 0 else None)
            axes.plot(time[:1], imagined[:1], color=theme.plan, marker="o", ms=2.2, alpha=0.8)
        axes.plot(episode.time, actual, color=theme.ink, lw=1.7, label="what happened")
        # A young model imagines anything; what happened must stay readable beside it.
        span = max(float(np.ptp(actual)), 1e-3)
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, float(actual.min()) - 0.5 * span), min(high, float(actual.max()) + 0.5 * span))
        axes.set_ylabel(feature.units)
        axes.set_title(f"{feature.joint or ''} {feature.field}".strip())
        if angle:
            _angle_ticks(axes, actual)
    axes = panels[-1]
    for i, joint in enumerate(contract.action.joints):
        axes.step(
            episode.time[:-1], episode.action[:, i], where="post", color=theme.train, lw=1.0, alpha=1.0 - 0.25 * min(i, 3), label=joint.name
        )
    axes.set_title("command" if len(contract.action.joints) > 1 else f"{contract.action.joints[0].name} {contract.action.interface}")
    axes.set_ylabel(contract.action.joints[0].units)
    if len(contract.action.joints) > 1:
        axes.legend(loc="upper right", ncols=4)
    for axes in panels:
        axes.set_xlim(0, episode.time[-1])
    for axes in panels[:-1]:
        axes.tick_params(labelbottom=False)
    panels[-1].set_xlabel("time [s]")
    _legend_beside_title(panels[0])


def _legend_beside_title(axes: Any) -> None:
    """Where it covers no data."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.97), ncols=3, borderaxespad=0.0)


def _plan_spacing(episode: EpisodeRecord) -> int:
    """Ticks between recorded plans."""
    ticks = np.array([p.tick for p in episode.plans])
    return max(1, round(float(np.median(np.diff(ticks))))) if len(ticks) > 1 else 1


def _angle_ticks(axes: Any, actual: Array) -> None:
    """Multiples of half a turn, as many as there is room for."""
    low, high = np.floor(actual.min() / np.pi), np.ceil(actual.max() / np.pi)
    step = max(1, round((high - low) / 4))
    turns = np.arange(low, high + 1, step)
    names = {0.0: "0", 1.0: "π", -1.0: "-π"}
    axes.set_yticks(turns * np.pi, [names.get(float(t), f"{t:.0f}π") for t in turns])
