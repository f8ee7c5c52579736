"""Iterative LQR within action limits (Tassa, Mansard and Todorov 2014, *Control-limited differential dynamic programming*).

The reward's Hessian is exact, along the model step; second derivatives of the dynamics inside the value function are left out, which makes
it iLQR and not DDP. Regularizations and step sizes are tried side by side as a batch (as in parallel DDP, Plancher and Kuindersma 2018), so
that there is no branching on data, and an iteration has a fixed shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from wm_ros.models.world_model import WorldModel
from wm_ros.planners import box_qp, scoring
from wm_ros.planners.colored_noise import coloring_matrix
from wm_ros.planners.derivatives import Derivatives, by_autodiff, by_differences, differentiable, hessian
from wm_ros.planners.plan import Plan
from wm_ros.planners.planner import Planner, PlannerConfig, Policy, Stop, rollout_noise, shifted
from wm_ros.planners.scoring import Value

_REGULARIZATIONS = (0.1, 1.0, 10.0)  # tried at once, beside the present one
_LEAST, _MOST = 1e-6, 1e6  # of the regularization


@dataclass(frozen=True)
class ILQRConfig(PlannerConfig):
    """Settings of iLQR; it plans on the mean over members, and `aggregate` and `pessimism` only choose between what it found."""

    iterations: int = 8
    """Backward and forward passes."""
    draws: int = 16
    """Coloured draws beside the last plan, of which the best is where it starts; 0 for none."""
    std: float = 0.5
    """Standard deviation of the draws."""
    noise_exponent: float = 1.7
    """Colour of the draws along the horizon: 0 white, 2 Brownian."""
    regularization: float = 0.1
    """Added to the curvature of each action, in reward per squared half range, at the start of every plan; adapts from there."""
    step_sizes: int = 6
    """Steps of 1, 1/2, 1/4 and so on that the line search tries."""
    qp_iterations: int = 8
    """Projected Newton steps for the limits, per knot; a robot with one joint needs none."""
    difference: float = 0.01
    """Distance of the central differences, in half ranges and contract units, for a model that torch cannot differentiate."""
    kind: Literal["ilqr"] = "ilqr"
    """Name in configuration files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1 or self.step_sizes < 1 or self.qp_iterations < 1 or self.draws < 0:
            raise ValueError(
                f"iterations {self.iterations}, step_sizes {self.step_sizes} and qp_iterations {self.qp_iterations} must be at least 1, "
                f"draws {self.draws} not negative"
            )
        if self.std <= 0 or self.regularization <= 0 or self.difference <= 0:
            raise ValueError(f"std {self.std}, regularization {self.regularization} and difference {self.difference} must be above 0")


class Course(NamedTuple):
    """A trajectory of the model's mean."""

    states: Tensor
    """`[H + 1, O]`"""
    actions: Tensor
    """`[H, A]`, in half ranges."""
    alive: Tensor
    """`[H + 1]`, 1 where the episode still goes on at the state."""
    returned: Tensor
    """`[]`"""


class Gains(NamedTuple):
    """What the backward pass gives, for L regularizations."""

    open: Tensor
    """k `[H, L, A]`"""
    closed: Tensor
    """K `[H, L, A, O]`"""


