"""Dreamer: actor and critic that learn in a latent world model's imagination; V1, V2 and V3 are settings of the same parts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wm_ros.agents import imagined_pictures
from wm_ros.agents.controller import Controller, NoiseSpec
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.models.rssm import RssmConfig, State
from wm_ros.models.rssm_disagreement import Predictors
from wm_ros.models.rssm_layers import Mlp, initialize
from wm_ros.models.rssm_world import NO_PICTURES, Pictures, RssmWorld, ScalarKind, WorldConfig, scalar
from wm_ros.planners.cem import CEMConfig
from wm_ros.planners.choice import PlannerChoice
from wm_ros.planners.mcts import MCTSConfig

_MEAN_SCALE, _FIRST_STD, _MIN_STD = 5.0, 5.0, 1e-4
"""Of V1's squashed Gaussian: bound of the mean, deviation to begin with, and its lower bound (its appendix A)."""
_STD_RANGE = (0.1, 1.0)
"""Of V2's and V3's bounded Gaussian."""


_PREDICTOR_LAYERS = 2
"""Hidden layers of what `explore` rewards the disagreement of."""


@dataclass(frozen=True)
class DreamerConfig:
    """The networks; how they are trained stands in `training.dreamer_learner.DreamerFitConfig`. The defaults are V3's."""

    rssm: RssmConfig = field(default_factory=RssmConfig)
    """The recurrent state-space model."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """Encoder, decoder, heads and the model's loss."""
    actor_layers: int = 3
    """Hidden layers of the actor."""
    critic_layers: int = 3
    """Hidden layers of the critic."""
    units: int = 64
    """Of both."""
    policy: Literal["bounded", "squashed"] = "bounded"
    """Gaussian actions: mean within the limits, deviation within 0.1 and 1 half ranges, cut at the limits (V2, V3); or squashed by the
    hyperbolic tangent (V1). V2 cuts by a truncated normal; here samples past a limit count as the limit, as in V3."""
    critic: ScalarKind = "twohot"
    """The value's distribution: two-hot over exponential bins (V3) or of unit variance (V1, V2)."""
    explore: float = 0.0
    """Reward for what the model does not know yet, per unit of the predictors' disagreement (Plan2Explore, arXiv 2005.05960); 0: none."""
    predictors: int = 8
    """Networks that predict the next latent, whose disagreement `explore` rewards."""
    act: Literal["actor", "planner"] = "actor"
    """What drives: the actor, or a planner in the latent space (PlaNet), for which actor and critic are not trained."""
    planner: PlannerChoice = field(default_factory=CEMConfig)
    """Of `act: planner`; `kind` names it. PlaNet's (arXiv 1811.04551, section 3) is cem with horizon 12, candidates 1000, iterations 10,
    elites 100, momentum 0 and initial_std 1."""

    def __post_init__(self) -> None:
        if self.act not in ("actor", "planner"):
            raise ValueError(f"act {self.act!r} must be actor or planner")
        if not (self.explore >= 0.0 and math.isfinite(self.explore)):
            raise ValueError(f"explore {self.explore} must not be negative")
        if self.explore and self.act == "planner":
            raise ValueError("explore is for act: actor; a planner counts the task's reward alone")
        if self.predictors < 2:
            raise ValueError(f"predictors {self.predictors} must be at least 2: one agrees with itself")
        if isinstance(self.planner, MCTSConfig):
            raise ValueError("planner.kind: a tree (mcts) fits into no ONNX graph, which is how this agent ships: choose another planner")
        if min(self.actor_layers, self.critic_layers, self.units) < 1:
            raise ValueError("actor_layers, critic_layers and units must be at least 1")


V3 = DreamerConfig()
"""Hafner et al. 2023 (arXiv 2301.04104), at the authors' size of one million parameters."""

