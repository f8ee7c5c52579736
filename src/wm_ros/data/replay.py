"""A replay buffer: the transitions of many episodes in flat arrays, in memory or, past a size, in files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.data.episode import Episode
from wm_ros.data.image_rows import BLOCK_BYTES, ImageRows, NewBlock
from wm_ros.data.mapped import mapped


@dataclass(frozen=True, eq=False)
class Transitions:
    """B transitions, each over one step or over several."""

    observation: NDArray[np.float32]
    """[B, O]."""
    action: NDArray[np.float32]
    """[B, A], the first step's."""
    reward: NDArray[np.float32]
    """[B], discounted and summed over the steps."""
    next_observation: NDArray[np.float32]
    """[B, O], after the last step."""
    terminated: NDArray[np.bool_]
    """[B], by the last step; a truncated step is not terminated."""
    discount: NDArray[np.float32]
    """[B], what the value of `next_observation` counts: discount to the power of the steps, 0 where terminated."""
    index: NDArray[np.int64]
    """[B], places in the buffer."""
    images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    """Image channel → [B, H, W, C]."""
    next_images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    """Image channel → [B, H, W, C], after the last step."""

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, eq=False)
class Sequences:
    """B stretches of L steps, each within one episode."""

    observation: NDArray[np.float32]
    """[B, L+1, O]."""
    action: NDArray[np.float32]
    """[B, L, A]."""
    reward: NDArray[np.float32]
    """[B, L]."""
    terminated: NDArray[np.bool_]
    """[B, L]."""
    index: NDArray[np.int64]
    """[B], places of the first steps in the buffer."""
    images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    """Image channel → [B, L+1, H, W, C]."""

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class ReplayOptions:
    """Where a replay buffer keeps its arrays."""

    memory_bytes: int = 4 << 30
    """Past this size the arrays live in files below `folder`; of images those frames do that are past it."""
    folder: Path | None = None
    """None keeps everything in memory."""
    block_bytes: int = BLOCK_BYTES
    """Images are kept in blocks of about this size."""

    def __post_init__(self) -> None:
        if self.memory_bytes < 0 or self.block_bytes < 1:
            raise ValueError("memory_bytes must not be negative, block_bytes must be positive")


