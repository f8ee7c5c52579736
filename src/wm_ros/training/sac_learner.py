"""The update of soft actor-critic as a function of parameters, batch and noise, differentiated by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from wm_ros.agents.sac import CRITICS, Networks, SacConfig, SacNetworks, bounded_log_std, critics
from wm_ros.contract.schema import Contract
from wm_ros.data.replay import Transitions
from wm_ros.training import dense


@dataclass(frozen=True)
class SacFitConfig:
    """How the networks are trained."""

    learning_rate: float = 3e-4
    """Adam's, of policy, critics and temperature."""
    batch: int = 256
    """Transitions of one update."""
    discount: float = 0.99
    """Per control tick."""
    target_rate: float = 0.005
    """Share of the critics that their targets take over with each update."""
    temperature: float = 0.1
    """Weight of the entropy at the start; it adapts by itself."""
    target_entropy: float | None = None
    """Entropy that the temperature holds the policy at, in nats of an action in half ranges; by default minus the number of joints."""
    updates_per_step: float = 1.0
    """Updates for each transition that comes in."""
    warm_up: int = 1000
    """Transitions with uniformly random actions before the first update."""
    capacity: int = 1_000_000
    """Transitions kept; the oldest make room."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "temperature", "updates_per_step"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} {getattr(self, name)} must be positive")
        if not 0.0 <= self.discount < 1.0:
            raise ValueError(f"discount {self.discount} must be at least 0 and below 1")
        if not 0.0 < self.target_rate <= 1.0:
            raise ValueError(f"target_rate {self.target_rate} must be above 0 and at most 1")
        if self.batch < 1:
            raise ValueError(f"batch {self.batch} must be at least 1")
        if self.warm_up < self.batch:
            raise ValueError(f"warm_up {self.warm_up} must be at least the batch of {self.batch}, which is drawn from it")
        if self.capacity < self.warm_up:
            raise ValueError(f"capacity {self.capacity} must be at least warm_up {self.warm_up}")


@dataclass(frozen=True, eq=False)
class Batch:
    """B transitions as tensors, real or imagined."""

    observation: Tensor
    """[B, O]."""
    action: Tensor
    """[B, A], in contract units."""
    reward: Tensor
    """[B]."""
    next_observation: Tensor
    """[B, O]."""
    discount: Tensor
    """[B], what the value of `next_observation` counts: 0 where terminated, the full discount where only time cut the episode."""

    @classmethod
    def of(cls, drawn: Transitions) -> Batch:
        """The same data as tensors."""
        return cls(*(torch.from_numpy(getattr(drawn, f.name)) for f in fields(cls)))


@dataclass(frozen=True, eq=False)
class SacLosses:
    """Means over the batch, as tensors so that nobody waits for them."""

    critic: Tensor
    """Half the squared error, summed over the critics."""
    value: Tensor
    """Of the smaller critic at the policy's actions."""
    entropy: Tensor
    """Of the policy, estimated, of actions in half ranges."""
    temperature: Tensor

    @property
    def figures(self) -> Tensor:
        """What a training tells of it, as `FIGURES` names it."""
        return torch.stack([self.critic, self.value, self.entropy, self.temperature])


FIGURES = ("critic_loss", "value", "entropy", "temperature")


