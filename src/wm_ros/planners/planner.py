"""What all planners have in common: limits, the checks at the door, scoring, and the plan that comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from wm_ros.models.world_model import WorldModel
from wm_ros.planners import scoring
from wm_ros.planners.plan import Plan

Stop = Callable[[], bool]
"""Asked between iterations; true ends the search, and the best so far is the plan."""

Policy = Callable[[Tensor], Tensor]
"""A prior: observations `[B, O]` → actions `[B, A]`, contract units."""


@dataclass(frozen=True)
class PlannerConfig:
    """Settings that all planners share; actions are counted in half ranges of the joint, from -1 to 1."""

    horizon: int = 24
    """H, model steps looked ahead; a step covers the model's `stride` ticks."""
    aggregate: scoring.Aggregate = "mean"
    """A candidate's return: `mean` over members, or that of the `worst` member."""
    pessimism: float = 0.0
    """Standard deviations over members taken off a candidate's return; above 0 keeps the plan where the members agree."""
    discount: float = 1.0
    """Weight of a reward one model step later, above 0 and at most 1."""

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ValueError(f"horizon {self.horizon} must be at least 1")
        if self.aggregate not in ("mean", "worst"):
            raise ValueError(f"aggregate {self.aggregate!r} must be mean or worst")
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount {self.discount} must be above 0 and at most 1")


Config = TypeVar("Config", bound=PlannerConfig)


class Planner(nn.Module, Generic[Config]):
    """A planner over any world model: a pure function of observation, carry and noise.

    Everything that is carried from one tick to the next starts at zero, the middle of the limits.
    """

    differentiates = False
    """Whether a plan takes gradients with `torch.func`."""

    def __init__(self, config: Config, low: Tensor, high: Tensor, value: scoring.Value | None = None, policy: Policy | None = None) -> None:
        """A planner of one task.

        Args:
            config: settings.
            low: `[A]`, contract units.
            high: `[A]`, above `low`.
            value: counted at the end of the horizon; a module's parameters become the planner's.
            policy: its imagined run is one of the candidates.
        """
        super().__init__()
        if low.ndim != 1 or low.shape != high.shape or low.shape[0] == 0:
            raise ValueError(f"action limits: low {tuple(low.shape)} and high {tuple(high.shape)} must both be [A] with A at least 1")
        if not bool((low < high).all()) or not bool(torch.isfinite(high - low).all()):
            raise ValueError(f"action limits: low {low.tolist()} must be below high {high.tolist()}, all finite")
        self.config = config
        self.value, self.policy = value, policy
        self.action_size = low.shape[0]
        self.register_buffer("middle", (low + high) / 2)
        self.register_buffer("half_range", (high - low) / 2)

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """What is carried from tick to tick; all start at zero."""
        raise NotImplementedError

    def noise_shapes(self, model: WorldModel) -> dict[str, tuple[int, ...]]:
        """Standard-normal noise of one plan."""
        raise NotImplementedError

    def forward(
        self, model: WorldModel, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor], stop: Stop | None = None
    ) -> Plan:
        """One plan.

        Args:
            model: the world model.
            observation: `[O]`.
            carry: as `carry_shapes` says: what the last plan gave, which is moved on by one tick already.
            noise: as `noise_shapes` says.
            stop: asked between iterations; the first one is always done.
        """
        raise NotImplementedError

    def check(self, model: WorldModel, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor]) -> None:
        """Refuses, before any work, a model of other dimensions than the limits and inputs of a wrong shape."""
        actions = getattr(model, "action_size", self.action_size)
        if actions != self.action_size:
            raise ValueError(f"model of {actions} actions, limits of {self.action_size}: both must come from the same contract")
        if observation.ndim != 1 or observation.shape[0] != getattr(model, "observation_size", observation.shape[0]):
            raise ValueError(f"observation {tuple(observation.shape)}, the model has [{getattr(model, 'observation_size', 'O')}]")
        for kind, given, shapes in (("carry", carry, self.carry_shapes()), ("noise", noise, self.noise_shapes(model))):
            for name, shape in shapes.items():
                if name not in given or tuple(given[name].shape) != shape:
                    came = tuple(given[name].shape) if name in given else "nothing"
                    raise ValueError(f"{kind}.{name}: expected {shape}, found {came}")

    def scored(self, model: WorldModel, observation: Tensor, sequences: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns `[N]` and imagined observations `[H, M, N, O]` of `sequences [N, H, A]`."""
        c = self.config
        imagined = model.rollout(observation, (self.middle + self.half_range * sequences).transpose(0, 1), noise)
        scoring.check_shapes(imagined, c.horizon, model.members, sequences.shape[0])
        return scoring.returns(imagined, c.aggregate, c.pessimism, c.discount, self.value), imagined.observation

    def prior(self, model: WorldModel, observation: Tensor) -> list[Tensor]:
        """The policy's imagined run as one more candidate `[1, H, A]`, or none without a policy."""
        if self.policy is None:
            return []
        state, actions = observation.unsqueeze(0), []
        for _ in range(self.config.horizon):
            action = self.policy(state)
            if action.shape != (1, self.action_size):
                raise ValueError(f"policy gives {tuple(action.shape)} for one observation, expected {(1, self.action_size)}")
            scaled = ((action - self.middle) / self.half_range).clamp(-1.0, 1.0)
            action = torch.where(scaled.abs() <= 1.0, scaled, 0.0)  # NaN would outlive its candidate in means and carries
            actions.append(action)
            state = model.step(state, self.middle + self.half_range * action).observation
        return [torch.stack(actions, dim=1)]

    def plan(self, sequences: Tensor, returns: Tensor, observations: Tensor, carry: dict[str, Tensor], iterations: int) -> Plan:
        """The plan that the first of `sequences [K, H, A]` is, with returns `[K]` and futures `[H, M, K, O]`."""
        actions = self.middle + self.half_range * sequences[0]
        return Plan(
            action=actions[0],
            actions=actions,
            observations=observations[:, :, 0].mean(dim=1),
            spread=observations[:, :, 0].std(dim=1, correction=0),
            value=returns[0],
            candidates=observations.mean(dim=1).transpose(0, 1),
            returns=returns,
            ok=scoring.found(returns[0]),
            iterations=returns.new_full((), float(iterations)),
            carry=carry,
        )


def rollout_noise(model: WorldModel, horizon: int, iterations: int) -> dict[str, tuple[int, ...]]:
    """The model's own noise, anew for each iteration; nothing where it needs none."""
    shape = model.noise_shape(horizon)
    return {} if shape is None else {"model": (iterations, *shape)}


def shifted(sequence: Tensor, stride: int) -> Tensor:
    """`sequence [..., H, A]` one tick later: each knot moves 1 / stride of the way to the next one."""
    following = torch.cat([sequence[..., 1:, :], sequence[..., -1:, :]], dim=-2)
    return sequence + (following - sequence) * (1.0 / stride)
