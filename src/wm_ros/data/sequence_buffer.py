"""Stretches of experience over the borders of episodes: what a recurrent learner draws its batches from while they come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Stretches:
    """B stretches of L rows. A row is an observation and what led to it."""

    observation: NDArray[np.float32]
    """[B, L, O]."""
    action: NDArray[np.float32]
    """[B, L, A], that led to the observation; zero where an episode begins."""
    reward: NDArray[np.float32]
    """[B, L], that came with the observation; zero where an episode begins."""
    terminated: NDArray[np.bool_]
    """[B, L], whether the episode terminated with the observation; one that was cut by time did not."""
    first: NDArray[np.bool_]
    """[B, L], whether an episode begins with the observation: nothing before it counts for what follows."""


class SequenceBuffer:
    """The newest rows of several worlds, each in a ring of its own, one episode behind the other."""

    def __init__(self, capacity: int, observation_size: int, action_size: int, worlds: int = 1) -> None:
        """Args: rows of all worlds together, sizes, and how many worlds there are."""
        self.capacity = -(-capacity // worlds)
        """Rows of each world."""
        # Zeros take no memory before they are written to.
        self._columns: dict[str, NDArray[Any]] = {
            "observation": np.zeros((worlds, self.capacity, observation_size), np.float32),
            "action": np.zeros((worlds, self.capacity, action_size), np.float32),
            "reward": np.zeros((worlds, self.capacity), np.float32),
            "terminated": np.zeros((worlds, self.capacity), np.bool_),
            "first": np.zeros((worlds, self.capacity), np.bool_),
        }
        self._added = np.zeros(worlds, np.int64)

    def __len__(self) -> int:
        """Rows in it."""
        return int(np.minimum(self._added, self.capacity).sum())

    def begin(self, world: int, observation: NDArray[np.float32]) -> None:
        """An episode of this world begins with this observation [O]."""
        self._put(world, observation=observation, action=0.0, reward=0.0, terminated=False, first=True)

    def add(self, world: int, action: NDArray[np.float32], reward: float, observation: NDArray[np.float32], terminated: bool) -> None:
        """The action [A] led to this reward and observation [O]."""
        self._put(world, observation=observation, action=action, reward=reward, terminated=terminated, first=False)

    def _put(self, world: int, **row: Any) -> None:
        place = int(self._added[world]) % self.capacity
        for name, value in row.items():
            self._columns[name][world, place] = value
        self._added[world] += 1

    def sample(self, rng: np.random.Generator, batch: int, length: int) -> Stretches:
        """`batch` stretches of `length` rows, each equally likely, with replacement.

        Raises:
            ValueError: no world has that many rows.
        """
        held = np.minimum(self._added, self.capacity)
        starts = np.maximum(held - length + 1, 0).cumsum()
        if not starts[-1]:
            raise ValueError(f"a stretch of {length} rows, and the longest there is has {held.max()}: wait for more, or take a shorter one")
        drawn = rng.integers(0, starts[-1], batch)
        world = np.searchsorted(starts, drawn, side="right")
        offset = drawn - np.concatenate([[0], starts[:-1]])[world]
        oldest = self._added[world] - held[world]
        place = (oldest + offset)[:, None] + np.arange(length)
        return Stretches(**{name: column[world[:, None], place % self.capacity] for name, column in self._columns.items()})

    def state(self) -> dict[str, NDArray[Any]]:
        """All that it holds."""
        held = int(np.minimum(self._added, self.capacity).max())
        return {"added": self._added.copy(), **{name: np.ascontiguousarray(c[:, :held]) for name, c in self._columns.items()}}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Takes over what `state` gave, of a buffer of the same sizes.

        Raises:
            ValueError: it is of other sizes.
        """
        self._added = state["added"].copy()
        for name, column in self._columns.items():
            column[:, : state[name].shape[1]] = state[name]
