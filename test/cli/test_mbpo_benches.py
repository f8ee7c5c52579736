"""The benchmarks of exploration and of MBPO's settings: resumed, repeatable, and each way does what it is called."""

from __future__ import annotations

import csv
import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from one_thread import one_thread  # noqa: F401

from wm_ros.contract import resources
from wm_ros.contract.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
AGENT = """
mbpo: {exploration: 1.0, rollouts: 4, model_every: 20, ensemble: {members: 3, elites: 2, layers: 2, width: 12}, lengths: {last: 2}}
sac: {layers: 2, width: 24}
fit: {batch: 32, warm_up: 40, updates_per_step: 1.0}
model_fit: {steps: 20, batch: 16, check_every: 20}
"""
DREAMER = """
dreamer: {explore: 1.0, rssm: {deter: 16, hidden: 16, groups: 4, classes: 4, blocks: 2}, world: {units: 16}, units: 16}
fit: {batch: 2, length: 8, imagine_last: 2, horizon: 3, train_ratio: 16, warm_up: 40}
"""


@pytest.fixture
def task(tmp_path: Path) -> list[str]:
    """A second of the sparse pendulum, and a small agent."""
    data = yaml.safe_load(resources.find("config/contracts", "pendulum_sparse", ".yaml").read_text())
    data["episode"]["duration_s"] = 1.0
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(data))
    (tmp_path / "agent.yaml").write_text(AGENT)
    return [str(tmp_path / "short.yaml"), str(tmp_path / "agent.yaml")]


def bench(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module(f"benchmarks.{name}")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_way_explores_for_every_seed_once_and_repeats_itself(
    task: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exploration = bench("exploration", monkeypatch)
    options = exploration.Options(out=tmp_path / "out", contract=task[0], agent=task[1], seeds=(0, 1), episodes=2)
    exploration.run(options)
    found = rows(tmp_path / "out" / "exploration_mbpo.csv")
    assert [(r["way"], r["seed"], r["episode"]) for r in found] == [
        (way, seed, episode) for seed in "01" for way in exploration.WAYS for episode in "12"
    ]
    page = (tmp_path / "out" / "exploration_mbpo.md").read_text()
    assert "| disagreement | never | never |" in page and "--seeds 0 1 --episodes 2" in page

    def refuse(*given: Any) -> Any:
        raise AssertionError("ran again")

    with monkeypatch.context() as patch:
        patch.setattr(exploration, "explored", refuse)
        exploration.run(options)
    again = replace(options, out=tmp_path / "again")
    exploration.run(again)
    assert (tmp_path / "again" / "exploration_mbpo.csv").read_bytes() == (tmp_path / "out" / "exploration_mbpo.csv").read_bytes()


def test_dreamer_explores_on_a_page_of_its_own_and_an_agent_that_does_not_explore_is_refused(
    task: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exploration = bench("exploration", monkeypatch)
    options = exploration.Options(out=tmp_path / "out", contract=task[0], agent=task[1], seeds=(0,), episodes=2)
    Path(task[1]).write_text(DREAMER)
    exploration.run(options)
    assert len(rows(tmp_path / "out" / "exploration_dreamer.csv")) == 2 * len(exploration.WAYS)
    assert "the same Dreamer without it" in (tmp_path / "out" / "exploration_dreamer.md").read_text()
    for settings in ("sac: {}", AGENT.replace("exploration: 1.0", "exploration: 0.0"), DREAMER.replace("explore: 1.0", "explore: 0.0")):
        Path(task[1]).write_text(settings)
        with pytest.raises(UserError, match="must be above 0"):
            exploration.run(options)


def test_the_reward_is_found_in_the_episode_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    exploration = bench("exploration", monkeypatch)
    own = [exploration.Row("random", 3, k, total) for k, total in ((1, 0.0), (2, 0.5), (3, 2.0))]
    other = [exploration.Row("gaussian", 3, 1, 7.0)]
    assert exploration.found(own + other, "random", 3) == (2, 2.5)
    assert exploration.found(own[:1] + other, "random", 3) == (0, 0.0)


def test_a_study_changes_its_setting_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = bench("mbpo_settings", monkeypatch)
    agent = settings.MbpoAgentConfig()
    longer = settings.changed(agent, "length", 5.0)
    assert longer.mbpo.lengths.at(0) == longer.mbpo.lengths.at(10**6) == 5
    assert longer.mbpo.rollouts * 5 == agent.mbpo.rollouts  # as many ticks
    assert replace(longer.mbpo, lengths=agent.mbpo.lengths, rollouts=agent.mbpo.rollouts) == agent.mbpo
    real = settings.changed(agent, "real_share", 0.5)
    assert replace(real.mbpo, real_share=agent.mbpo.real_share) == agent.mbpo and real.mbpo.real_share == 0.5
    plain = settings.changed(agent, "normalize", 0.0)
    assert not plain.mbpo.model.normalize and replace(plain.mbpo, model=agent.mbpo.model) == agent.mbpo
    steady = settings.changed(agent, "layer_norm", 1.0)
    assert (steady.sac.layer_norm, settings.changed(steady, "layer_norm", 0.0)) == ("critics", agent) and steady.mbpo == agent.mbpo


def test_a_study_runs_every_value_once(task: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = bench("mbpo_settings", monkeypatch)
    options = settings.Options(
        "real_share", (0.5, 1.0), task[0], agent=task[1], frames=120, evaluate_every=60, evaluations=1, out=tmp_path / "out"
    )
    settings.run(options)
    path = tmp_path / "out" / "mbpo_real_share_pendulum_sparse.csv"
    assert [(r["value"], r["frames"]) for r in rows(path)] == [("0.5", "60"), ("0.5", "120"), ("1", "60"), ("1", "120")]
    assert "--values 0.5 1 " in path.with_suffix(".md").read_text()
    before = path.read_bytes()

    def refuse(*given: Any) -> Any:
        raise AssertionError("ran again")

    monkeypatch.setattr(settings, "trained", refuse)
    settings.run(options)
    assert path.read_bytes() == before
