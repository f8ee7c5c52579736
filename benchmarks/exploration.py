"""Exploration of a task whose reward is rare: disagreement of the model beside random actions and Gaussian noise."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from wm_ros.contract import resources, schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.export.controller import versions
from wm_ros.sim import world
from wm_ros.sim.fleet import Fleet
from wm_ros.training import simulated_kinds
from wm_ros.training.config import DreamerAgentConfig, MbpoAgentConfig, SacAgentConfig, load_policy_or_dreamer
from wm_ros.training.simulated import SimulatedPlan

Agent = MbpoAgentConfig | DreamerAgentConfig
NAME = "exploration"
WAYS = {
    "disagreement": "{agent}, disagreement added to the reward",
    "no bonus": "the same {agent} without it: its policy's own Gaussian noise, held up by the entropy term",
    "gaussian": "Gaussian noise around no torque, half the range wide, nothing learned",
    "random": "uniform random actions, nothing learned",
}


@dataclass(frozen=True)
class Options:
    """Runs every way for every seed, and writes CSV, picture and page after each."""

    out: Path = Path("docs/results")
    """Folder of `exploration_AGENT.csv`, `.json`, `.png` and `.md`; what stands there with the same settings is not run again."""
    contract: str = "pendulum_sparse"
    """Task: a contract file, or the name of one."""
    agent: str = "explore"
    """Settings with a weight for disagreement: a file of MBPO or Dreamer, or the name of one; explore and plan2explore are such."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of start states, weights and draws."""
    episodes: int = 8
    """Of each run."""


@dataclass(frozen=True)
class Row:
    """One training episode."""

    way: str
    seed: int
    episode: int
    total_reward: float


def explored(way: str, contract: Contract, agent: Agent, seed: int, episodes: int, beside: str) -> Iterator[Row]:
    """The episodes of one run, as they end."""
    if way in ("disagreement", "no bonus"):
        yield from _learning(way, contract, agent, seed, episodes, beside)
        return
    rng = np.random.Generator(np.random.PCG64(int(np.random.SeedSequence([seed, 13]).generate_state(1)[0])))
    low, high = (np.array([[getattr(j, side) for j in contract.action.joints]], np.float32) for side in ("low", "high"))
    fleet, done = Fleet([world.make(contract, Path(beside))], seed), 0
    while done < episodes:
        if way == "random":
            action = rng.uniform(low, high).astype(np.float32)
        else:
            noise = 0.5 * rng.standard_normal(low.shape, dtype=np.float32)
            action = np.clip((low + high) / 2 + (high - low) / 2 * noise, low, high)
        for ended in fleet.step(action).ended:
            done += 1
            yield Row(way, seed, done, ended.total_reward)


def _learning(way: str, contract: Contract, agent: Agent, seed: int, episodes: int, beside: str) -> Iterator[Row]:
    if way == "no bonus":
        agent = without_bonus(agent)
    with tempfile.TemporaryDirectory() as folder:
        frames = episodes * contract.episode_ticks * world.make(contract, Path(beside)).frames_per_tick
        plan = SimulatedPlan(contract.canonical_json(), agent, frames, frames, versions(), seed, beside=beside)
        training = simulated_kinds.begin(plan, Path(folder))
        while not training.finished:
            for row in training.step():
                yield Row(way, seed, row.episode, row.total_reward)


def without_bonus(agent: Agent) -> Agent:
    """The same settings, but for the weight of disagreement."""
    if isinstance(agent, MbpoAgentConfig):
        return replace(agent, mbpo=replace(agent.mbpo, exploration=0.0))
    return replace(agent, dreamer=replace(agent.dreamer, explore=0.0))


