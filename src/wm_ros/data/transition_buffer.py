"""Single transitions in columns of fixed size: what a learner draws its batches from while they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.data.replay import Transitions

_COLUMNS = ("observation", "action", "reward", "next_observation", "terminated")


class TransitionBuffer:
    """The newest `capacity` transitions. Unlike `data.replay.Replay` it takes them one by one and forgets the oldest."""

    def __init__(self, capacity: int, observation_size: int, action_size: int) -> None:
        self.capacity = capacity
        # Zeros take no memory before they are written to.
        self._columns: dict[str, NDArray[Any]] = {
            "observation": np.zeros((capacity, observation_size), np.float32),
            "action": np.zeros((capacity, action_size), np.float32),
            "reward": np.zeros(capacity, np.float32),
            "next_observation": np.zeros((capacity, observation_size), np.float32),
            "terminated": np.zeros(capacity, np.bool_),
        }
        self._added = 0

    def __len__(self) -> int:
        """Transitions in it."""
        return min(self._added, self.capacity)

    def add(
        self,
        observation: NDArray[np.float32],
        action: NDArray[np.float32],
        reward: NDArray[np.float32],
        next_observation: NDArray[np.float32],
        terminated: NDArray[np.bool_],
    ) -> None:
        """Takes N transitions in: observations [N, O], actions [N, A], rewards [N], whether each terminated [N]."""
        count = len(reward)
        if count > self.capacity:
            raise ValueError(f"{count} transitions at once for a buffer of {self.capacity}")
        place = (self._added + np.arange(count)) % self.capacity
        for name, rows in zip(_COLUMNS, (observation, action, reward, next_observation, terminated), strict=True):
            self._columns[name][place] = rows
        self._added += count

    def sample(self, rng: np.random.Generator, batch: int, discount: float) -> Transitions:
        """`batch` transitions, each equally likely, with replacement.

        Raises:
            ValueError: there are fewer than `batch` to draw from.
        """
        if len(self) < batch:
            raise ValueError(f"a batch of {batch} from {len(self)} transitions: wait for more, or take a smaller batch")
        index = rng.integers(0, len(self), batch)
        columns: dict[str, Any] = {name: column[index] for name, column in self._columns.items()}
        return Transitions(**columns, discount=np.where(columns["terminated"], np.float32(0.0), np.float32(discount)), index=index)

    def state(self) -> dict[str, NDArray[Any]]:
        """All that it holds."""
        return {"added": np.array([self._added], np.int64), **{name: column[: len(self)] for name, column in self._columns.items()}}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Takes over what `state` gave, of a buffer of the same sizes."""
        self._added = int(state["added"][0])
        for name, column in self._columns.items():
            column[: len(self)] = state[name]
