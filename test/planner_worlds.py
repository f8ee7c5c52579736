"""Worlds whose best plans are known in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from wm_ros.models.world_model import Imagined, Step


@dataclass
class Linear:
    """x' = A x + B u with reward -(x'ᵀ Q x' + uᵀ R u): one member, differentiable, no noise."""

    a: Tensor = field(default_factory=lambda: torch.tensor([[1.0, 0.1], [0.0, 0.95]]))
    b: Tensor = field(default_factory=lambda: torch.tensor([[0.02], [0.3]]))
    q: Tensor = field(default_factory=lambda: torch.diag(torch.tensor([1.0, 0.1])))
    r: Tensor = field(default_factory=lambda: torch.tensor([[0.2]]))
    stride: int = 1
    members: int = 1

    @property
    def observation_size(self) -> int:
        return self.a.shape[0]

    @property
    def action_size(self) -> int:
        return self.b.shape[1]

    def noise_shape(self, horizon: int) -> None:
        return None

    def step(self, observation: Tensor, action: Tensor) -> Step:
        after = observation @ self.a.T + action @ self.b.T
        return Step(after, -(after @ self.q * after).sum(-1) - (action @ self.r * action).sum(-1), None)

    def rollout(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Imagined:
        state = observation.expand(actions.shape[1], -1)
        states, rewards = [], []
        for action in actions.unbind(0):
            state, reward, _ = self.step(state, action)
            states.append(state)
            rewards.append(reward)
        return Imagined(torch.stack(states).unsqueeze(1), torch.stack(rewards).unsqueeze(1), None)

    def quadratic(self, observation: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
        """The return as a function of the stacked actions u `[H A]`: -(uᵀ P u / 2 + pᵀ u) and a constant; P `[H A, H A]`, p `[H A]`."""
        size, a, b = self.observation_size, self.a, self.b
        free, forced = [], []  # x_{h+1} = free_h x_0 + forced_h u
        power, rows = torch.eye(size, dtype=a.dtype), torch.zeros(size, horizon * self.action_size, dtype=a.dtype)
        for h in range(horizon):
            power = a @ power
            rows = a @ rows
            rows[:, h * self.action_size : (h + 1) * self.action_size] += b
            free.append(power @ observation)
            forced.append(rows.clone())
        p = torch.block_diag(*[2 * self.r] * horizon) + 2 * sum(f.T @ self.q @ f for f in forced)
        linear = 2 * sum(f.T @ self.q @ x for f, x in zip(forced, free, strict=True))
        return p, linear
