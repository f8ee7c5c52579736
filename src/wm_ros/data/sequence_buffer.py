"""Stretches of experience over the borders of episodes: what a recurrent learner draws its batches from while they come in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.data.episode import Episode
from wm_ros.data.mapped import mapped
from wm_ros.data.replay import ReplayOptions

_IMAGES = "images."
_REMEMBERED = "remembered."
_NO_IMAGES: Mapping[str, Any] = {}


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
    images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    """Image channel → [B, L, H, W, C], seen with the observation."""
    before: dict[str, NDArray[Any]] = field(default_factory=dict)
    """What was last remembered with the row before each stretch, by name: [B, ...]; zero where there is none."""
    world: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))
    """[B], each stretch's."""
    place: NDArray[np.intp] = field(default_factory=lambda: np.zeros((0, 0), np.intp))
    """[B, L], of each row in its world's ring, until the next row comes in."""


class SequenceBuffer:
    """The newest rows of several worlds, each in a ring of its own, one episode behind the other."""

    def __init__(
        self,
        capacity: int,
        observation_size: int,
        action_size: int,
        worlds: int = 1,
        images: Mapping[str, tuple[int, int, int]] | None = None,
        options: ReplayOptions | None = None,
        remembered: Mapping[str, tuple[tuple[int, ...], Any]] | None = None,
    ) -> None:
        """
        Args:
            capacity: rows of all worlds together.
            observation_size: O.
            action_size: A.
            worlds: how many there are.
            images: image channel → shape [H, W, C] of its frames.
            options: where images, and what is remembered, are kept that do not fit into memory.
            remembered: name → shape and type of what `remember` keeps with each row.
        """
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
        options = options or ReplayOptions()
        room = options.memory_bytes

        def large(name: str, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
            nonlocal room
            whole = (worlds, self.capacity, *shape)
            room -= int(np.prod(whole)) * np.dtype(kind).itemsize
            return np.zeros(whole, kind) if options.folder is None or room >= 0 else mapped(options.folder, name, whole, kind)

        kept = {_REMEMBERED + name: of for name, of in (remembered or {}).items()}
        self._remembered = {name: large(name, *of) for name, of in kept.items()}
        self._columns |= {_IMAGES + name: large(_IMAGES + name, shape, np.uint8) for name, shape in (images or {}).items()}
        self._added = np.zeros(worlds, np.int64)

    def __len__(self) -> int:
        """Rows in it."""
        return int(np.minimum(self._added, self.capacity).sum())

    def begin(self, world: int, observation: NDArray[np.float32], images: Mapping[str, NDArray[np.uint8]] = _NO_IMAGES) -> None:
        """An episode of this world begins with this observation [O] and, where it has any, these images [H, W, C] by channel."""
        self._put(world, images, observation=observation, action=0.0, reward=0.0, terminated=False, first=True)

    def add(
        self,
        world: int,
        action: NDArray[np.float32],
        reward: float,
        observation: NDArray[np.float32],
        terminated: bool,
        images: Mapping[str, NDArray[np.uint8]] = _NO_IMAGES,
    ) -> None:
        """The action [A] led to this reward, observation [O] and images [H, W, C]."""
        self._put(world, images, observation=observation, action=action, reward=reward, terminated=terminated, first=False)

    def take(self, world: int, episode: Episode) -> NDArray[np.intp]:
        """A whole episode of this world; the places [T+1] of its rows, as `remember` takes them."""
        begun = int(self._added[world])
        names = [name.removeprefix(_IMAGES) for name in self._columns if name.startswith(_IMAGES)]

        def seen(t: int) -> dict[str, NDArray[np.uint8]]:
            return {name: episode.images[name][t] for name in names}

        self.begin(world, episode.observation[0], seen(0))
        for t in range(len(episode)):
            reward, terminated = float(episode.reward[t]), bool(episode.terminated[t])
            self.add(world, episode.action[t], reward, episode.observation[t + 1], terminated, seen(t + 1))
        return np.arange(begun, int(self._added[world]), dtype=np.intp) % self.capacity

    def _put(self, world: int, images: Mapping[str, NDArray[np.uint8]], **row: Any) -> None:
        row |= {_IMAGES + name: frame for name, frame in images.items()}
        if row.keys() != self._columns.keys():
            raise ValueError(f"a row of {sorted(row)}, this buffer has {sorted(self._columns)}")
        place = int(self._added[world]) % self.capacity
        for name, value in row.items():
            column = self._columns[name]
            if name.startswith(_IMAGES) and np.shape(value) != column.shape[2:]:
                raise ValueError(f"{name} of shape {np.shape(value)}, this buffer has {column.shape[2:]}")
            column[world, place] = value
        for kept in self._remembered.values():
            kept[world, place] = 0
        self._added[world] += 1

    def newest(self) -> NDArray[np.intp]:
        """Places [W] of the newest row of each world."""
        return ((self._added - 1) % self.capacity).astype(np.intp)

    def remember(self, world: NDArray[np.intp], place: NDArray[np.intp], **values: NDArray[Any]) -> None:
        """Keeps values with rows; those that the buffer was made for.

        Args:
            world: [...], of each row.
            place: [...], of each row in its world's ring (`newest`, `Stretches.place`).
            values: name → [..., shape].
        """
        for name, value in values.items():
            self._remembered[_REMEMBERED + name][world, place] = value

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
        columns: dict[str, Any] = {name: column[world[:, None], place % self.capacity] for name, column in self._columns.items()}
        images = {name.removeprefix(_IMAGES): columns.pop(name) for name in list(columns) if name.startswith(_IMAGES)}
        before = {}
        for name, kept in self._remembered.items():
            found = before[name.removeprefix(_REMEMBERED)] = kept[world, (place[:, 0] - 1) % self.capacity]
            found[offset == 0] = 0  # the oldest row has none before it
        return Stretches(**columns, images=images, before=before, world=world, place=place % self.capacity)

    def memories(self) -> dict[str, NDArray[Any]]:
        """What is remembered with all rows, for `recall` of a buffer with the same rows."""
        held = int(np.minimum(self._added, self.capacity).max())
        return {name: np.ascontiguousarray(c[:, :held]) for name, c in self._remembered.items()}

    def recall(self, memories: Mapping[str, NDArray[Any]]) -> None:
        """Takes over what `memories` gave.

        Raises:
            KeyError: something is missing.
            ValueError: it is of other sizes.
        """
        for name, column in self._remembered.items():
            column[:, : memories[name].shape[1]] = memories[name]

    def state(self) -> dict[str, NDArray[Any]]:
        """All that it holds."""
        held = int(np.minimum(self._added, self.capacity).max())
        columns = {name: np.ascontiguousarray(c[:, :held]) for name, c in self._columns.items()}
        return {"added": self._added.copy(), **columns, **self.memories()}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Takes over what `state` gave, of a buffer of the same sizes; of another capacity, the newest rows that there is room for.

        Raises:
            ValueError: it is of other sizes.
        """
        added, held = state["added"], state["reward"].shape[1]
        columns = {**self._columns, **self._remembered}
        if held == self.capacity or added.max() <= held < self.capacity:
            self._added = added.copy()
            for name, column in columns.items():
                column[:, :held] = state[name]
            return
        for world, count in enumerate(added.tolist()):
            rows = (np.arange(max(0, count - held), count) % held)[-self.capacity :]
            for name, column in columns.items():
                column[world, : len(rows)] = state[name][world, rows]
            self._added[world] = len(rows)
