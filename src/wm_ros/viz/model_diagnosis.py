"""The pictures of a model's diagnosis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from wm_ros.viz import charts
from wm_ros.viz.theme import LIGHT

_DPI = 130
_WIDE = 4
_DASH = (0, (4, 3))


def write_plots(found: dict[str, Any], folder: Path, units: dict[str, str]) -> list[Path]:
    """Writes `error.png`, `calibration.png`, `growth.png` and, for an ensemble, `disagreement.png`.

    Args:
        found: `training.diagnose.Diagnosis` as plain data.
        folder: exists.
        units: of the observation columns.
    """
    wanted: list[tuple[str, Callable[[], Figure]]] = [
        ("error", lambda: _errors(found, units)),
        ("calibration", lambda: _calibration(found)),
        ("growth", lambda: _growth(found)),
    ]
    if found["disagreement"] is not None:
        wanted.append(("disagreement", lambda: _disagreement(found["disagreement"])))
    paths = []
    for name, draw in wanted:
        with charts.styled(LIGHT):
            figure = draw()
            figure.savefig(folder / f"{name}.png", dpi=_DPI, facecolor="white")
        paths.append(folder / f"{name}.png")
    return paths


def _panels(count: int) -> tuple[Figure, list[Any]]:
    wide = min(_WIDE, count)
    high = -(-count // wide)
    figure = charts.new_figure(max(4.5, 2.9 * wide), 0.3 + 2.2 * high, LIGHT)
    flat = list(figure.subplots(high, wide, squeeze=False).ravel())
    for axes in flat[count:]:
        axes.remove()
    for axes in flat[max(0, count - wide) : count]:
        axes.set_xlabel("horizon [s]")
    return figure, flat[:count]


def _errors(found: dict[str, Any], units: dict[str, str]) -> Figure:
    """Open-loop error, column by column, with that of all columns first and those of pictures last."""
    columns, cameras = found["columns"], found["pictures"]
    figure, panels = _panels(1 + len(columns) + len(cameras))
    time, rmse = found["horizon_s"], np.asarray(found["rmse"])
    panels[0].plot(time, found["normalized_rmse"], color=LIGHT.train, lw=2.0, marker="o", ms=2.5, label="model")
    panels[0].plot(time, found["unchanged"], color=LIGHT.muted, lw=1.2, ls=_DASH, label="nothing changes")
    panels[0].set_title("all columns")
    panels[0].set_ylabel("RMSE / deviation")
    panels[0].legend()
    for i, (axes, column) in enumerate(zip(panels[1:], columns, strict=False)):
        axes.plot(time, rmse[:, i], color=LIGHT.train, lw=2.0, marker="o", ms=2.5)
        axes.set_title(column)
        axes.set_ylabel(f"RMSE [{units[column]}]")
    for axes, (camera, pictures) in zip(panels[1 + len(columns) :], cameras.items(), strict=True):
        axes.plot(time, pictures["rmse"], color=LIGHT.train, lw=2.0, marker="o", ms=2.5)
        axes.plot(time, pictures["unchanged"], color=LIGHT.muted, lw=1.2, ls=_DASH)
        axes.set_title(f"pictures of {camera}")
        axes.set_ylabel("RMSE [1: black to white]")
    for axes in panels:
        axes.set_ylim(bottom=0)
    return figure


def _calibration(found: dict[str, Any]) -> Figure:
    """Share of what was recorded inside the predicted intervals; calibrated on the dashed lines."""
    figure, panels = _panels(1 + len(found["columns"]))
    colors = (LIGHT.evaluate, LIGHT.plan, LIGHT.train)
    for (percent, values), color in zip(found["coverage"].items(), colors, strict=True):
        shares = np.asarray(values)
        for i, axes in enumerate(panels):
            axes.axhline(int(percent) / 100, color=color, lw=0.9, ls=_DASH)
            shown = shares.mean(axis=1) if i == 0 else shares[:, i - 1]
            axes.plot(found["horizon_s"], shown, color=color, lw=1.8, label=f"{percent} %")
    for axes, title in zip(panels, ["all columns", *found["columns"]], strict=True):
        axes.set_title(title)
        axes.set_ylim(0, 1.02)
    panels[0].set_ylabel("share inside")
    panels[0].legend(loc="lower right", ncols=3)
    return figure


def _growth(found: dict[str, Any]) -> Figure:
    """The normalized error beside both laws of compounding, plain and on a logarithmic scale."""
    growth, error = found["growth"], np.asarray(found["normalized_rmse"])
    h = np.arange(1, len(error) + 1)
    linear = growth["linear_eps"] * h
    series = h if abs(growth["rate"] - 1) < 1e-9 else (growth["rate"] ** h - 1) / (growth["rate"] - 1)
    exponential = growth["eps"] * series
    figure = charts.new_figure(8.5, 3.4, LIGHT)
    for axes, scale in zip(figure.subplots(1, 2), ("linear", "log"), strict=True):
        axes.plot(h, error, color=LIGHT.ink, lw=0, marker="o", ms=3.5, label="measured")
        for values, color, label, name in (
            (linear, LIGHT.evaluate, f"ε h, ε = {growth['linear_eps']:.3g}", "linear"),
            (exponential, LIGHT.train, f"ε (Lʰ − 1)/(L − 1), ε = {growth['eps']:.3g}, L = {growth['rate']:.3f}", "exponential"),
        ):
            best = growth["better"] == name
            style: dict[str, Any] = {"lw": 2.0, "ls": "-"} if best else {"lw": 1.2, "ls": _DASH}
            axes.plot(h, values, color=color, label=label + (", better" if best else ""), **style)
        axes.set_yscale(scale)
        axes.set_xlabel("model steps h")
        axes.set_title("growth of the error" if scale == "linear" else "the same, logarithmic")
    figure.axes[0].set_ylabel("RMSE / deviation")
    figure.axes[0].set_ylim(bottom=0)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _disagreement(found: dict[str, Any]) -> Figure:
    """Mean disagreement over two planes of the state space; empty where nothing was recorded."""
    figure = charts.new_figure(9.0, 3.8, LIGHT)
    share = sum(found["principal_share"])
    titles = (f"over the principal components ({100 * share:.0f} % of the variance)", "over the columns with most disagreement")
    for axes, plane, title in zip(figure.subplots(1, 2), (found["principal"], found["plain"]), titles, strict=True):
        mean = np.array([[np.nan if v is None else v for v in row] for row in plane["mean"]])
        shown = axes.pcolormesh(*plane["edges"], mean.T, cmap="viridis", vmin=0.0, vmax=max(float(np.nanmax(mean)), 1e-12))
        axes.set_xlabel(plane["axes"][0])
        axes.set_ylabel(plane["axes"][1])
        axes.set_title(title)
        axes.grid(visible=False)
        figure.colorbar(shown, ax=axes, label="deviation over members / deviation recorded")
    return figure
