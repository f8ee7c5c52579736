"""What single settings of MBPO do to its learning curve: rollout length, share of real transitions, normalized targets, layer norm."""

from __future__ import annotations

import csv
import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro

from wm_ros.agents.mbpo import LengthSchedule
from wm_ros.contract import resources, schema
from wm_ros.contract.schema import Contract
from wm_ros.export.controller import versions
from wm_ros.sim import adapters
from wm_ros.training.config import MbpoAgentConfig, load_as
from wm_ros.training.simulated import SimulatedPlan
from wm_ros.training.simulated_mbpo import MbpoTraining

STUDIES = {
    "length": "ticks of each imagined rollout",
    "real_share": "share of real transitions in a batch; 1 is a soft actor-critic with as many updates",
    "normalize": "model's targets in deviations of their own channel, or as they are",
    "layer_norm": "the critics' hidden layers normalized, or not",
}


@dataclass(frozen=True)
class Options:
    """Runs every value of a study for every seed, and writes CSV, picture and page after each run."""

    study: tyro.conf.Positional[str]
    """`length`, `real_share`, `normalize` or `layer_norm`."""
    values: tuple[float, ...]
    """Of the setting; 0 and 1 for `normalize` and `layer_norm`."""
    contract: str = ""
    """Task: a contract file, or the name of one."""
    env: str = ""
    """Task: an environment, such as dm_control/pendulum_swingup."""
    agent: str = "mbpo"
    """All other settings: an MBPO file, or the name of one."""
    frames: int = 10_000
    evaluate_every: int = 1000
    """Frames between evaluations."""
    evaluations: int = 3
    """Episodes of each."""
    seeds: tuple[int, ...] = (0,)
    out: Path = Path("docs/results")
    """Folder of `mbpo_STUDY_TASK.csv`, `.json`, `.png` and `.md`; runs that stand there with the same settings are not run again."""


@dataclass(frozen=True)
class Row:
    """One evaluation."""

    value: float
    seed: int
    frames: int
    mean_return: float
    model_error: float


def changed(agent: MbpoAgentConfig, study: str, value: float) -> MbpoAgentConfig:
    """The settings with another value of the one that is studied."""
    mbpo = agent.mbpo
    if study == "length":
        # Of every length so many ticks, for longer rollouts should not be more data as well.
        rollouts = max(1, round(mbpo.rollouts * mbpo.lengths.last / value))
        return replace(agent, mbpo=replace(mbpo, lengths=LengthSchedule(int(value), int(value)), rollouts=rollouts))
    if study == "real_share":
        return replace(agent, mbpo=replace(mbpo, real_share=value))
    if study == "layer_norm":
        return replace(agent, sac=replace(agent.sac, layer_norm="critics" if value else "none"))
    return replace(agent, mbpo=replace(mbpo, model=replace(mbpo.model, normalize=bool(value))))


def trained(contract: Contract, beside: str, agent: MbpoAgentConfig, value: float, seed: int, options: Options) -> list[Row]:
    """The evaluations of one training."""
    with tempfile.TemporaryDirectory() as folder:
        plan = SimulatedPlan(
            contract.canonical_json(), agent, options.frames, options.evaluate_every, versions(), seed, 1, options.evaluations, 1, beside
        )
        training = MbpoTraining(plan, Path(folder))
        while not training.finished or training.due:
            if training.due:
                look = training.evaluate()
                print(f"{options.study} {value:g}, seed {seed}, {look.frames} frames: {look.mean_return:.0f}", flush=True)
            else:
                training.step()
        return [Row(value, seed, look.frames, look.mean_return, getattr(look, "model_error")) for look in training.looks]  # noqa: B009