class ILQR(Planner[ILQRConfig]):
    """Improves one trajectory by solving its local linear-quadratic problem, with feedback in the forward pass."""

    differentiates = True

    def __init__(self, config: ILQRConfig, low: Tensor, high: Tensor, value: Value | None = None, policy: Policy | None = None) -> None:
        """See `Planner`."""
        super().__init__(config, low, high, value, policy)
        self.register_buffer("coloring", torch.from_numpy(coloring_matrix(config.horizon, config.noise_exponent)))
        self.register_buffer("ladder", torch.tensor(_REGULARIZATIONS))
        self.register_buffer("step_sizes", 0.5 ** torch.arange(config.step_sizes))

    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"best": (self.config.horizon, self.action_size)}

    def noise_shapes(self, model: WorldModel) -> dict[str, tuple[int, ...]]:
        c = self.config
        draws = {"actions": (c.draws, self.action_size, c.horizon)} if c.draws else {}
        return {**draws, **rollout_noise(model, c.horizon, 2)}

    def forward(
        self, model: WorldModel, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor], stop: Stop | None = None
    ) -> Plan:
        self.check(model, observation, carry, noise)
        c = self.config
        starts = [carry["best"].unsqueeze(0), *self.prior(model, observation)]
        if c.draws:
            starts.append(carry["best"] + c.std * torch.matmul(noise["actions"], self.coloring.T).transpose(1, 2))
        sequences = torch.cat(starts).clamp(-1.0, 1.0)
        returns, _ = self.scored(model, observation, sequences, noise["model"][0] if "model" in noise else None)
        start = sequences.index_select(0, returns.argmax(dim=0, keepdim=True))[0]
        course = self._start(model, observation, start)
        regularization = torch.full_like(course.returned, c.regularization)
        sizes: Tensor = self.step_sizes  # type: ignore[assignment]
        done = 0
        for i in range(c.iterations):
            tried = (regularization * self.ladder).clamp(_LEAST, _MOST)
            following, place = self._forward_pass(model, course, self._backward_pass(model, course, tried), sizes)
            # False for NaN: a course that diverges is never taken, and one that does not get better raises the regularization.
            better = following.returned > course.returned
            regularization = torch.where(better, tried.index_select(0, place)[0], 10.0 * tried[-1]).clamp(_LEAST, _MOST)
            course = Course(*(torch.where(better, new, old) for new, old in zip(following, course, strict=True)))
            done = i + 1
            if stop is not None and stop():
                break
        pair = torch.stack([course.actions, start])
        returns, observations = self.scored(model, observation, pair, noise["model"][1] if "model" in noise else None)
        returns, order = torch.topk(returns, 2)
        best = pair[order]
        return self.plan(best, returns, observations[:, :, order], {"best": shifted(best[0], model.stride)}, done)

    def _step(self, model: WorldModel, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Next state `[B, O]`, reward `[B]` and whether the episode goes on `[B]`, for actions in half ranges."""
        made = model.step(state, self.middle + self.half_range * action)
        return made.observation, made.reward, torch.ones_like(made.reward) if made.going_on is None else made.going_on

    def _start(self, model: WorldModel, observation: Tensor, actions: Tensor) -> Course:
        """The course under `actions [H, A]`."""
        still = Gains(torch.zeros_like(actions).unsqueeze(1), actions.new_zeros(*actions.shape, observation.shape[0]).unsqueeze(1))
        nowhere = Course(observation.expand(len(actions) + 1, -1), actions, actions.new_ones(len(actions) + 1), actions.new_zeros(()))
        return self._forward_pass(model, nowhere, still, actions.new_ones(1))[0]

    def _derivatives(self, model: WorldModel, course: Course) -> Derivatives:
        """Of every step of the course."""
        size = course.states.shape[1]

        def step(z: Tensor) -> tuple[Tensor, Tensor]:
            return self._step(model, z[:, :size], z[:, size:])[:2]

        z = torch.cat([course.states[:-1], course.actions], dim=1)
        return by_autodiff(step, z) if differentiable(model) else by_differences(step, z, self.config.difference)

    def _backward_pass(self, model: WorldModel, course: Course, regularization: Tensor) -> Gains:
        """Equations 5 to 11 of the paper and its section III-C, for regularizations `[L]` side by side; cost is minus reward."""
        horizon, joints = course.actions.shape
        count, size = regularization.shape[0], course.states.shape[1]
        local = self._derivatives(model, course)
        weight = -course.alive * self.config.discount ** torch.arange(horizon + 1, dtype=course.alive.dtype)
        gradient, curvature = weight[:-1, None] * local.gradient, weight[:-1, None, None] * local.hessian
        if self.value is None:
            v_x, v_xx = course.states.new_zeros(count, size, 1), course.states.new_zeros(count, size, size)
        else:
            value, last = self.value, course.states[-1:]
            v_x = (weight[-1] * torch.func.grad(lambda x: value(x).sum())(last)).reshape(1, size, 1).expand(count, -1, -1)
            v_xx = (weight[-1] * hessian(value, last)).expand(count, -1, -1)
        ridge = regularization[:, None, None] * torch.eye(joints, dtype=v_x.dtype)
        itself = torch.eye(size, dtype=v_x.dtype).expand(count, size, size)
        k, feedback = [], []
        for h in reversed(range(horizon)):
            f_z = local.jacobian[h]
            q_z = gradient[h].unsqueeze(-1) + torch.matmul(f_z.T, v_x)  # [L, D, 1]
            q_zz = curvature[h] + torch.matmul(torch.matmul(f_z.T, v_xx), f_z)
            action = course.actions[h].expand(count, joints)
            solved = box_qp.solve(
                q_zz[:, size:, size:] + ridge, q_z[:, size:, 0], -1.0 - action, 1.0 - action, self.config.qp_iterations
            )
            # A knot whose curvature is not definite stays as it is; Tassa et al. give up the pass.
            definite = solved.definite.to(v_x.dtype).unsqueeze(-1)
            k.append(torch.where(definite > 0.0, solved.x, 0.0))
            feedback.append(torch.where(definite.unsqueeze(-1) > 0.0, -torch.matmul(solved.inverse, q_zz[:, size:, :size]), 0.0))
            toward = torch.cat([itself, feedback[-1]], dim=1)  # how z follows the state: [L, D, O]
            shift = torch.cat([torch.zeros_like(v_x), k[-1].unsqueeze(-1)], dim=1)
            v_x = torch.matmul(toward.transpose(1, 2), q_z + torch.matmul(q_zz, shift))
            v_xx = torch.matmul(torch.matmul(toward.transpose(1, 2), q_zz), toward)
        return Gains(torch.stack(k[::-1]), torch.stack(feedback[::-1]))

    def _forward_pass(self, model: WorldModel, course: Course, gains: Gains, sizes: Tensor) -> tuple[Course, Tensor]:
        """The best course (equation 12) over all gains and step `sizes [J]`, and the place `[1]` of its gains."""
        size = course.states.shape[1]
        count, tries = gains.open.shape[1], sizes.shape[0]
        state = course.states[0].expand(count * tries, size)
        alive = course.alive.new_ones(count * tries)
        total = torch.zeros_like(alive)
        states, actions, living = [state], [], [alive]
        for h, nominal in enumerate(course.actions.unbind(0)):
            away = (state - course.states[h]).unflatten(0, (count, tries))
            change = sizes[:, None] * gains.open[h].unsqueeze(1) + torch.matmul(away, gains.closed[h].transpose(1, 2))
            action = (nominal + change).flatten(0, 1).clamp(-1.0, 1.0)
            action = torch.where(action.abs() <= 1.0, action, 0.0)  # a course that diverged has no finite return, but no NaN either
            state, reward, going_on = self._step(model, state, action)
            total = total + self.config.discount**h * alive * reward
            alive = alive * going_on
            states.append(state)
            actions.append(action)
            living.append(alive)
        if self.value is not None:
            total = total + self.config.discount ** len(actions) * alive * self.value(state)
        total = scoring.finite_or_worst(total)
        best = total.argmax(dim=0, keepdim=True)
        place = torch.arange(count).repeat_interleave(tries).index_select(0, best)
        return (
            Course(
                torch.stack(states).index_select(1, best)[:, 0],
                torch.stack(actions).index_select(1, best)[:, 0],
                torch.stack(living).index_select(1, best)[:, 0],
                total.index_select(0, best)[0],
            ),
            place,
        )
