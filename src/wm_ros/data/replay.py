"""A replay buffer: the transitions of many episodes in flat arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wm_ros.data.episode import Episode


@dataclass(frozen=True, eq=False)
class Transitions:
    """B transitions."""

    observation: NDArray[np.float32]
    """[B, O]."""
    action: NDArray[np.float32]
    """[B, A]."""
    reward: NDArray[np.float32]
    """[B]."""
    next_observation: NDArray[np.float32]
    """[B, O]."""
    terminated: NDArray[np.bool_]
    """[B]; a truncated step is not terminated."""
    index: NDArray[np.int64]
    """[B], places in the buffer."""

    def __len__(self) -> int:
        return len(self.index)


class Replay:
    """Grows by whole episodes. Observations are kept once each: an episode of T steps takes T + 1 rows."""

    def __init__(self, observation_size: int, action_size: int) -> None:
        self.observation_size = observation_size
        self.action_size = action_size
        self.episodes: list[Episode] = []
        self._observation = np.zeros((0, observation_size), np.float32)
        self._action = np.zeros((0, action_size), np.float32)
        self._reward = np.zeros(0, np.float32)
        self._terminated = np.zeros(0, np.bool_)
        self._steps = np.zeros(0, np.int64)
        self._rows = 0

    def __len__(self) -> int:
        """Transitions in it."""
        return len(self._steps)

    def add(self, episode: Episode) -> None:
        """Takes an episode in.

        Raises:
            ValueError: its observation or action has another size.
        """
        steps = len(episode)
        if episode.observation.shape[1] != self.observation_size or episode.action.shape[1] != self.action_size:
            raise ValueError(
                f"episode with O={episode.observation.shape[1]}, A={episode.action.shape[1]}; "
                f"this buffer has O={self.observation_size}, A={self.action_size}"
            )
        self._reserve(self._rows + steps + 1)
        here = slice(self._rows, self._rows + steps)
        self._observation[self._rows : self._rows + steps + 1] = episode.observation
        self._action[here] = episode.action
        self._reward[here] = episode.reward
        self._terminated[here] = episode.terminated
        self._steps = np.concatenate([self._steps, np.arange(self._rows, self._rows + steps)])
        self._rows += steps + 1
        self.episodes.append(episode)

    def _reserve(self, rows: int) -> None:
        if rows <= len(self._reward):
            return
        size = max(rows, 2 * len(self._reward))
        for name in ("_observation", "_action", "_reward", "_terminated"):
            old = getattr(self, name)
            new = np.zeros((size, *old.shape[1:]), old.dtype)
            new[: self._rows] = old[: self._rows]
            setattr(self, name, new)

    def transitions(self, index: NDArray[np.int64] | None = None) -> Transitions:
        """The transitions at `index` [B] in 0..len-1; all of them, in the order of recording, where it is None."""
        index = np.arange(len(self)) if index is None else index
        row = self._steps[index]
        return Transitions(
            self._observation[row], self._action[row], self._reward[row], self._observation[row + 1], self._terminated[row], index
        )

    def sample(self, rng: np.random.Generator, batch: int) -> Transitions:
        """`batch` transitions, each equally likely, with replacement.

        Raises:
            ValueError: the buffer is empty.
        """
        if not len(self):
            raise ValueError("the replay buffer is empty")
        return self.transitions(rng.integers(0, len(self), batch))