def run(options: Options) -> None:
    """Runs what is not there yet."""
    torch.set_num_threads(1)
    if options.env:
        contract, beside = adapters.contract_of(options.env), ""
    else:
        contract = schema.load(options.contract)
        beside = str(resources.find("config/contracts", options.contract, ".yaml").parent)
    agent = load_as(options.agent, MbpoAgentConfig)
    name = f"mbpo_{options.study}_{contract.name}"
    options.out.mkdir(parents=True, exist_ok=True)
    table, noted = (options.out / f"{name}{suffix}" for suffix in (".csv", ".json"))
    asked = {"contract_hash": contract.hash, "frames": options.frames, "evaluations": options.evaluations}
    settings = json.loads(json.dumps({**asked, "config": asdict(agent), "versions": versions()}))
    rows = _read(table) if noted.exists() and json.loads(noted.read_text(encoding="utf-8")) == settings else []
    for seed in options.seeds:
        for value in options.values:
            if not any(row.value == value and row.seed == seed for row in rows):
                rows += trained(contract, beside, changed(agent, options.study, value), value, seed, options)
                _write(rows, table)
                noted.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    _draw(rows, options.study, options.out / f"{name}.png")
    (options.out / f"{name}.md").write_text(page(rows, contract, options, name), encoding="utf-8")


def page(rows: list[Row], contract: Contract, options: Options, name: str) -> str:
    """The evidence as Markdown."""
    seeds = sorted({row.seed for row in rows})
    task = f"--env {options.env}" if options.env else f"--contract {options.contract}"
    values = " ".join(f"{value:g}" for value in options.values)
    command = (
        f"python -m benchmarks.mbpo_settings {options.study} --values {values} {task} --agent {options.agent} --frames {options.frames} "
        f"--evaluate-every {options.evaluate_every} --evaluations {options.evaluations} --seeds {' '.join(map(str, seeds))}"
    )
    text = [
        f"# MBPO on {contract.name}: {options.study}",
        "",
        f"`{command}`",
        "",
        f"{options.study}: {STUDIES[options.study]}. {'One seed' if len(seeds) == 1 else f'{len(seeds)} seeds'}, {options.frames} frames, "
        f"{options.evaluations} episodes an evaluation; all other settings stand in [{name}.json]({name}.json).",
        "",
        f"| {options.study} | seed | last return | best return | mean over the second half | model error, last |",
        "|---|---|---|---|---|---|",
    ]
    for value in sorted({row.value for row in rows}):
        for seed in seeds:
            own = [row for row in rows if (row.value, row.seed) == (value, seed)]
            if own:
                returns = [row.mean_return for row in own]
                late = [row.mean_return for row in own if row.frames > options.frames / 2]
                figures = f"{returns[-1]:.0f} | {max(returns):.0f} | {sum(late) / max(1, len(late)):.0f} | {own[-1].model_error:.3g}"
                text.append(f"| {value:g} | {seed} | {figures} |")
    made = ", ".join(f"{package} {version}" for package, version in versions().items())
    unit = "in variances of the change that is predicted, 1 knows nothing; without normalization in squares of the observation's own units"
    text += ["", f"The model error is of the next observation, {unit}.", ""]
    return "\n".join([*text, f"![Return against frames]({name}.png)", "", f"{made}. Rows: [{name}.csv]({name}.csv).", ""])


def _draw(rows: list[Row], study: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axes = figure.subplots()
    for i, value in enumerate(sorted({row.value for row in rows})):
        for j, seed in enumerate(sorted({row.seed for row in rows})):
            own = [row for row in rows if (row.value, row.seed) == (value, seed)]
            label = f"{study} {value:g}" if j == 0 else None
            axes.plot([r.frames for r in own], [r.mean_return for r in own], color=f"C{i}", marker="o", ms=3, lw=1.3, label=label)
    axes.set_xlabel("frames")
    axes.set_ylabel("mean evaluation return")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def _write(rows: list[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row.__dataclass_fields__)
        writer.writerows([f"{r.value:g}", r.seed, r.frames, f"{r.mean_return:.6g}", f"{r.model_error:.4g}"] for r in rows)


def _read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    return [Row(float(r["value"]), int(r["seed"]), int(r["frames"]), float(r["mean_return"]), float(r["model_error"])) for r in found]


if __name__ == "__main__":
    run(tyro.cli(Options))
