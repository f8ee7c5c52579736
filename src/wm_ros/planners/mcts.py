"""Monte-Carlo tree search over drawn or evenly spaced actions; the tree itself is `runtime.tree_search`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wm_ros.contract.errors import UserError
from wm_ros.models.world_model import WorldModel
from wm_ros.planners.plan import Plan
from wm_ros.planners.planner import Planner, PlannerConfig, Stop, rollout_noise, shifted
from wm_ros.runtime import tree_search
from wm_ros.runtime.tree_search import Array, Transition, TreeConfig

MOST_ACTIONS = 1024


@dataclass(frozen=True)
class MCTSConfig(PlannerConfig):
    """Settings of the tree search; it plans on the mean over members, so `aggregate` and `pessimism` only rate the plan that comes out."""

    horizon: int = 8
    """H, model steps looked ahead: the deepest nodes of the tree, or where its rollouts end."""
    simulations: int = 100
    """Descents of the tree; one step of the model for each, and `rollout` more."""
    bins: int = 0
    """Evenly spaced actions per joint, ends included, which makes bins^joints at each node; 0 draws `samples` actions instead."""
    samples: int = 8
    """Actions drawn at each node, beside the last plan's and the policy's."""
    std: float = 0.7
    """Standard deviation of the draws around the last plan."""
    exploration: float = 1.4
    """Weight of what was tried seldom, beside values scaled to [0, 1]; the square root of 2 is that of the proof of UCT."""
    rollout: int = 8
    """Steps beyond a new node in which its action is held, to estimate its value; 0 where the value function is to be trusted."""
    kind: Literal["mcts"] = "mcts"
    """Name in configuration files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.simulations < 1 or self.rollout < 0:
            raise ValueError(f"simulations {self.simulations} must be at least 1, rollout {self.rollout} not negative")
        if self.bins == 1 or self.bins < 0 or (self.bins == 0 and self.samples < 1):
            raise ValueError(f"bins {self.bins} must be 0 or at least 2, samples {self.samples} at least 1 where bins is 0")
        if self.std <= 0 or self.exploration < 0:
            raise ValueError(f"std {self.std} must be above 0, exploration {self.exploration} not negative")


class MCTS(Planner[MCTSConfig]):
    """Grows a tree from single model steps; runs in numpy, so no graph holds it: a robot runs the same tree over an exported step."""

    def tree_config(self) -> TreeConfig:
        """What `runtime.tree_search.search` needs to do the same."""
        c = self.config
        if c.bins and c.bins**self.action_size > MOST_ACTIONS:
            raise ValueError(
                f"bins {c.bins} with {self.action_size} joints make {c.bins**self.action_size} actions at each node, "
                f"more than {MOST_ACTIONS}: take fewer bins, or bins 0 to draw actions"
            )
        return TreeConfig(
            c.simulations, c.horizon, self.action_size, c.bins, c.samples, c.std, c.exploration, c.rollout, c.discount,
            with_policy=self.policy is not None,
        )  # fmt: skip

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"best": (self.config.horizon, self.action_size)}

    def noise_shapes(self, model: WorldModel) -> dict[str, tuple[int, ...]]:
        shape = self.tree_config().noise_shape
        return {**({} if shape is None else {"actions": shape}), **rollout_noise(model, self.config.horizon, 1)}

    def forward(
        self, model: WorldModel, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor], stop: Stop | None = None
    ) -> Plan:
        if torch.compiler.is_compiling():
            raise UserError("planner.kind: mcts: a tree fits into no graph: export the model's step, and search with runtime.tree_search")
        self.check(model, observation, carry, noise)

        def step(states: Array, actions: Array) -> Transition:
            made = model.step(self._tensor(states), self.middle + self.half_range * self._tensor(actions))
            going_on = np.ones(len(states), np.float32) if made.going_on is None else made.going_on.numpy()
            return Transition(made.observation.numpy(), made.reward.numpy(), going_on)

        def value(states: Array) -> Array:
            assert self.value is not None
            return self.value(self._tensor(states)).numpy()

        def policy(state: Array) -> Array:
            assert self.policy is not None
            action = (self.policy(self._tensor(state[None]))[0] - self.middle) / self.half_range
            return torch.where(action.abs() < torch.inf, action, 0.0).numpy()

        with torch.no_grad():
            found = tree_search.search(
                self.tree_config(),
                observation.numpy(),
                carry["best"].numpy(),
                step,
                noise["actions"].numpy() if "actions" in noise else None,
                None if self.value is None else value,
                None if self.policy is None else policy,
                stop=stop,
            )
            best = self._tensor(found.actions)
            fixed = noise["model"][0] if "model" in noise else None
            returns, observations = self.scored(model, observation, best.unsqueeze(0), fixed)
        plan = self.plan(best.unsqueeze(0), returns, observations, {"best": shifted(best, model.stride)}, found.simulations)
        return plan._replace(ok=plan.ok & found.ok)

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self.middle.dtype)