class Replay:
    """Grows by whole episodes. Observations are kept once each: an episode of T steps takes T + 1 rows.

    A place in the buffer is the number of a step, counted over all episodes in the order in which they were added.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        options: ReplayOptions | None = None,
        images: Mapping[str, tuple[int, int, int]] | None = None,
    ) -> None:
        """
        Args:
            observation_size: O.
            action_size: A.
            options: where it keeps its arrays.
            images: image channel → shape [H, W, C] of those whose frames are kept; others are left out.
        """
        self.observation_size = observation_size
        self.action_size = action_size
        self.options = options or ReplayOptions()
        self._rows = 0
        self._arrays: dict[str, NDArray[Any]] = {
            "observation": np.zeros((0, observation_size), np.float32),
            "action": np.zeros((0, action_size), np.float32),
            "reward": np.zeros(0, np.float32),
            "terminated": np.zeros(0, np.bool_),
        }
        block_bytes = self.options.block_bytes
        self._images = {name: ImageRows(shape, self._block_of(name), block_bytes) for name, shape in (images or {}).items()}
        self._image_bytes = 0
        """Of frames in memory."""
        self._ends = np.zeros(0, np.int64)
        """Steps up to and with each episode."""

    def __len__(self) -> int:
        """Steps in it."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def episodes(self) -> int:
        """Episodes in it."""
        return len(self._ends)

    @property
    def mapped(self) -> bool:
        """Whether arrays live in files."""
        arrays = [self._arrays["observation"], *(block for rows in self._images.values() for block in rows.blocks)]
        return any(isinstance(array, np.memmap) for array in arrays)

    def add(self, episode: Episode) -> None:
        """Takes an episode in.

        Raises:
            ValueError: its observation, action or images have another size, or a channel's images are missing.
            UserError: the files cannot be written, or a frame of its bag cannot be read. The buffer stays as it was.
        """
        steps = len(episode)
        if episode.observation.shape[1] != self.observation_size or episode.action.shape[1] != self.action_size:
            raise ValueError(
                f"episode with O={episode.observation.shape[1]}, A={episode.action.shape[1]}; "
                f"this buffer has O={self.observation_size}, A={self.action_size}"
            )
        for name, rows in self._images.items():
            given = tuple(episode.images[name].shape[1:]) if name in episode.images else "none"
            if given != rows.shape:
                raise ValueError(f"episode with images {name} of shape {given}; this buffer has {rows.shape}")
        self._reserve(self._rows + steps + 1)
        for name, rows in self._images.items():
            rows.put(self._rows, episode.images[name])
        here = slice(self._rows, self._rows + steps)
        self._arrays["observation"][self._rows : self._rows + steps + 1] = episode.observation
        self._arrays["action"][here] = episode.action
        self._arrays["reward"][here] = episode.reward
        self._arrays["terminated"][here] = episode.terminated
        self._ends = np.append(self._ends, len(self) + steps)
        self._rows += steps + 1

    def _reserve(self, rows: int) -> None:
        have = len(self._arrays["reward"])
        if rows <= have:
            return
        size = max(rows, have + have // 2, 1024)
        needed = size * sum(a.itemsize * int(np.prod(a.shape[1:])) for a in self._arrays.values())
        folder = self.options.folder if needed + self._image_bytes > self.options.memory_bytes else None
        for name, old in self._arrays.items():
            shape = (size, *old.shape[1:])
            new = np.zeros(shape, old.dtype) if folder is None else mapped(folder, f"{name}_{size}", shape, old.dtype)
            new[: self._rows] = old[: self._rows]
            self._arrays[name] = new
            if isinstance(old, np.memmap):
                Path(str(old.filename)).unlink(missing_ok=True)

    def _block_of(self, name: str) -> NewBlock:
        def make(shape: tuple[int, ...]) -> NDArray[np.uint8]:
            size = int(np.prod(shape))
            vectors = sum(a.nbytes for a in self._arrays.values() if not isinstance(a, np.memmap))
            if self.options.folder is not None and vectors + self._image_bytes + size > self.options.memory_bytes:
                return mapped(self.options.folder, f"images.{name}_{len(self._images[name].blocks)}", shape, np.uint8)
            self._image_bytes += size
            return np.zeros(shape, np.uint8)

        return make

    def _locate(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows [B] of steps, and how many steps [B] are left in their episodes, the step itself included."""
        if len(index) and (index.min() < 0 or index.max() >= len(self)):
            raise IndexError(f"places {index.min()}..{index.max()} of a buffer with {len(self)} steps")
        episode = np.searchsorted(self._ends, index, side="right")
        # Every episode before took one row more than steps.
        return index + episode, self._ends[episode] - index if len(index) else index

    def transitions(self, index: NDArray[np.int64] | None = None, steps: int = 1, discount: float = 1.0) -> Transitions:
        """The transitions from `index` on.

        Args:
            index: [B] in 0..len-1; None for all of them, in the order of recording.
            steps: how many steps each spans. One that reaches its episode's end before is shorter, and bootstraps from there.
            discount: per step.
        """
        index = np.arange(len(self)) if index is None else index
        row, left = self._locate(index)
        span = np.minimum(left, steps)
        reward = np.zeros(len(index), np.float32)
        for step in range(int(span.max()) if len(span) else 0):
            inside = step < span
            reward[inside] += np.float32(discount**step) * self._arrays["reward"][row[inside] + step]
        terminated = np.asarray(self._arrays["terminated"][row + span - 1])
        return Transitions(
            observation=np.asarray(self._arrays["observation"][row]),
            action=np.asarray(self._arrays["action"][row]),
            reward=reward,
            next_observation=np.asarray(self._arrays["observation"][row + span]),
            terminated=terminated,
            discount=np.where(terminated, 0.0, float(discount) ** span).astype(np.float32),
            index=index,
            images=self._frames(row),
            next_images=self._frames(row + span),
        )

    def sequence_starts(self, length: int) -> NDArray[np.int64]:
        """Every place from which `length` steps stay within the episode."""
        index = np.arange(len(self))
        return index[self._locate(index)[1] >= length]

    def sequences(self, index: NDArray[np.int64], length: int) -> Sequences:
        """The stretches of `length` steps from the places `index` [B] on.

        Raises:
            ValueError: one of them would leave its episode.
        """
        row, left = self._locate(index)
        if (left < length).any():
            raise ValueError(f"a sequence of {length} steps from place {index[left < length][0]} leaves its episode")
        rows = row[:, None] + np.arange(length)
        return Sequences(
            observation=np.asarray(self._arrays["observation"][row[:, None] + np.arange(length + 1)]),
            action=np.asarray(self._arrays["action"][rows]),
            reward=np.asarray(self._arrays["reward"][rows]),
            terminated=np.asarray(self._arrays["terminated"][rows]),
            index=index,
            images=self._frames(row[:, None] + np.arange(length + 1)),
        )

    def _frames(self, rows: NDArray[np.int64]) -> dict[str, NDArray[np.uint8]]:
        return {name: images.take(rows) for name, images in self._images.items()}

    def uniform(self, rng: np.random.Generator, batch: int) -> NDArray[np.int64]:
        """Places [B], each equally likely, with replacement.

        Raises:
            ValueError: the buffer is empty.
        """
        self._not_empty()
        return rng.integers(0, len(self), batch)

    def recent(self, rng: np.random.Generator, batch: int, half_life: float) -> NDArray[np.int64]:
        """Places [B]; a step is half as likely as one that came `half_life` steps after it.

        Raises:
            ValueError: the buffer is empty.
        """
        self._not_empty()
        decay = np.log(2.0) / half_life
        # The exponential distribution of the age, cut off at the oldest step, by its inverse.
        age = (-np.log1p(-rng.random(batch) * -np.expm1(-decay * len(self))) / decay).astype(np.int64)
        place: NDArray[np.int64] = len(self) - 1 - np.minimum(age, len(self) - 1)
        return place

    def sample(self, rng: np.random.Generator, batch: int, steps: int = 1, discount: float = 1.0) -> Transitions:
        """`batch` transitions, each equally likely, with replacement; see `transitions`."""
        return self.transitions(self.uniform(rng, batch), steps, discount)

    def sample_sequences(self, rng: np.random.Generator, batch: int, length: int) -> Sequences:
        """`batch` stretches of `length` steps, each equally likely, with replacement.

        Raises:
            ValueError: no episode is that long.
        """
        starts = self.sequence_starts(length)
        if not len(starts):
            raise ValueError(f"no episode has {length} steps")
        return self.sequences(starts[rng.integers(0, len(starts), batch)], length)

    def _not_empty(self) -> None:
        if not len(self):
            raise ValueError("the replay buffer is empty")
