"""A trained policy and its critics inside a planner: prior and terminal value, as TD-MPC has both (Hansen et al. 2022)."""

from __future__ import annotations

from torch import Tensor, nn

from wm_ros.agents.sac import SacNetworks


class Guide(nn.Module):
    """What a planner takes of a soft actor-critic; its weights are part of whoever holds it."""

    def __init__(self, networks: SacNetworks, config: dict[str, object]) -> None:
        """Args: trained networks, and their settings as plain data, which stand in the artifact."""
        super().__init__()
        self.networks, self.config = networks, config

    def action(self, observation: Tensor) -> Tensor:
        """The policy's mean, after squashing: observations `[B, O]` → actions `[B, A]`, contract units."""
        mean, _ = self.networks.gaussian(self.networks.normalized(observation))
        return self.networks.action_middle + self.networks.action_half * mean.tanh()

    def value(self, observation: Tensor) -> Tensor:
        """The smaller critic at the policy's mean: observations `[..., O]` → `[...]`, discounted rewards of the ticks from there on."""
        rows = self.networks.normalized(observation.reshape(-1, observation.shape[-1]))
        mean, _ = self.networks.gaussian(rows)
        return self.networks.value(rows, mean.tanh()).reshape(observation.shape[:-1])
