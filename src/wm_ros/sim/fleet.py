"""Several worlds of one contract in one process, each beginning its next episode as soon as one has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.sim.episode import reset_seed
from wm_ros.sim.world import World


@dataclass(frozen=True)
class Ended:
    """An episode that came to its end."""

    resets: int
    """Which start state of the seed it began in, as in `sim.episode.run_episode`."""
    ticks: int
    total_reward: float


@dataclass(frozen=True, eq=False)
class FleetTick:
    """N transitions, one of each world."""

    observation: NDArray[np.float32]
    """[N, O]."""
    reward: NDArray[np.float32]
    """[N]."""
    next_observation: NDArray[np.float32]
    """[N, O], also where an episode ended; the next episode's first one is in `Fleet.observation`."""
    terminated: NDArray[np.bool_]
    """[N]; an episode cut by its length is not terminated."""
    ended: tuple[Ended, ...]
    """Episodes whose last step this was."""
    next_images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    """Image channel → [N, H, W, C], seen with `next_observation`."""


class Fleet:
    """N worlds. The k-th episode of world i starts from reset number 1 + i + k N of the seed."""

    def __init__(self, worlds: Sequence[World], seed: int) -> None:
        self.worlds, self.contract, self._seed = tuple(worlds), worlds[0].contract, seed
        self.frames_per_tick = worlds[0].frames_per_tick * len(self.worlds)
        """Frames of one tick, of all worlds together."""
        self._resets = [1 + i for i in range(len(self.worlds))]
        self._actions: list[list[NDArray[np.float32]]] = [[] for _ in self.worlds]
        self._returns = [0.0 for _ in self.worlds]
        self.observation = np.stack([w.reset(reset_seed(seed, r)) for w, r in zip(self.worlds, self._resets, strict=True)])
        """[N, O], what the next actions answer to."""
        self.images = self._look()
        """Image channel → [N, H, W, C], what they answer to besides."""

    def step(self, actions: NDArray[np.float32]) -> FleetTick:
        """One control period of every world.

        Args:
            actions: [N, A] in contract units.
        """
        before, after = self.observation, np.empty_like(self.observation)
        reward, terminated, ended = np.zeros(len(before), np.float32), np.zeros(len(before), np.bool_), {}
        for i, (world, action) in enumerate(zip(self.worlds, actions, strict=True)):
            tick = world.step(action)
            after[i], reward[i], terminated[i] = tick.observation, tick.reward, tick.terminated
            self._actions[i].append(action.copy())
            self._returns[i] += tick.reward
            if tick.terminated or tick.cut or len(self._actions[i]) >= self.contract.episode_ticks:
                ended[i] = Ended(self._resets[i], len(self._actions[i]), self._returns[i])
        self.observation, self.images = after.copy(), self._look()
        seen = self.images
        for i in ended:
            self._begin(i, self._resets[i] + len(self.worlds))
        if ended:
            self.images = self._look()
        return FleetTick(before, reward, after, terminated, tuple(ended.values()), seen)

    def _look(self) -> dict[str, NDArray[np.uint8]]:
        if not self.contract.images:
            return {}
        shown = [world.images() for world in self.worlds]
        return {name: np.stack([images[name] for images in shown]) for name in self.contract.images}

    def _begin(self, i: int, resets: int) -> None:
        self._resets[i], self._actions[i], self._returns[i] = resets, [], 0.0
        self.observation[i] = self.worlds[i].reset(reset_seed(self._seed, resets))

    def state(self) -> dict[str, NDArray[Any]]:
        """Where all episodes are: their resets and the actions since. A world follows from these bit for bit."""
        held = {f"actions.{i}": np.array(a, np.float32).reshape(-1, self.contract.action_size) for i, a in enumerate(self._actions)}
        return {"resets": np.array(self._resets, np.int64), **held}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Drives every world again to where `state` was taken.

        Raises:
            KeyError: the state is of another number of worlds.
        """
        for i, world in enumerate(self.worlds):
            self._begin(i, int(state["resets"][i]))
            for action in state[f"actions.{i}"]:
                tick = world.step(action)
                self.observation[i] = tick.observation
                self._actions[i].append(action)
                self._returns[i] += tick.reward
        self.images = self._look()
