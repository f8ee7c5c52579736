"""The maze experiments of Sutton and Barto's section 8.2 and 8.3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wm_ros.agents.dyna import Dyna, DynaConfig
from wm_ros.sim import maze
from wm_ros.sim.maze import MOVES, Maze

PLANNING_STEPS = (0, 5, 50)
EPISODES = 50
DYNA_MAZE = {n: DynaConfig(planning_steps=n) for n in PLANNING_STEPS}
"""Figure 8.2, with the book's step size of 0.1."""


@dataclass(frozen=True)
class Change:
    """A maze that changes under the learner."""

    name: str
    mazes: tuple[Maze, Maze]
    at: int
    """Steps after which the second takes the first one's place."""
    steps: int
    learners: dict[str, DynaConfig]


# The book gives neither n, step size nor kappa of these two; in a maze without chance the full step size is right.
BLOCKING = Change(
    "blocking",
    maze.BLOCKING,
    1000,
    3000,
    {"Dyna-Q": DynaConfig(10, 1.0), "Dyna-Q+": DynaConfig(10, 1.0, curiosity=1e-4)},
)
SHORTCUT = Change(
    "shortcut",
    maze.SHORTCUT,
    3000,
    6000,
    {"Dyna-Q": DynaConfig(50, 1.0), "Dyna-Q+": DynaConfig(50, 1.0, curiosity=1e-3)},
)


def steps_per_episode(config: DynaConfig, seeds: Sequence[int], episodes: int = EPISODES) -> NDArray[np.int64]:
    """Steps `[R, episodes]` that each seed takes to the goal of figure 8.2's maze."""
    world, following = maze.DYNA, maze.DYNA.following()
    dyna = Dyna(config, world.states, len(MOVES), seeds)
    taken = np.zeros((len(seeds), episodes), np.int64)
    episode, state = np.zeros(len(seeds), np.int64), np.full(len(seeds), world.start)
    learner = np.arange(len(seeds))
    while (active := episode < episodes).any():
        action = dyna.act(state)
        there = following[state, action]
        arrived = there == world.goal
        dyna.learn(state, action, arrived.astype(np.float64), there, active)
        taken[learner[active], episode[active]] += 1
        episode += arrived & active
        state = np.where(arrived, world.start, there)
    return taken


def cumulative_reward(change: Change, config: DynaConfig, seeds: Sequence[int]) -> NDArray[np.float64]:
    """Reward so far `[R, steps]` of each seed, in a maze that changes."""
    dyna = Dyna(config, change.mazes[0].states, len(MOVES), seeds)
    state, got = np.full(len(seeds), change.mazes[0].start), np.zeros((len(seeds), change.steps))
    tables, everyone = [m.following() for m in change.mazes], np.ones(len(seeds), np.bool_)
    for step in range(change.steps):
        world = int(step >= change.at)
        action = dyna.act(state)
        there = tables[world][state, action]
        arrived = there == change.mazes[world].goal
        dyna.learn(state, action, arrived.astype(np.float64), there, everyone)
        got[:, step] = arrived
        state = np.where(arrived, change.mazes[world].start, there)
    return got.cumsum(1)
