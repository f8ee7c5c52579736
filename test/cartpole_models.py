"""Cart-pole models for tests: untrained networks with random weights and normalizers, and the true dynamics."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from wm_ros.contract import schema
from wm_ros.contract.functions import reward_function
from wm_ros.contract.schema import Contract
from wm_ros.models.dynamics import ObservationDynamics, Propagation
from wm_ros.models.ensemble import EnsembleConfig
from wm_ros.models.family import ModelConfig
from wm_ros.models.world_model import Imagined

TINY = EnsembleConfig(members=3, elites=2, layers=2, width=12)


@lru_cache
def contract() -> Contract:
    return schema.load("cartpole_swingup")


def random_dynamics(
    stride: int,
    sample: bool,
    seed: int = 0,
    propagation: Propagation = "TSinf",
    model: ModelConfig | None = None,
    of: Contract | None = None,
) -> ObservationDynamics:
    """Every number of the model that training could set is drawn at random."""
    dynamics = ObservationDynamics(of or contract(), TINY, stride, sample=sample, propagation=propagation, model=model)
    generator = torch.Generator().manual_seed(seed)
    dynamics.initialize(generator)
    with torch.no_grad():
        for bias in dynamics.network.biases:
            bias.copy_(0.3 * torch.randn(bias.shape, generator=generator))
        for name, tensor in dynamics.named_buffers(recurse=False):
            if name.endswith("_mean"):
                tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
            elif name.endswith("_std"):
                tensor.copy_(0.3 + torch.rand(tensor.shape, generator=generator))
    return dynamics


class TrueCartPole:
    """The equations of the cart-pole of the dm_control suite, as a world model: one member, no noise.

    Masses, length and gear are those of cartpole.xml: cart 1 kg, pole 0.1 kg and 1 m long (a capsule of uniform density).
    """

    stride = 1
    members = 1

    def __init__(self) -> None:
        self.reward = reward_function(contract())

    def noise_shape(self, horizon: int) -> None:
        return None

    def step(self, state: Tensor, force: Tensor) -> Tensor:
        """state `[..., 5]` (x, sin, cos, x', angle') under force `[...]` for one control period, in four symplectic Euler steps."""
        x, sin, cos, v, w = state.unbind(-1)
        angle = torch.atan2(sin, cos)
        cart, pole, half, gravity = 1.0, 0.1, 0.5, 9.81
        inertia = pole * (2 * half) ** 2 / 12
        dt = contract().control.period_s / 4
        for _ in range(4):
            s, c = torch.sin(angle), torch.cos(angle)
            # [total, b; b, rotational] (v', w') = (force + pole half w² s, pole gravity half s), the angle counted from upright
            total, b, rotational = cart + pole, pole * half * c, inertia + pole * half**2
            right_1, right_2 = force + pole * half * w**2 * s, pole * gravity * half * s
            determinant = total * rotational - b * b
            v = v + dt * (rotational * right_1 - b * right_2) / determinant
            w = w + dt * (total * right_2 - b * right_1) / determinant
            x, angle = x + dt * v, angle + dt * w
        return torch.stack([x, torch.sin(angle), torch.cos(angle), v, w], dim=-1)

    def rollout(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Imagined:
        state = observation.expand(1, actions.shape[1], 5)
        states, rewards = [], []
        for action in actions.unbind(0):
            following = self.step(state, action[:, 0].expand(1, -1))
            rewards.append(self.reward(state, action.expand(1, *action.shape), following))
            states.append(following)
            state = following
        return Imagined(torch.stack(states), torch.stack(rewards), None)