def run(options: Options) -> None:
    """Runs what is not there yet.

    Raises:
        UserError: the agent has no weight for disagreement.
    """
    torch.set_num_threads(1)
    contract, agent = schema.load(options.contract), load_policy_or_dreamer(options.agent)
    if isinstance(agent, SacAgentConfig) or agent == without_bonus(agent):
        raise UserError(f"{options.agent}: mbpo.exploration or dreamer.explore must be above 0: what is it that explores here?")
    name = f"{NAME}_{kind_of(agent).lower()}"
    beside = str(resources.find("config/contracts", options.contract, ".yaml").parent)
    settings = {
        "contract": contract.name,
        "contract_hash": contract.hash,
        "episodes": options.episodes,
        "ticks": contract.episode_ticks,
        "config": asdict(agent),
        "versions": versions(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    table, noted = (options.out / f"{name}{suffix}" for suffix in (".csv", ".json"))
    settings = json.loads(json.dumps(settings))
    rows = _read(table) if noted.exists() and json.loads(noted.read_text(encoding="utf-8")) == settings else []
    for seed in options.seeds:
        for way in WAYS:
            if any(row.way == way and row.seed == seed for row in rows):
                continue
            for row in explored(way, contract, agent, seed, options.episodes, beside):
                print(f"{way}, seed {seed}, episode {row.episode}: {row.total_reward:.0f}", flush=True)
                rows.append(row)
            _write(rows, table)
            noted.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    _draw(rows, options.out / f"{name}.png")
    (options.out / f"{name}.md").write_text(page(rows, contract, options, agent), encoding="utf-8")


def found(rows: list[Row], way: str, seed: int) -> tuple[int, float]:
    """The first episode with a reward, 0 for none, and the reward of all."""
    own = [row for row in rows if (row.way, row.seed) == (way, seed)]
    return next((row.episode for row in own if row.total_reward > 0), 0), sum(row.total_reward for row in own)


def kind_of(agent: Agent) -> str:
    """For people and names of files."""
    return "MBPO" if isinstance(agent, MbpoAgentConfig) else "Dreamer"


def page(rows: list[Row], contract: Contract, options: Options, agent: Agent) -> str:
    """The evidence as Markdown."""
    kind = kind_of(agent)
    name = f"{NAME}_{kind.lower()}"
    seeds = sorted({row.seed for row in rows})
    text = [
        f"# Exploration by disagreement: {kind} on {contract.name}",
        "",
        f"`python -m benchmarks.exploration --agent {options.agent} --seeds {' '.join(map(str, seeds))} --episodes {options.episodes}`",
        "",
        f"The pendulum begins hanging and is rewarded only within 8° of upright. {options.episodes} training episodes of "
        f"{contract.episode_ticks} ticks for each run, {len(seeds)} seeds. The reward below is the task's own, collected while learning, "
        "without the bonus. What is shown is finding: the bonus goes on outweighing the task, so the policy passes "
        "through the top and seeks on. That it then learns to stay there is not shown.",
        "",
        "| way | " + " | ".join(f"seed {seed}" for seed in seeds) + " |",
        "|---|" + "---|" * len(seeds),
    ]
    for way in WAYS:
        cells = []
        for seed in seeds:
            first, total = found(rows, way, seed)
            cells.append(f"first reward in episode {first}, {total:.0f} in all" if first else "never")
        text.append(f"| {way} | {' | '.join(cells)} |")
    text += ["", *(f"- **{way}**: {what.format(agent=kind)}." for way, what in WAYS.items()), ""]
    text += [f"![Reward of each training episode]({name}.png)", ""]
    made = ", ".join(f"{package} {version}" for package, version in versions().items())
    return "\n".join([*text, f"{made}. Rows: [{name}.csv]({name}.csv); settings: [{name}.json]({name}.json).", ""])


def _draw(rows: list[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for way, color in zip(WAYS, ("C3", "C0", "C1", "C2"), strict=True):
        for i, seed in enumerate(sorted({row.seed for row in rows})):
            own = [row for row in rows if (row.way, row.seed) == (way, seed)]
            axes.plot([r.episode for r in own], [r.total_reward for r in own], color=color, lw=1.4, label=way if i == 0 else None)
    axes.set_xlabel("training episode")
    axes.set_ylabel("reward of the task")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def _write(rows: list[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row.__dataclass_fields__)
        writer.writerows([row.way, row.seed, row.episode, f"{row.total_reward:.6g}"] for row in rows)


def _read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return [Row(r["way"], int(r["seed"]), int(r["episode"]), float(r["total_reward"])) for r in csv.DictReader(file)]


if __name__ == "__main__":
    run(tyro.cli(Options))
