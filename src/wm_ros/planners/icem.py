"""Cross-entropy method with coloured noise, elite reuse and warm start (iCEM, Pinneri et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wm_ros.models.world_model import WorldModel
from wm_ros.planners.colored_noise import coloring_matrix
from wm_ros.planners.plan import Plan


@dataclass(frozen=True)
class ICEMConfig:
    """Settings of the planner; actions are counted in half ranges of the joint, from -1 to 1."""

    horizon: int = 24
    """H, model steps looked ahead; a step covers the model's `stride` ticks."""
    candidates: int = 48
    """N, sequences drawn per iteration."""
    iterations: int = 2
    """Rounds of drawing and refitting."""
    elites: int = 8
    """K, best sequences that the distribution is refitted to."""
    kept: int = 2
    """Elites carried into the next iteration and the next tick."""
    noise_exponent: float = 1.7
    """Colour of the noise along the horizon: 0 white, 2 Brownian."""
    initial_std: float = 0.5
    """Standard deviation at the start of every plan."""
    momentum: float = 0.1
    """Share of the old mean and standard deviation in the refitted ones."""

    pessimism: float = 0.0
    """Standard deviations over members taken off a candidate's mean return; above 0 keeps the plan where the members agree."""

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.candidates < 1 or self.iterations < 1:
            raise ValueError("horizon, candidates and iterations must be at least 1")
        if not 1 <= self.elites <= self.candidates or not 0 <= self.kept <= self.elites:
            raise ValueError(f"needs 0 <= kept {self.kept} <= elites {self.elites} <= candidates {self.candidates}, elites >= 1")


class ICEM(nn.Module):
    """The planner over any world model; all randomness comes in as `noise`."""

    def __init__(self, config: ICEMConfig, low: Tensor, high: Tensor) -> None:
        """Args: config; `low [A]`, `high [A]` action limits in contract units."""
        super().__init__()
        if not bool((low < high).all()):
            raise ValueError(f"action limits: low {low.tolist()} must be below high {high.tolist()}")
        self.config = config
        self.action_size = low.shape[0]
        self.register_buffer("middle", (low + high) / 2)
        self.register_buffer("half_range", (high - low) / 2)
        self.register_buffer("coloring", torch.from_numpy(coloring_matrix(config.horizon, config.noise_exponent)))

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """What is carried from tick to tick; all start at zero."""
        c = self.config
        return {"mean": (c.horizon, self.action_size), "elites": (c.kept, c.horizon, self.action_size)}

    def noise_shapes(self, model: WorldModel) -> dict[str, tuple[int, ...]]:
        """Standard-normal noise of one plan."""
        c = self.config
        shapes: dict[str, tuple[int, ...]] = {"actions": (c.iterations, c.candidates, self.action_size, c.horizon)}
        rollout = model.noise_shape(c.horizon)
        if rollout is not None:
            shapes["model"] = (c.iterations, *rollout)
        return shapes

    def forward(self, model: WorldModel, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor]) -> Plan:
        """One plan.

        Args:
            model: the world model.
            observation: `[O]`.
            carry: `mean [H, A]` and `elites [K, H, A]` of the last plan, already shifted by one tick.
            noise: as `noise_shapes` says.
        """
        c = self.config
        mean, std = carry["mean"], torch.full_like(carry["mean"], c.initial_std)
        elites = carry["elites"]
        for i in range(c.iterations):
            drawn = mean + std * torch.matmul(noise["actions"][i], self.coloring.T).transpose(1, 2)
            sequences = torch.cat([drawn, elites, mean.unsqueeze(0)]).clamp(-1.0, 1.0)
            returns, observations = self._scored(model, observation, sequences, noise["model"][i] if "model" in noise else None)
            best, order = torch.topk(returns, c.elites)
            chosen = sequences[order]
            elites = chosen[: c.kept]
            mean = c.momentum * mean + (1.0 - c.momentum) * chosen.mean(dim=0)
            std = c.momentum * std + (1.0 - c.momentum) * chosen.std(dim=0, correction=0)
        futures = observations[:, :, order]
        actions = self.middle + self.half_range * chosen[0]
        return Plan(
            action=actions[0],
            actions=actions,
            observations=futures[:, :, 0].mean(dim=1),
            spread=futures[:, :, 0].std(dim=1, correction=0),
            value=best[0],
            candidates=futures.mean(dim=1).transpose(0, 1),
            returns=best,
            ok=best[0] > _WORST / 2,
            carry={"mean": _shifted(mean, model.stride), "elites": _shifted(elites, model.stride)},
        )

    def _scored(self, model: WorldModel, observation: Tensor, sequences: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns `[N]` over members and imagined observations `[H, M, N, O]` of `sequences [N, H, A]`."""
        actions = (self.middle + self.half_range * sequences).transpose(0, 1)
        imagined = model.rollout(observation, actions, noise)
        reward = imagined.reward
        if imagined.going_on is not None:  # what follows a termination does not count; the step that terminates does
            reward = torch.cat([reward[:1], reward[1:] * imagined.going_on[:-1]])
        total = reward.sum(dim=0)
        returns = total.mean(dim=0)
        if self.config.pessimism:
            returns = returns - self.config.pessimism * total.std(dim=0, correction=0)
        finite = returns.abs() < -_WORST  # false for NaN and infinity
        return torch.where(finite, returns, _WORST), imagined.observation


_WORST = -1e30


def _shifted(sequence: Tensor, stride: int) -> Tensor:
    """`sequence [..., H, A]` one tick later: each knot moves 1 / stride of the way to the next one."""
    following = torch.cat([sequence[..., 1:, :], sequence[..., -1:, :]], dim=-2)
    return sequence + (following - sequence) * (1.0 / stride)