V2 = DreamerConfig(
    rssm=RssmConfig(
        classes=32,
        unimix=0.0,
        deter=200,
        hidden=200,
        blocks=0,
        prior_layers=1,
        posterior_layers=1,
        norm="layer",
        dense_norm=False,
        activation="elu",
    ),
    world=WorldConfig(
        units=400,
        image_depth=48,
        encoder_layers=4,
        decoder_layers=4,
        reward_layers=4,
        continue_layers=4,
        symlog=False,
        observation_weight=0.5,
        reward="gaussian",
        dynamics_scale=0.8,
        representation_scale=0.2,
        free_nats=1.0,
        free_average=True,
    ),
    actor_layers=4,
    critic_layers=4,
    units=400,
    critic="gaussian",
)
"""Hafner et al. 2021 (arXiv 2010.02193), with its authors' settings for continuous control."""

V1 = DreamerConfig(
    rssm=RssmConfig(
        latent="gaussian",
        groups=30,
        unimix=0.0,
        deter=200,
        hidden=200,
        blocks=0,
        prior_layers=1,
        posterior_layers=1,
        norm="none",
        dense_norm=False,
        activation="elu",
    ),
    world=WorldConfig(
        units=400,
        image_depth=32,
        encoder_layers=3,
        decoder_layers=3,
        reward_layers=2,
        continue_layers=3,
        symlog=False,
        observation_weight=0.5,
        reward="gaussian",
        dynamics_scale=1.0,
        representation_scale=1.0,
        free_nats=3.0,
        free_average=True,
    ),
    actor_layers=4,
    critic_layers=3,
    units=400,
    policy="squashed",
    critic="gaussian",
)
"""Hafner et al. 2020 (arXiv 1912.01603)."""


