"""The evidence of learning in simulation: evaluation returns against frames of every run, beside published curves."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wm_ros.contract.errors import UserError
from wm_ros.viz.learning_curve import published_of

Run = tuple[dict[str, Any], list[dict[str, str]]]
"""`metrics.json` and the rows of `metrics.csv` of one training."""


def read(folder: Path) -> Run:
    """A finished training of `wm-ros train --sim`.

    Raises:
        UserError: the folder holds none.
    """
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        with (folder / "metrics.csv").open(encoding="utf-8") as file:
            looks = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no finished training: {error}: finish it with `wm-ros train --out {folder} --resume`") from None
    if "frames" not in metrics or not looks or "mean_return" not in looks[0]:
        raise UserError(f"{folder}: a training from bags: curves are drawn of `wm-ros train --sim`")
    return metrics, looks


def write_curve(
    runs: list[Run],
    name: str,
    directory: Path,
    command: str,
    *,
    labels: Sequence[str] = (),
    bar: float | None = None,
    timed: bool = True,
    note: str = "",
) -> list[Path]:
    """Writes `<name>.csv`, `.json`, `.png` and `.md` into `directory`.

    Args:
        runs: of one task and agent, a seed each.
        name: of the files, such as `cartpole_swingup_sac`.
        directory: made where it is not there.
        command: what reproduces one of the runs; `SEED` stands for its seed, `LABEL` for its label.
        labels: one for each run, to compare settings or agents on one task: then only runs of one label must be alike.
        bar: return to count the frames to.
        timed: whether seconds and rates are written.
        note: a paragraph more for the page.

    Raises:
        UserError: the runs are of different tasks or settings, or two have one seed, or there are not as many labels.
    """
    if labels and len(labels) != len(runs):
        raise UserError(f"labels: {len(labels)} for {len(runs)} runs: give one for each")
    if labels:
        runs = [({"label": label, **metrics}, looks) for label, (metrics, looks) in zip(labels, runs, strict=True)]
    _check_alike(runs)
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{name}{suffix}" for suffix in (".csv", ".json", ".png", ".md")]
    with paths[0].open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        named = ["label", "seed"] if labels else ["seed"]
        writer.writerow([*named, "frames", "updates", "mean_return"])
        for metrics, looks in runs:
            run = [metrics[name] for name in named]
            writer.writerows([*run, r["frames"], r["updates"], f"{float(r['mean_return']):.6g}"] for r in looks)
    kept = [{k: v for k, v in metrics.items() if timed or k not in _TIMES} for metrics, _ in runs]
    paths[1].write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    others = published_of(runs[0][0]["contract"])
    _draw(runs, others, paths[2])
    paths[3].write_text(_page(runs, others, name, command, bar, timed, note), encoding="utf-8")
    return paths


def _label(metrics: dict[str, Any]) -> str:
    return str(metrics.get("label", ""))


def _check_alike(runs: list[Run]) -> None:
    of_label: dict[str, dict[str, Any]] = {}
    for metrics, _ in runs:
        for first, keys in ((runs[0][0], ("contract_hash",)), (of_label.setdefault(_label(metrics), metrics), ("config", "agent"))):
            other = next((key for key in keys if metrics[key] != first[key]), None)
            if other:
                which = f"seed {metrics['seed']} has another {other} than seed {first['seed']}"
                raise UserError(f"runs: {which}: give runs of one task and agent, or --labels to compare several agents on one task")
    seeds = [f"{_label(metrics)} {metrics['seed']}".strip() for metrics, _ in runs]
    if len(set(seeds)) != len(seeds):
        raise UserError(f"runs: the seeds {', '.join(seeds)} are not all different: give each run once")


_TIMES = ("train_s", "latency_ms")
"""What a busy machine spoils."""


def _points(looks: list[dict[str, str]]) -> list[tuple[float, float]]:
    return [(float(r["frames"]), float(r["mean_return"])) for r in looks]


def _draw(runs: list[Run], others: dict[str, list[tuple[float, float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    most = max(metrics["frames"] for metrics, _ in runs)
    for method, points in others.items():
        shown = [(x, y) for x, y in points if x <= 2 * most]
        if len(shown) > 1:
            axes.plot(*zip(*shown, strict=True), lw=1.2, alpha=0.7, label=method)
    colours: dict[str, str] = {}
    for metrics, looks in runs:
        label = _label(metrics)
        said = None if label in colours else label or f"{metrics['agent']} of wm_ros, one line per seed"
        colour = colours.setdefault(label, f"C{len(colours)}" if colours else "black")
        axes.plot(*zip(*_points(looks), strict=True), color=colour, lw=1, marker="o", ms=3, label=said)
    axes.set_xlabel("frames")
    axes.set_ylabel("mean evaluation return")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def _page(
    runs: list[Run], others: dict[str, list[tuple[float, float]]], name: str, command: str, bar: float | None, timed: bool, note: str
) -> str:
    labelled = "label" in runs[0][0]
    named = ["label", "seed"] if labelled else ["seed"]
    titles = [*named, "frames", "updates", "last return", "best return"]
    titles += ([] if bar is None else [f"frames to {bar:g}"]) + (["training [s]", "updates/s"] if timed else [])
    rows = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for metrics, looks in runs:
        returns = [y for _, y in _points(looks)]
        counted = [f"{metrics[what]}" for what in (*named, "frames", "updates")]
        figures = [*counted, f"{returns[-1]:.0f}", f"{max(returns):.0f}"]
        if bar is not None:
            figures.append(next((f"{x:.0f}" for x, y in _points(looks) if y >= bar), "not reached"))
        if timed:
            figures += [f"{metrics['train_s']:.0f}", f"{metrics['updates'] / max(metrics['train_s'], 1e-9):.0f}"]
        rows.append(f"| {' | '.join(figures)} |")
    last = [_points(looks)[-1][1] for _, looks in runs]
    first = runs[0][0]
    versions = ", ".join(f"{package} {version}" for package, version in first["versions"].items())
    most = max(metrics["frames"] for metrics, _ in runs)
    peers = [f"| {method} | {x:.0f} | {y:.0f} |" for method, points in others.items() for x, y in points if x == most]
    text = [f"# {name}", "", f"`{command}`", "", *rows, ""]
    if labelled:
        text += [f"{first['evaluations']} episodes an evaluation.", ""]
    else:
        text += [f"Mean over seeds of the last evaluation, {first['evaluations']} episodes each: **{statistics.fmean(last):.0f}**.", ""]
    if peers:
        text += ["Published, at the same number of frames:", "", "| method | frames | return |", "|---|---|---|", *peers, ""]
    text += [note, ""] if note else []
    text += [f"![Return against frames]({name}.png)", ""]
    text += [f"{versions}. Rows: [{name}.csv]({name}.csv); settings and hashes: [{name}.json]({name}.json).", ""]
    return "\n".join(text)
