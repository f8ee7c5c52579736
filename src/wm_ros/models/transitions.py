"""The rows that models are fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Transitions:
    """B windows of `stride` control ticks."""

    observation: NDArray[np.float32]
    """`[B, O]`"""
    actions: NDArray[np.float32]
    """`[B, stride, A]`"""
    following: NDArray[np.float32]
    """`[B, O]`, `stride` ticks later."""
    reward: NDArray[np.float32] | None = None
    """`[B]`, mean over the window's ticks."""
    terminated: NDArray[np.bool_] | None = None
    """`[B]`, the episode ended in a final state within the window."""

    def __len__(self) -> int:
        return len(self.observation)


def transitions(
    observation: NDArray[np.float32],
    action: NDArray[np.float32],
    stride: int,
    reward: NDArray[np.float32] | None = None,
    terminated: NDArray[np.bool_] | None = None,
) -> Transitions:
    """All windows of `stride` ticks of one episode.

    Args:
        observation: `[T+1, O]`.
        action: `[T, A]`.
        stride: ticks of a window.
        reward: `[T]`, for models that learn it.
        terminated: `[T]`, for models that learn it.

    Returns:
        T - stride + 1 rows.
    """
    rows = len(action) - stride + 1
    if rows < 1:
        raise ValueError(f"an episode of {len(action)} ticks is shorter than one model step of {stride} ticks")
    windows = np.stack([action[i : i + rows] for i in range(stride)], axis=1)
    rewards = None if reward is None else np.mean([reward[i : i + rows] for i in range(stride)], axis=0, dtype=np.float64)
    ended = None if terminated is None else np.any([terminated[i : i + rows] for i in range(stride)], axis=0)
    return Transitions(
        observation[:rows], windows, observation[stride:], None if rewards is None else rewards.astype(np.float32), ended
    )


def concatenated(parts: list[Transitions]) -> Transitions:
    """The rows of several episodes; reward and termination where all of them have these."""
    rewards = [p.reward for p in parts if p.reward is not None]
    ended = [p.terminated for p in parts if p.terminated is not None]
    return Transitions(
        np.concatenate([p.observation for p in parts]),
        np.concatenate([p.actions for p in parts]),
        np.concatenate([p.following for p in parts]),
        np.concatenate(rewards) if len(rewards) == len(parts) else None,
        np.concatenate(ended) if len(ended) == len(parts) else None,
    )