class Actor(nn.Module):
    """A Gaussian over actions in half ranges, by the state's features."""

    def __init__(self, features: int, actions: int, config: DreamerConfig) -> None:
        super().__init__()
        scale = 0.01 if config.policy == "bounded" else 1.0  # V3 begins with almost equal actions everywhere
        rssm = config.rssm
        self.network = Mlp(features, config.units, config.actor_layers, 2 * actions, rssm.layer_norm, rssm.activation, scale)
        self.bounded = config.policy == "bounded"

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[..., F]` → mean and standard deviation `[..., A]` of the action before it is brought within its limits."""
        mean, spread = self.network(feature).chunk(2, dim=-1)
        if self.bounded:
            low, high = _STD_RANGE
            return torch.tanh(mean), low + (high - low) * torch.sigmoid(spread + 2.0)
        begin = math.log(math.expm1(_FIRST_STD))
        return _MEAN_SCALE * torch.tanh(mean / _MEAN_SCALE), nn.functional.softplus(spread + begin) + _MIN_STD

    def limited(self, sample: Tensor) -> Tensor:
        """A sample `[..., A]` within [-1, 1]; where it is cut, gradients pass as if it were not."""
        if not self.bounded:
            return torch.tanh(sample)
        cut = sample.clamp(-1.0, 1.0)
        return sample + (cut - sample).detach() if torch.is_grad_enabled() and sample.requires_grad else cut


def wandering(action: Tensor, deviation: float, noise: Tensor) -> Tensor:
    """Actions `[..., A]` in half ranges with Gaussian noise, within [-1, 1] (V1, section 3)."""
    return (action + deviation * noise).clamp(-1.0, 1.0)


def log_density(sample: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Of samples `[..., A]` before they are limited, summed over the joints `[...]`."""
    return (-0.5 * ((sample - mean) / std).square() - std.log() - 0.5 * math.log(2.0 * math.pi)).sum(-1)


def entropy(std: Tensor) -> Tensor:
    """Of the Gaussian before it is limited `[..., A]` → `[...]`, in nats of half ranges."""
    return (std.log() + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)


class Critic(nn.Module):
    """The value of a state, by its features."""

    def __init__(self, features: int, config: DreamerConfig) -> None:
        super().__init__()
        zero = 0.0 if config.critic == "twohot" else 1.0
        self.kind = scalar(config.critic)
        rssm = config.rssm
        self.network = Mlp(features, config.units, config.critic_layers, self.kind.outputs, rssm.layer_norm, rssm.activation, zero)

    def forward(self, feature: Tensor) -> Tensor:
        """Features `[..., F]` → what `kind` reads as values."""
        return self.network(feature)


class DreamerNetworks(nn.Module):
    """World model, actor and critic. Inside, actions are in half ranges, [-1, 1]."""

    def __init__(self, contract: Contract, config: DreamerConfig) -> None:
        """Untrained networks.

        Raises:
            UserError: the contract's cameras are not what the settings can see.
        """
        super().__init__()
        observations, actions = contract.observation_size, contract.action_size
        images = {name: image.shape for name, image in contract.images.items()}
        try:
            self.world = RssmWorld(observations, actions, config.rssm, config.world, images)
        except ValueError as error:
            raise UserError(f"contract {contract.name}: dreamer.{error}") from None
        self.actor = Actor(self.world.feature_size, actions, config)
        self.critic = Critic(self.world.feature_size, config)
        sizes = (self.world.feature_size, actions, self.world.rssm.latent.size, config.units, _PREDICTOR_LAYERS)
        self.predictors = Predictors(config.predictors, *sizes) if config.explore else None
        low, high = (torch.tensor([getattr(j, side) for j in contract.action.joints]) for side in ("low", "high"))
        self.register_buffer("action_middle", (low + high) / 2.0)
        self.register_buffer("action_half", (high - low) / 2.0)

    def initialize(self, generator: torch.Generator) -> None:
        """Draws the first weights."""
        for part in (self.world, self.actor, self.critic, self.predictors):
            if part is not None:
                initialize(part, generator)

    def to_half_ranges(self, action: Tensor) -> Tensor:
        """Actions `[..., A]` in contract units → in half ranges."""
        return (action - self.action_middle) / self.action_half

    def to_contract(self, action: Tensor) -> Tensor:
        """Actions `[..., A]` in half ranges → in contract units."""
        return self.action_middle + self.action_half * action


@dataclass(frozen=True, eq=False)
class Imagination:
    """H steps from each of N states, by the actor."""

    feature: Tensor
    """[H+1, N, F], the first where imagination began."""
    mean: Tensor
    """[H, N, A], the actor's at all but the last state."""
    std: Tensor
    """[H, N, A]."""
    sample: Tensor
    """[H, N, A], before it is limited."""


def imagine(
    networks: DreamerNetworks, start: State, latent_noise: Tensor, action_noise: Tensor, through_dynamics: bool
) -> Imagination:
    """Rolls actor and prior out.

    Args:
        networks: world model and actor.
        start: [N, ...]; no gradient goes into it.
        latent_noise: [H, N, G].
        action_noise: [H, N, A], standard normal.
        through_dynamics: whether later states have gradients by earlier actions; else the actor's outputs alone have any, and the
            model runs without. V3's parts have those by hand (`rssm_adjoint`), and the model's weights then have none.
    """
    actor, rssm = networks.actor, networks.world.rssm
    by_hand = through_dynamics and rssm.known_by_hand
    states, traces = [State(start.deter.detach(), start.stoch.detach())], []
    features, means, stds, samples = [states[0].feature], [], [], []
    with torch.set_grad_enabled(through_dynamics and not by_hand):
        for noise, wiggle in zip(latent_noise.unbind(), action_noise.unbind(), strict=True):
            # V1 and V2 give the actor its features without gradient too: an action answers for what it does, not for what led to it.
            mean, std = actor(features[-1].detach())
            sample = mean + std * wiggle
            if by_hand:
                state, trace = rssm.imagine_traced(states[-1], actor.limited(sample), noise)
                traces.append(trace)
            else:
                state = rssm.imagine_step(states[-1], actor.limited(sample), noise)
            states.append(state)
            features.append(state.feature)
            means.append(mean)
            stds.append(std)
            samples.append(sample)
    feature, sample = torch.stack(features), torch.stack(samples)
    if through_dynamics and not by_hand:
        return Imagination(feature, torch.stack(means), torch.stack(stds), sample)
    mean, std = actor(feature[:-1])  # the gradient of all steps in one batch
    if by_hand:
        sample = mean + std * action_noise
        feature = torch.cat([feature[:1], rssm.with_gradients(states, traces, actor.limited(sample)).feature])
    return Imagination(feature, mean, std, sample)


def lambda_returns(reward: Tensor, value: Tensor, discount: Tensor, weight: float) -> Tensor:
    """The exponential average of all n-step returns (V1, equations 4 to 6; V3, equation 7).

    Args:
        reward: [H, ...], on arriving at each next state.
        value: [H, ...], of each next state.
        discount: [H, ...], what lies behind each next state counts by.
        weight: lambda.

    Returns:
        [H, ...], of each state but the last; that one counts its value in full.
    """
    following, returns = value[-1], []
    for r, v, d in zip(reward.flip(0), value.flip(0), discount.flip(0), strict=True):
        following = r + d * ((1.0 - weight) * v + weight * following)
        returns.append(following)
    return torch.stack(returns[::-1])


class DreamerController(Controller):
    """Posterior and actor as one pure function; the carry is the model's state and the last action, zero where an episode begins."""

    agent = "dreamer"

    def __init__(self, contract: Contract, config: DreamerConfig, explore: bool = False, explore_noise: float = 0.0) -> None:
        """
        Args:
            contract: of the robot.
            config: the networks.
            explore: whether to draw from the actor's Gaussian (one more noise input), or to take its mean.
            explore_noise: deviation of further noise on the actions, in half ranges (one more input).
        """
        super().__init__()
        self.config = {**asdict(config), "explore": explore, "explore_noise": explore_noise}
        self.networks = DreamerNetworks(contract, config)
        latent = self.networks.world.rssm.latent
        self.carry = {"deter": (config.rssm.deter,), "stoch": (latent.size,), "action": (contract.action_size,)}
        self.noise = {"latent": NoiseSpec((latent.noise,), latent.distribution)}
        self.images = dict(self.networks.world.images)
        if self.images:
            self.look_ahead, self.looks_from = imagined_pictures.LOOK_AHEAD, imagined_pictures.begins(self.networks)
            self.plan_period_s = contract.control.period_s
        if explore:
            self.noise["action"] = NoiseSpec((contract.action_size,))
        if explore_noise:
            self.noise["explore"] = NoiseSpec((contract.action_size,))
        self._explore, self._explore_noise = explore, explore_noise

    def forward(
        self, observation: Tensor, carry: dict[str, Tensor], noise: dict[str, Tensor], images: Pictures = NO_PICTURES
    ) -> dict[str, Any]:
        networks = self.networks
        before = State(carry["deter"].unsqueeze(0), carry["stoch"].unsqueeze(0))
        embedded = networks.world.embed(observation.unsqueeze(0), images)
        state = networks.world.rssm.observe_step(before, carry["action"].unsqueeze(0), embedded, noise["latent"].unsqueeze(0))
        mean, std = networks.actor(state.feature)
        action = networks.actor.limited(mean + std * noise["action"] if self._explore else mean)
        if self._explore_noise:
            action = wandering(action, self._explore_noise, noise["explore"])
        value = networks.critic.kind.steady_mean(networks.critic(state.feature))
        following = {"deter": state.deter[0], "stoch": state.stoch[0], "action": action[0]}
        return {"action": networks.to_contract(action)[0], "value": value[0], "next": following}

    def look_further(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return imagined_pictures.further(self.networks, state)
