"""Tabular Dyna: its updates, its model, and what the book found with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wm_ros.agents.dyna import Dyna, DynaConfig
from wm_ros.cli.main import run
from wm_ros.sim import maze
from wm_ros.sim.maze import Maze
from wm_ros.training import maze_experiments as experiments
from wm_ros.viz.dyna_maze import settled

LEFT, RIGHT = 2, 3


def one(action: int) -> np.ndarray:
    return np.array([action])


def step(dyna: Dyna, state: int, action: int, reward: float, following: int) -> None:
    dyna.learn(one(state), one(action), np.array([reward]), one(following), np.array([True]))


def test_walls_edges_and_the_way_to_the_goal() -> None:
    following = maze.DYNA.following()
    assert maze.DYNA.states == 54 and maze.DYNA.start == 18 and maze.DYNA.goal == 8
    assert following[maze.DYNA.start].tolist() == [9, 27, 18, 19]
    assert following[19, RIGHT] == 19 and following[0].tolist() == [0, 9, 0, 1]
    assert maze.DYNA.shortest() == 14
    assert [m.shortest() for m in (*maze.BLOCKING, *maze.SHORTCUT)] == [10, 16, 16, 10]
    assert Maze(("S#G",)).shortest() == -1
    with pytest.raises(ValueError, match="one S, one G"):
        Maze(("S.S",))


def test_a_real_step_moves_the_value_by_the_step_size() -> None:
    dyna = Dyna(DynaConfig(planning_steps=0, step_size=0.5, discount=0.9), 3, 4, [0])
    step(dyna, 1, RIGHT, 1.0, 2)
    step(dyna, 0, RIGHT, 0.0, 1)
    assert dyna.values[0, 1, RIGHT] == 0.5 and dyna.values[0, 0, RIGHT] == pytest.approx(0.5 * 0.9 * 0.5)


def test_planning_carries_a_reward_back_along_what_was_seen_and_nowhere_else() -> None:
    dyna = Dyna(DynaConfig(planning_steps=200, step_size=1.0, discount=0.9), 3, 4, [0])
    step(dyna, 0, RIGHT, 0.0, 1)
    step(dyna, 1, RIGHT, 1.0, 2)
    assert dyna.values[0, 1, RIGHT] == 1.0 and dyna.values[0, 0, RIGHT] == pytest.approx(0.9)
    assert np.count_nonzero(dyna.values) == 2


def test_curiosity_values_what_was_not_tried_for_long() -> None:
    dyna = Dyna(DynaConfig(planning_steps=50, step_size=1.0, discount=0.0, curiosity=0.01), 3, 4, [0])
    for _ in range(100):
        step(dyna, 0, RIGHT, 0.0, 0)
    values = dyna.values[0, 0]
    assert values[RIGHT] == 0.0 and values[LEFT] == pytest.approx(0.01 * np.sqrt(100))


def test_ties_are_broken_at_random_and_otherwise_the_best_is_taken() -> None:
    dyna = Dyna(DynaConfig(epsilon=0.0), 3, 4, range(400))
    counts = np.bincount(dyna.act(np.zeros(400, np.int64)), minlength=4)
    assert (counts > 60).all()
    dyna.values[:, 0, 2] = 1.0
    assert (dyna.act(np.zeros(400, np.int64)) == 2).all()


def test_each_seed_learns_as_it_does_alone() -> None:
    config = DynaConfig(planning_steps=5)
    together = experiments.steps_per_episode(config, [0, 1, 2], 8)
    np.testing.assert_array_equal(together[1], experiments.steps_per_episode(config, [1], 8)[0])


def test_the_first_episode_is_a_random_walk_whatever_the_planning() -> None:
    world = maze.DYNA
    following = world.following()
    inner = [s for s in range(world.states) if s != world.goal and "".join(world.rows)[s] != "#"]
    step = np.zeros((world.states, world.states))
    for state in inner:
        for there in following[state]:
            step[state, there] += 0.25
    expected = np.linalg.solve(np.eye(len(inner)) - step[np.ix_(inner, inner)], np.ones(len(inner)))[inner.index(world.start)]
    assert expected == pytest.approx(868.7, abs=0.1)
    first = experiments.steps_per_episode(experiments.DYNA_MAZE[0], range(60), 1)
    assert abs(first.mean() - expected) < 4 * first.std() / np.sqrt(60)
    np.testing.assert_array_equal(first[:3], experiments.steps_per_episode(experiments.DYNA_MAZE[5], range(3), 1))


def test_planning_decides_how_many_episodes_it_takes() -> None:
    """Figure 8.2: about 25 episodes without planning, 5 with 5 planning steps, 3 with 50."""
    lengths = {0: 40, 5: 15, 50: 6}
    found = {
        n: settled(experiments.steps_per_episode(c, range(10), lengths[n]).astype(float), 20.0) for n, c in experiments.DYNA_MAZE.items()
    }
    assert 15 <= found[0] <= 35 and 4 <= found[5] <= 9 and 2 <= found[50] <= 4


def test_curiosity_finds_what_has_become_better() -> None:
    """Figure 8.5, shorter: after the change most of Dyna-Q stay on the long way, and every Dyna-Q+ has left it."""
    change = experiments.Change("shortcut", maze.SHORTCUT, 800, 2400, experiments.SHORTCUT.learners)
    rates = {}
    for name, config in change.learners.items():
        got = experiments.cumulative_reward(change, replace(config, planning_steps=15), range(6))
        rates[name] = (got[:, -1] - got[:, -501]) / 500
    assert np.median(rates["Dyna-Q"]) < 1 / 16 < rates["Dyna-Q+"].min()


def test_the_command_writes_its_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"Dyna-Q": DynaConfig(1), "Dyna-Q+": DynaConfig(1, curiosity=1e-3)}
    for name in ("BLOCKING", "SHORTCUT"):
        change = getattr(experiments, name)
        monkeypatch.setattr(experiments, name, experiments.Change(change.name, change.mazes, 100, 200, small))
    monkeypatch.setattr(experiments, "DYNA_MAZE", {5: DynaConfig(planning_steps=5)})
    assert run(["maze", "--results", str(tmp_path), "--seeds", "2"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"dyna_maze.csv", "dyna_maze.png", "dyna_maze.md"}
    rows = (tmp_path / "dyna_maze.csv").read_text().splitlines()
    assert rows[0] == "experiment,learner,x,mean,std,seeds" and len(rows) == 1 + 50 + 4 * 4
    assert "--seeds 2" in (tmp_path / "dyna_maze.md").read_text()
    assert run(["maze", "--seeds", "0"]) == 2 and "seeds: 0" in capsys.readouterr().err


@pytest.mark.parametrize("fault", [{"planning_steps": -1}, {"step_size": 0.0}, {"discount": 1.1}, {"epsilon": 2.0}, {"curiosity": -1.0}])
def test_settings_out_of_range_are_refused(fault: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fault))):
        DynaConfig(**fault)  # type: ignore[arg-type]
