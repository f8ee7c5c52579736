"""What every world model gives to every planner."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Imagined(NamedTuple):
    """Imagined futures of N candidates on M members, after each of H model steps."""

    observation: Tensor
    """`[H, M, N, O]`, contract units."""
    reward: Tensor
    """`[H, M, N]`, gathered during the step, summed over its ticks."""
    going_on: Tensor | None
    """`[H, M, N]`, 1 where the episode goes on after the step, 0 where it has terminated; None for a task that never terminates."""


class Step(NamedTuple):
    """One model step of B states, without noise."""

    observation: Tensor
    """`[B, O]`, contract units."""
    reward: Tensor
    """`[B]`, summed over the step's ticks."""
    going_on: Tensor | None
    """`[B]`, 1 where the episode goes on, 0 where it has terminated; None for a task that never terminates."""


class WorldModel(Protocol):
    """Pure dynamics: no hidden state, no hidden randomness.

    A model imagines whole rollouts at once, so that each family does it in its fastest way: networks score rewards for all steps in one
    batch, a simulator rolls out in C.
    """

    stride: int
    """Control ticks that one model step covers."""
    members: int
    """M."""

    def noise_shape(self, horizon: int) -> tuple[int, ...] | None:
        """Shape of the standard-normal noise of one rollout over `horizon` steps; None for a model that needs none."""

    def rollout(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Imagined:
        """Imagines from `observation [O]` under `actions [H, N, A]` (contract units), each held for `stride` ticks."""

    def step(self, observation: Tensor, action: Tensor) -> Step:
        """One step from each of `observation [B, O]` under `action [B, A]` (contract units) for `stride` ticks: the mean over members.

        For planners that look at single transitions: local linear models (iLQR) and trees (MCTS).
        """
