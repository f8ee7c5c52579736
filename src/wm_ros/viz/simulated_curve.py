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
    labels = list(labels) or [""] * len(runs)
    _check_alike(runs, labels)
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{name}{suffix}" for suffix in (".csv", ".json", ".png", ".md")]
    with paths[0].open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        labelled = any(labels)
        writer.writerow([*["label"] * labelled, "seed", "frames", "updates", "mean_return"])
        for label, (metrics, looks) in zip(labels, runs, strict=True):
            begins = [*[label] * labelled, metrics["seed"]]
            writer.writerows([*begins, r["frames"], r["updates"], f"{float(r['mean_return']):.6g}"] for r in looks)
    kept = [
        ({"label": label} if label else {}) | {k: v for k, v in metrics.items() if timed or k not in _TIMES}
        for label, (metrics, _) in zip(labels, runs, strict=True)
    ]
    paths[1].write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    others = published_of(runs[0][0]["contract"])
    _draw(runs, labels, others, paths[2])
    paths[3].write_text(_page(runs, labels, others, name, command, bar, timed, note), encoding="utf-8")
    return paths


def _check_alike(runs: list[Run], labels: list[str]) -> None:
    of_label: dict[str, dict[str, Any]] = {}
    for label, (metrics, _) in zip(labels, runs, strict=True):
        first = of_label.setdefault(label, metrics)
        other = next((key for key in ("config", "agent") if metrics[key] != first[key]), None)
        if metrics["contract_hash"] != runs[0][0]["contract_hash"]:
            first, other = runs[0][0], "contract_hash"
        if other:
            which = f"seed {metrics['seed']} has another {other} than seed {first['seed']}"
            raise UserError(f"runs: {which}: give runs of one task and agent, or --labels to compare several agents on one task")
    seeds = [f"{label} {metrics['seed']}".strip() for label, (metrics, _) in zip(labels, runs, strict=True)]
    if len(set(seeds)) != len(seeds):
        raise UserError(f"runs: the seeds {', '.join(seeds)} are not all different: give each run once")


_TIMES = ("train_s", "latency_ms")
"""What a busy machine spoils."""


def _points(looks: list[dict[str, str]]) -> list[tuple[float, float]]:
    return [(float(r["frames"]), float(r["mean_return"])) for r in looks]


def _draw(runs: list[Run], labels: list[str], others: dict[str, list[tuple[float, float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    most = max(metrics["frames"] for metrics, _ in runs)
    for method, points in others.items():
        shown = [(x, y) for x, y in points if x <= 2 * most]
        if len(shown) > 1:
            axes.plot(*zip(*shown, strict=True), lw=1.2, alpha=0.7, label=method)
    colours = {label: "black" if label == labels[0] else f"C{i}" for i, label in enumerate(dict.fromkeys(labels))}
    for i, (label, (metrics, looks)) in enumerate(zip(labels, runs, strict=True)):
        said = (label or f"{metrics['agent']} of wm_ros, one line per seed") if label not in labels[:i] else None
        axes.plot(*zip(*_points(looks), strict=True), color=colours[label], lw=1, marker="o", ms=3, label=said)
    axes.set_xlabel("frames")
    axes.set_ylabel("mean evaluation return")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def _page(
    runs: list[Run],
    labels: list[str],
    others: dict[str, list[tuple[float, float]]],
    name: str,
    command: str,
    bar: float | None,
    timed: bool,
    note: str,
) -> str:
    labelled = any(labels)
    titles = [*["label"] * labelled, "seed", "frames", "updates", "last return", "best return"]
    titles += ([] if bar is None else [f"frames to {bar:g}"]) + (["training [s]", "updates/s"] if timed else [])
    rows = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for label, (metrics, looks) in zip(labels, runs, strict=True):
        returns = [y for _, y in _points(looks)]
        counted = [f"{metrics[what]}" for what in ("seed", "frames", "updates")]
        figures = [*[label] * labelled, *counted, f"{returns[-1]:.0f}", f"{max(returns):.0f}"]
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