class Flat:
    """Parameters of a module in one flat tensor, with Adam over it as a single fused call."""

    def __init__(self, parameters: list[nn.Parameter], learning_rate: float) -> None:
        """Moves the parameters into the flat tensor; the module keeps views of it."""
        self.values = torch.cat([p.detach().reshape(-1) for p in parameters])
        bind(parameters, self.values)
        self.moments = [torch.zeros_like(self.values), torch.zeros_like(self.values)]
        """Running means of the gradient and of its square."""
        self.steps = torch.zeros(())
        self._gradient = torch.zeros_like(self.values)
        self._rate = learning_rate

    def step(self, gradients: list[Tensor]) -> None:
        """One step of Adam; the gradients come in the parameters' order, in any cut of their numbers."""
        torch.cat([g.reshape(-1) for g in gradients], out=self._gradient)
        self.steps += 1
        # What torch.optim.Adam(fused=True) calls, less its bookkeeping, which takes longer than the step.
        torch._fused_adam_(
            [self.values],
            [self._gradient],
            [self.moments[0]],
            [self.moments[1]],
            [],
            [self.steps],
            lr=self._rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


def bind(parameters: list[nn.Parameter], values: Tensor) -> None:
    """Lets the parameters be views of one flat tensor."""
    start = 0
    for parameter in parameters:
        parameter.data = values[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()


def ordered(networks: Networks) -> list[nn.Parameter]:
    """Weight and bias of each layer, first to last."""
    return [p for pair in zip(networks.weights, networks.biases, strict=True) for p in pair]


class SacLearner:
    """Networks, targets, temperature and optimizers. `update` changes them and depends on nothing but its arguments and them."""

    def __init__(self, contract: Contract, config: SacConfig, fit: SacFitConfig, generator: torch.Generator) -> None:
        """Args: contract, networks, training, and who draws the first weights."""
        self.config, self.fit = config, fit
        self.networks = SacNetworks(contract, config).requires_grad_(False)
        self.networks.policy.initialize(generator)
        self.networks.critics.initialize(generator)
        self.target = critics(contract, config).requires_grad_(False)
        self.target.load_state_dict(self.networks.critics.state_dict())
        self.log_temperature = nn.Parameter(torch.tensor([math.log(fit.temperature)]), requires_grad=False)
        self.target_entropy = -float(contract.action_size) if fit.target_entropy is None else fit.target_entropy
        # The temperature is learned by the policy's optimizer: it is one more number beside its weights.
        self.policy = Flat([*ordered(self.networks.policy), self.log_temperature], fit.learning_rate)
        self.critics = Flat(ordered(self.networks.critics), fit.learning_rate)
        self._target_values = self.critics.values.clone()
        bind(ordered(self.target), self._target_values)
        self._policy_network = dense.network(self.networks.policy, 0)
        self._critic_networks = [dense.network(self.networks.critics, m) for m in range(CRITICS)]
        self._target_networks = [dense.network(self.target, m) for m in range(CRITICS)]

    @torch.inference_mode()
    def update(self, batch: Batch, noise: Tensor) -> SacLosses:
        """One step of critics, policy and temperature (algorithm 1).

        Args:
            batch: of B transitions.
            noise: `[2, B, A]`, standard normal: for the actions at the next observations, and at the observations.
        """
        networks, size = self.networks, batch.reward.shape[0]
        here, following = networks.normalized(batch.observation), networks.normalized(batch.next_observation)
        action = (batch.action - networks.action_middle) / networks.action_half
        temperature = self.log_temperature.exp()

        # One pass of the policy serves both: the targets are made with the policy before its step.
        seen = dense.forward(self._policy_network, torch.cat([following, here]))
        draws = _Draws(seen.output, noise.flatten(0, 1), networks.log_std_range)

        after = torch.cat([following, draws.action[:size]], dim=1)
        future = torch.minimum(*(dense.forward(target, after).output[:, 0] for target in self._target_networks))
        wanted = batch.reward + batch.discount * (future - temperature * draws.log_density[:size])

        critic_loss = self._critic_step(torch.cat([here, action], dim=1), wanted)
        value = self._policy_step(here, seen, draws, temperature)
        self._target_values.lerp_(self.critics.values, self.fit.target_rate)
        return SacLosses(critic_loss, value, -draws.log_density[size:].mean(), temperature[0])

    def state(self) -> dict[str, Tensor]:
        """All that `update` changes; the normalizer is whose data it is of."""
        held = {"target": self._target_values.clone()}
        for name, flat in (("policy", self.policy), ("critics", self.critics)):
            first, second = flat.moments
            parts = {"values": flat.values, "first": first, "second": second, "steps": flat.steps}
            held |= {f"{name}.{part}": tensor.clone() for part, tensor in parts.items()}
        return held

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state` gave.

        Raises:
            KeyError: something is missing.
            RuntimeError: sizes differ.
        """
        self._target_values.copy_(state["target"])
        for name, flat in (("policy", self.policy), ("critics", self.critics)):
            first, second = flat.moments
            for part, tensor in (("values", flat.values), ("first", first), ("second", second), ("steps", flat.steps)):
                tensor.copy_(state[f"{name}.{part}"])

    def _critic_step(self, inputs: Tensor, wanted: Tensor) -> Tensor:
        found, loss = [], inputs.new_zeros(())
        for critic in self._critic_networks:
            seen = dense.forward(critic, inputs)
            error = seen.output - wanted.unsqueeze(1)
            loss += 0.5 * error.square().mean()
            found.append(dense.weight_gradients(critic, seen, error / len(wanted)))
        # From critic, layer, kind to layer, kind, critic: as the parameters lie.
        self.critics.step([g for layer in zip(*found, strict=True) for kind in zip(*layer, strict=True) for g in kind])
        return loss

    def _policy_step(self, here: Tensor, seen: dense.Pass, draws: _Draws, temperature: Tensor) -> Tensor:
        """Gradient of mean(temperature * log density - smaller value) through the drawn actions (equation 9)."""
        size = here.shape[0]
        action, log_density = draws.action[size:], draws.log_density[size:]
        inputs = torch.cat([here, action], dim=1)
        passes = [dense.forward(critic, inputs) for critic in self._critic_networks]
        first, second = passes[0].output, passes[1].output
        chosen = (first <= second).to(first.dtype)
        pull = sum(
            dense.input_gradient(critic, found, share, action.shape[1])
            for critic, found, share in zip(self._critic_networks, passes, (chosen, 1.0 - chosen), strict=True)
        )
        outputs = draws.backward(size, pull, temperature) / size
        gradients = dense.weight_gradients(self._policy_network, seen.rows(size), outputs)
        flat = [g for pair in gradients for g in pair]
        # d/d log temperature of -log temperature * (log density + target entropy), as is usual in place of the temperature itself.
        self.policy.step([*flat, -(log_density.mean() + self.target_entropy).reshape(1)])
        return torch.minimum(first, second).mean()


class _Draws:
    """Squashed Gaussian actions drawn with given noise, their log density, and the way back to the policy's outputs."""

    def __init__(self, outputs: Tensor, noise: Tensor, bounds: tuple[float, float]) -> None:
        mean, self._raw = outputs.chunk(2, dim=1)
        self._half = 0.5 * (bounds[1] - bounds[0])
        log_std = bounded_log_std(self._raw, bounds)
        self._spread = log_std.exp() * noise
        unsquashed = mean + self._spread
        self.action = unsquashed.tanh()
        # log(1 - tanh(u)^2) in a form that does not round to log 0 (appendix C).
        squash = 2.0 * (math.log(2.0) - unsquashed - nn.functional.softplus(-2.0 * unsquashed))
        self.log_density = (-0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi) - squash).sum(1)

    def backward(self, start: int, pull: Tensor, temperature: Tensor) -> Tensor:
        """Gradient `[B, 2A]` of temperature * log density - value, for rows from `start` on; `pull` is the value's by the action."""
        action, raw = self.action[start:], self._raw[start:]
        by_unsquashed = temperature * 2.0 * action - pull * (1.0 - action.square())
        by_log_std = by_unsquashed * self._spread[start:] - temperature
        return torch.cat([by_unsquashed, by_log_std * self._half * (1.0 - raw.tanh().square())], dim=1)
