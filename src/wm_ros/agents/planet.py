"""PlaNet (Hafner et al. 2019, arXiv 1811.04551): Dreamer's world model with a planner in its latent space in place of the actor."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from wm_ros.agents.controller import Controller, NoiseSpec
from wm_ros.agents.dreamer import DreamerConfig, DreamerController, DreamerNetworks, wandering
from wm_ros.contract.schema import Contract
from wm_ros.models.rssm import State
from wm_ros.models.rssm_planning import LatentModel
from wm_ros.models.rssm_world import NO_PICTURES, Pictures
from wm_ros.planners.choice import make
from wm_ros.planners.plan import Plan


class LatentPlanner:
    """Plans from a latent state. Every plan begins anew: nothing is carried from the last one."""

    def __init__(self, contract: Contract, config: DreamerConfig, networks: DreamerNetworks) -> None:
        joints = contract.action.joints
        self._model = LatentModel(networks.world, networks.to_half_ranges)
        self._planner = make(config.planner, torch.tensor([j.low for j in joints]), torch.tensor([j.high for j in joints]))
        self.differentiates = self._planner.differentiates
        self.noise = self._planner.noise_shapes(self._model)
        """Name → shape of the standard-normal noise of one plan."""

    def __call__(self, feature: Tensor, noise: dict[str, Tensor]) -> Plan:
        """Args: a state's features [F], and the noise."""
        carry = {name: feature.new_zeros(shape) for name, shape in self._planner.carry_shapes().items()}
        return self._planner(self._model, feature, carry, noise)  # type: ignore[no-any-return]


class PlanetController(Controller):
    """Posterior and plan as one pure function; the carry is that of `DreamerController`."""

    agent = DreamerController.agent

    def __init__(self, contract: Contract, config: DreamerConfig, explore_noise: float = 0.0) -> None:
        """Args: contract, networks and planner, and the deviation of noise on the actions, in half ranges (one more noise input)."""
        super().__init__()
        self.config = {**asdict(config), "explore_noise": explore_noise}
        self.networks = DreamerNetworks(contract, config)
        self._plan = LatentPlanner(contract, config, self.networks)
        self.differentiates = self._plan.differentiates
        latent = self.networks.world.rssm.latent
        self.carry = {"deter": (config.rssm.deter,), "stoch": (latent.size,), "action": (contract.action_size,)}
        self.noise = {"latent": NoiseSpec((latent.noise,), latent.distribution)}
        self.noise |= {name: NoiseSpec(shape) for name, shape in self._plan.noise.items()}
        self._explore_noise = explore_noise
        if explore_noise:
            self.noise["explore"] = NoiseSpec((contract.action_size,))
        self.images = dict(self.networks.world.images)
        self.plan_period_s = contract.control.period_s

    def forward(
        self, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor], images: Pictures = NO_PICTURES
    ) -> dict[str, Any]:
        networks = self.networks
        before = State(carry["deter"].unsqueeze(0), carry["stoch"].unsqueeze(0))
        embedded = networks.world.embed(observation.unsqueeze(0), images)
        state = networks.world.rssm.observe_step(before, carry["action"].unsqueeze(0), embedded, noise["latent"].unsqueeze(0))
        plan = self._plan(state.feature[0], {name: noise[name] for name in self._plan.noise})
        action, half = plan.action, networks.to_half_ranges(plan.action)
        if self._explore_noise:
            half = wandering(half, self._explore_noise, noise["explore"])
            action = networks.to_contract(half)
        result = {
            "action": action,
            "value": plan.value,
            "plan.action": plan.actions,
            "candidates.return": plan.returns,
            "plan.iterations": plan.iterations,
            "ok": plan.ok,
            "next": {"deter": state.deter[0], "stoch": state.stoch[0], "action": half},
        }
        if networks.world.decoder is not None:
            result["plan.observation"] = self._decoded(plan.observations)
            result["candidates.observation"] = self._decoded(plan.candidates)
        return result

    def _decoded(self, feature: Tensor) -> Tensor:
        deter = self.networks.world.rssm.config.deter
        return self.networks.world.decode(State(feature[..., :deter], feature[..., deter:]))


def controller_of(
    contract: Contract, config: DreamerConfig, explore: bool = False, explore_noise: float = 0.0
) -> DreamerController | PlanetController:
    """The untrained controller that the settings ask for; to explore, the actor draws from its Gaussian, and both add the noise."""
    deviation = explore_noise if explore else 0.0
    if config.act == "planner":
        return PlanetController(contract, config, deviation)
    return DreamerController(contract, config, explore, deviation)
