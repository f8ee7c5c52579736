"""The update of Dreamer V1, V2 and V3: world model, actor and critic, as a function of parameters, batch and noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wm_ros.agents.dreamer import Critic, DreamerConfig, DreamerNetworks, Imagination, entropy, imagine, lambda_returns, log_density
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data.episode import Episode
from wm_ros.data.sequence_buffer import SequenceBuffer, Stretches
from wm_ros.models.products import fast_products
from wm_ros.models.rssm import Observed, State
from wm_ros.models.rssm_world import WorldLosses
from wm_ros.training.flat_optimizer import FlatOptimizer, OptimizerConfig, flatten
from wm_ros.training.parts import below


@dataclass(frozen=True)
class DreamerFitConfig:
    """How the networks are trained; the defaults are V3's (arXiv 2301.04104, table of hyperparameters)."""

    batch: int = 16
    """Stretches of one update."""
    length: int = 64
    """Rows of each stretch."""
    horizon: int = 15
    """Imagined steps."""
    imagine_last: int = 0
    """Imagination begins at so many last rows of each stretch, and the critic learns from their replay; 0: at all (V3)."""
    discount: float = 1.0 - 1.0 / 333.0
    """Per control tick."""
    return_lambda: float = 0.95
    """Weight of longer returns."""
    learning_rate: float = 4e-5
    """Of the world model."""
    actor_rate: float = 4e-5
    """Of the actor."""
    critic_rate: float = 4e-5
    """Of the critic."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Of all three."""
    reinforce: float = 1.0
    """Share of the actor's gradient from REINFORCE; the rest goes through the model's dynamics. V3 1; V1 0; V2 0 for continuous actions."""
    entropy: float = 3e-4
    """Weight of the actor's entropy."""
    normalize_returns: bool = True
    """Returns count in units of the range from their 5th to their 95th percentile, where that is above 1 (V3, equation 11)."""
    return_rate: float = 0.01
    """Share of that range that is renewed with each update."""
    slow_critic: Literal["none", "target", "regularizer"] = "regularizer"
    """Returns are made with the critic itself (V1), with a slow copy (V2), or with itself while it is held near the copy (V3)."""
    slow_rate: float = 0.02
    """Share of the critic that the copy takes over each time."""
    slow_every: int = 1
    """Updates between those times."""
    replay_value: float = 0.3
    """Weight of the critic's loss on the states of the replay, beside the imagined ones; it reaches the world model too (V3)."""
    stored_states: bool = True
    """Stretches begin at the state that was stored with the row before them when it came in or was last replayed (V3), or at zero."""
    explore_noise: float = 0.0
    """Standard deviation of noise on the actions that are recorded, in half ranges (V1)."""
    explore_updates: int = 0
    """Updates within which the weight of `dreamer.explore` falls to nothing, evenly; 0: it stays as it is (Plan2Explore)."""
    train_ratio: float = 512.0
    """Replayed rows for each that comes in; `batch` times `length` of them are one update."""
    warm_up: int = 1000
    """Steps with uniformly random actions before the first update."""
    capacity: int = 1_000_000
    """Rows kept; the oldest make room."""
    memory_bytes: int = 2 << 30
    """Pictures and stored states that take more than this are kept in files in the training's folder."""
    max_skipped: int = 20
    """So many updates in a row without finite losses and gradients end the training."""
    fast_products: bool = True
    """Large matrix products in whichever way the processor is fastest: some round factors to bfloat16 (`models.products`)."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "actor_rate", "critic_rate", "train_ratio"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} {getattr(self, name)} must be positive")
        for name in ("reinforce", "return_lambda", "discount"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} {getattr(self, name)} must be within 0 and 1")
        for name in ("slow_rate", "return_rate"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} {getattr(self, name)} must be above 0 and at most 1")
        if not 0 <= self.imagine_last <= self.length or self.imagine_last == 1:
            raise ValueError(f"imagine_last {self.imagine_last} must be 0, or from 2 to length {self.length}")
        if min(self.entropy, self.replay_value, self.explore_noise) < 0.0:
            raise ValueError("entropy, replay_value and explore_noise must not be negative")
        if min(self.batch, self.horizon, self.slow_every, self.max_skipped) < 1 or self.length < 2:
            raise ValueError("batch, horizon, slow_every and max_skipped must be at least 1, length at least 2")
        if min(self.memory_bytes, self.explore_updates) < 0:
            raise ValueError("memory_bytes and explore_updates must not be negative")
        if self.warm_up < self.length:
            raise ValueError(f"warm_up {self.warm_up} must be at least length {self.length}: stretches are drawn from it")
        if self.capacity < self.warm_up:
            raise ValueError(f"capacity {self.capacity} must be at least warm_up {self.warm_up}")

    @property
    def started_from(self) -> int:
        """Rows of each stretch at which imagination begins."""
        return self.imagine_last or self.length

    @property
    def updates_per_step(self) -> float:
        """Updates for each row that comes in."""
        return self.train_ratio / (self.batch * self.length)


V3_FIT = DreamerFitConfig()

V2_FIT = DreamerFitConfig(
    batch=50,
    length=50,
    discount=0.99,
    learning_rate=3e-4,
    actor_rate=8e-5,
    critic_rate=8e-5,
    optimizer=OptimizerConfig("adam", epsilon=1e-5, adaptive_clip=0.0, norm_clip=100.0, weight_decay=1e-6, warm_up=0),
    reinforce=0.0,
    entropy=1e-4,
    normalize_returns=False,
    slow_critic="target",
    slow_rate=1.0,
    slow_every=100,
    replay_value=0.0,
    stored_states=False,
    train_ratio=500.0,
)
"""For continuous control (arXiv 2010.02193, appendix, and its authors' settings)."""

V1_FIT = DreamerFitConfig(
    batch=50,
    length=50,
    discount=0.99,
    learning_rate=6e-4,
    actor_rate=8e-5,
    critic_rate=8e-5,
    optimizer=OptimizerConfig("adam", epsilon=1e-7, adaptive_clip=0.0, norm_clip=100.0, warm_up=0),
    reinforce=0.0,
    entropy=0.0,
    normalize_returns=False,
    slow_critic="none",
    replay_value=0.0,
    stored_states=False,
    explore_noise=0.3,
    train_ratio=500.0,
    warm_up=2500,
)
"""arXiv 1912.01603, appendix A."""


@dataclass(frozen=True, eq=False)
class SequenceBatch:
    """B stretches of L rows as tensors; see `data.sequence_buffer.Stretches`."""

    observation: Tensor
    """[B, L, O]."""
    action: Tensor
    """[B, L, A], in contract units, that led to the observation."""
    reward: Tensor
    """[B, L]."""
    terminated: Tensor
    """[B, L] bool."""
    first: Tensor
    """[B, L] bool."""
    images: dict[str, Tensor] = field(default_factory=dict)
    """Camera → [B, L, H, W, C] uint8."""
    before: dict[str, Tensor] = field(default_factory=dict)
    """Name → [B, ...], the model's state before the first row, as `DreamerLearner.packed` gives it; nothing for zero."""

    @classmethod
    def of(cls, drawn: Stretches) -> SequenceBatch:
        """The same data as tensors."""
        columns = {name: torch.from_numpy(getattr(drawn, name)) for name in cls._columns()}
        images, before = ({name: torch.from_numpy(v) for name, v in of.items()} for of in (drawn.images, drawn.before))
        return cls(**columns, images=images, before=before)

    @classmethod
    def _columns(cls) -> list[str]:
        return [f.name for f in fields(cls) if f.name not in ("images", "before")]

    def each(self, change: Callable[[Tensor], Tensor]) -> SequenceBatch:
        """All columns, changed; not the state before them."""
        columns = {name: change(getattr(self, name)) for name in self._columns()}
        return SequenceBatch(**columns, images={name: change(image) for name, image in self.images.items()}, before=self.before)


@dataclass(frozen=True, eq=False)
class Noise:
    """All randomness of one update."""

    posterior: Tensor
    """[L, B, G], of the latents along the data."""
    prior: Tensor
    """[H, N, G], of the imagined ones: N = K B states, at K rows of each stretch."""
    action: Tensor
    """[H, N, A], standard normal, of the imagined actions."""


@dataclass(frozen=True, eq=False)
class DreamerLosses:
    """What one update saw, as tensors `[]`."""

    world: WorldLosses
    actor: Tensor
    critic: Tensor
    value: Tensor
    """Mean return of the imagined states."""
    entropy: Tensor
    """Mean of the actor's, in nats of half ranges."""
    skipped: bool
    """It was not finite, and nothing was changed."""
    reached: State
    """[L, B, ...], where the model was with each row."""

    @property
    def figures(self) -> Tensor:
        """What a training tells of it, as `FIGURES` names it."""
        return torch.stack([*vars(self.world).values(), self.actor, self.critic, self.value, self.entropy])


FIGURES = ("observation_loss", "reward_loss", "continue_loss", "divergence", "actor_loss", "critic_loss", "value", "entropy")


class DreamerLearner:
    """Networks, slow critic and optimizers. `update` changes them and depends on nothing but its arguments and them."""

    def __init__(self, contract: Contract, config: DreamerConfig, fit: DreamerFitConfig, generator: torch.Generator) -> None:
        """Args: contract, networks, training, and who draws the first weights."""
        self.config, self.fit = config, fit
        self.networks = DreamerNetworks(contract, config)
        self.networks.initialize(generator)
        parts: dict[str, tuple[nn.Module, float]] = {
            "world": (self.networks.world, fit.learning_rate),
            "actor": (self.networks.actor, fit.actor_rate),
            "critic": (self.networks.critic, fit.critic_rate),
        }
        if self.networks.predictors is not None:
            parts["predictors"] = (self.networks.predictors, fit.learning_rate)
        self.optimizers = {name: FlatOptimizer(list(m.parameters()), rate, fit.optimizer) for name, (m, rate) in parts.items()}
        self.slow = Critic(self.networks.world.feature_size, config).requires_grad_(False)
        self._slow = flatten(list(self.slow.parameters()))
        self._slow.copy_(self.optimizers["critic"].values)
        self.return_range = torch.zeros(2)
        """Running 5th and 95th percentile of the returns, not yet corrected for their beginning at zero."""
        self.updates = self.skipped = self._skipped_in_a_row = 0

    @property
    def explore(self) -> float:
        """What a unit of the predictors' disagreement is worth in the next update."""
        fades = self.fit.explore_updates
        return self.config.explore * (max(0.0, 1.0 - self.updates / fades) if fades else 1.0)

    def draw_noise(self, generator: torch.Generator) -> Noise:
        """For one update."""
        fit, latent, actions = self.fit, self.networks.world.rssm.latent, len(self.networks.action_half)
        states = fit.batch * fit.started_from
        return Noise(
            latent.draw((fit.length, fit.batch), generator),
            latent.draw((fit.horizon, states), generator),
            torch.randn((fit.horizon, states, actions), generator=generator),
        )

    def update(self, batch: SequenceBatch, noise: Noise) -> DreamerLosses:
        """One step of world model, actor and critic, all with gradients at the parameters before it; with a planner of the model alone.

        Raises:
            UserError: `max_skipped` updates in a row had losses or gradients that are not finite.
        """
        with fast_products(self.fit.fast_products):
            return self._update(batch, noise)

    def _update(self, batch: SequenceBatch, noise: Noise) -> DreamerLosses:
        networks = self.networks
        data = batch.each(lambda column: column.transpose(0, 1))
        start = self._start(batch)
        action = networks.to_half_ranges(data.action)
        recorded = (data.observation, action, data.reward, data.terminated, data.first)
        world, seen = networks.world.loss(start, *recorded, noise.posterior, data.images)

        if self.config.act == "planner":  # PlaNet has neither actor nor critic
            gradients, range_ = self._gradients(["world"], world.total), self.return_range
            actor = critic = value = spread = world.total.new_zeros(())
        else:
            last = slice(-self.fit.started_from, None)
            reached = State(seen.state.deter[last].flatten(0, 1), seen.state.stoch[last].flatten(0, 1))
            imagined = imagine(networks, reached, noise.prior, noise.action, through_dynamics=self.fit.reinforce < 1.0)
            recorded_last = data.each(lambda column: column[last])
            explores = self.explore > 0.0
            if explores:
                surprise, bonus = self._predicted(seen, action, data.first)
                recorded_last = replace(recorded_last, reward=recorded_last.reward + bonus[last])
            actor, critic, returns, range_ = self._behavior(imagined, seen.state.feature[last], recorded_last)
            gradients = self._gradients(["actor"], actor) | self._gradients(["world", "critic"], world.total + critic)
            if explores:
                gradients |= self._gradients(["predictors"], surprise)
            value, spread = returns.mean(), entropy(imagined.std.detach()).mean()

        losses = {**vars(world), "actor": actor, "critic": critic}
        figures = {**losses, **{f"gradient of the {n}": torch.stack(torch._foreach_norm(g)).norm() for n, g in gradients.items()}}
        finite = bool(torch.isfinite(torch.stack([f.detach() for f in figures.values()])).all())
        if finite:
            for name, gradient in gradients.items():
                self.optimizers[name].step(gradient)
            self.return_range = range_
            self.updates += 1
            self._skipped_in_a_row = 0
            if self.updates % self.fit.slow_every == 0:
                self._slow.lerp_(self.optimizers["critic"].values, self.fit.slow_rate)
        else:
            self._skip(batch, figures)
        kept = WorldLosses(*(v.detach() for v in vars(world).values()))
        state = State(seen.state.deter.detach(), seen.state.stoch.detach())
        return DreamerLosses(kept, actor.detach(), critic.detach(), value, spread, not finite, state)

    def _start(self, batch: SequenceBatch) -> State:
        rssm = self.networks.world.rssm
        if not batch.before:
            return rssm.start(batch.observation.shape[0])
        return State(batch.before["deter"].to(torch.float32), rssm.latent.unpacked(batch.before["stoch"]))

    @torch.no_grad()
    def followed(self, episode: Episode, generator: torch.Generator) -> State:
        """Where the model is with each of the episode's T+1 observations, `[T+1, ...]`, by draws of the generator."""
        world, rows = self.networks.world, len(episode) + 1
        action = self.networks.to_half_ranges(torch.from_numpy(episode.action))
        led = torch.cat([action.new_zeros(1, action.shape[1]), action]).unsqueeze(1)
        images = {name: torch.from_numpy(np.ascontiguousarray(episode.images[name][:])).unsqueeze(1) for name in world.images}
        embedded = world.embed(torch.from_numpy(episode.observation).unsqueeze(1), images)
        first = torch.arange(rows).unsqueeze(1) == 0
        seen = world.rssm.observe(world.rssm.start(1), led, embedded, first, world.rssm.latent.draw((rows, 1), generator)).state
        return State(seen.deter[:, 0], seen.stoch[:, 0])

    def packed(self, state: State) -> dict[str, NDArray[Any]]:
        """States `[..., ...]` as they are kept in the replay: name → array [..., ...]."""
        return {"deter": state.deter.to(torch.float16).numpy(), "stoch": self.networks.world.rssm.latent.packed(state.stoch).numpy()}

    def kept(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and type of each part of a state in the replay; nothing where none is stored."""
        if not self.fit.stored_states:
            return {}
        one = self.packed(self.networks.world.rssm.start())
        return {name: (part.shape, part.dtype) for name, part in one.items()}

    def _predicted(self, seen: Observed, action: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """The predictors' loss `[]` along the data, and the reward `[L, B]` for their disagreement about each row.

        Args:
            seen: [L, B, ...].
            action: [L, B, A], in half ranges, that led to each row.
            first: [L, B] bool, rows that nothing leads to.
        """
        assert self.networks.predictors is not None
        before, led = seen.state.feature[:-1].detach(), action[1:].clamp(-1.0, 1.0)
        # The posterior's mean: fitted to its samples, predictors go on disagreeing about the draws, everywhere.
        reached = self.networks.world.rssm.latent.mean(seen.posterior[1:])
        follows = (~first[1:]).to(led.dtype)
        loss = (follows * self.networks.predictors.loss(before, led, reached)).mean()
        with torch.no_grad():
            bonus = self.explore * follows * self.networks.predictors.disagreement(before, led)
        return loss, torch.cat([torch.zeros_like(bonus[:1]), bonus])

    def _gradients(self, parts: list[str], loss: Tensor) -> dict[str, list[Tensor]]:
        parameters = [p for part in parts for p in self.optimizers[part].parameters]
        found = iter(torch.autograd.grad(loss, parameters))
        return {part: [next(found) for _ in self.optimizers[part].parameters] for part in parts}

    def _behavior(self, imagined: Imagination, feature: Tensor, data: SequenceBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Losses of actor and critic, the imagined returns `[H, N]`, and the new range of the returns.

        Args:
            imagined: from the states of the data.
            feature: [K, B, F], of these states.
            data: [K, B, ...].
        """
        fit, networks, kind = self.fit, self.networks, self.networks.critic.kind
        through_dynamics = fit.reinforce < 1.0
        fixed_feature = imagined.feature.detach()
        output = networks.critic(fixed_feature)
        slow = None if fit.slow_critic == "none" else self.slow(imagined.feature if fit.slow_critic == "target" else fixed_feature)
        with torch.set_grad_enabled(through_dynamics):
            if slow is not None and fit.slow_critic == "target":
                value = kind.mean(slow)
            else:
                value = kind.mean(networks.critic(imagined.feature) if through_dynamics else output)
            reward = networks.world.reward(imagined.feature[1:])
            if self.explore and networks.predictors is not None:
                taken = networks.actor.limited(imagined.sample)
                reward = reward + self.explore * networks.predictors.disagreement(imagined.feature[:-1], taken)
            discount = fit.discount * networks.world.going_on(imagined.feature[1:])
            returns = lambda_returns(reward, value[1:], discount, fit.return_lambda)

        # What lies behind an imagined end, or behind a recorded one, counts for nothing.
        weight = torch.cat([(~data.terminated).flatten().to(discount.dtype).unsqueeze(0), discount[:-1].detach()]).cumprod(0)
        range_, scale = self._scale(returns.detach())
        objective = fit.entropy * entropy(imagined.std)
        if fit.reinforce > 0.0:
            advantage = ((returns - value[:-1]) / scale).detach()
            objective = objective + fit.reinforce * log_density(imagined.sample.detach(), imagined.mean, imagined.std) * advantage
        if through_dynamics:
            objective = objective + (1.0 - fit.reinforce) * returns / scale
        actor = -(weight * objective).mean()

        fixed = returns.detach()
        held_near = [kind.mean(slow[:-1])] if slow is not None and fit.slow_critic == "regularizer" else []
        critic = (weight * kind.loss(output[:-1], fixed, *held_near)).mean()
        if fit.replay_value:
            critic = critic + fit.replay_value * self._replay_loss(feature, [near[0] for near in held_near], fixed[0], data)
        return actor, critic, fixed, range_

    def _replay_loss(self, feature: Tensor, held_near: list[Tensor], imagined: Tensor, data: SequenceBatch) -> Tensor:
        """The critic's loss on the states of the data; the world model learns from it too (V3, on critic learning, and its code).

        Args:
            feature: [K, B, F].
            held_near: values [K B] that the critic is held near.
            imagined: [K B], returns from there.
            data: [K, B, ...].
        """
        kind, shape = self.networks.critic.kind, data.reward.shape
        returns, last = replay_returns(data, imagined.view(shape), self.fit.discount, self.fit.return_lambda)
        output = self.networks.critic(feature[:-1])
        error = kind.loss(output, returns, *(near.view(shape)[:-1] for near in held_near))
        return ((~last).to(error.dtype) * error).mean()

    def _scale(self, returns: Tensor) -> tuple[Tensor, Tensor]:
        """The new running percentiles, and what returns are divided by (V3, equations 10 and 11)."""
        if not self.fit.normalize_returns:
            return self.return_range, returns.new_ones(())
        rate = self.fit.return_rate
        found = torch.quantile(returns.flatten(), returns.new_tensor([0.05, 0.95]))
        range_ = self.return_range.lerp(found, rate)
        low, high = range_ / (1.0 - (1.0 - rate) ** (self.updates + 1))
        return range_, (high - low).clamp(min=1.0)

    def _skip(self, batch: SequenceBatch, figures: dict[str, Tensor]) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= self.fit.max_skipped:
            inputs = {f"the batch's {name}": getattr(batch, name) for name in ("observation", "action", "reward")}
            wrong = [name for name, value in (inputs | figures).items() if not torch.isfinite(value).all()]
            raise UserError(
                f"{self._skipped_in_a_row} updates in a row were not finite, after {self.updates} that were: {', '.join(wrong)}: "
                "begin anew with a lower fit.learning_rate, or look for what the robot or its reward gave, where the batch is not finite"
            )

    def state(self) -> dict[str, Tensor]:
        """All that `update` changes."""
        held = {f"{name}.{k}": v for name, optimizer in self.optimizers.items() for k, v in optimizer.state().items()}
        counters = torch.tensor([self.updates, self.skipped, self._skipped_in_a_row], dtype=torch.int64)
        return held | {"slow": self._slow.clone(), "return_range": self.return_range.clone(), "counters": counters}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state` gave.

        Raises:
            KeyError: something is missing.
            RuntimeError: sizes differ.
        """
        for name, optimizer in self.optimizers.items():
            optimizer.restore(below(state, name))
        self._slow.copy_(state["slow"])
        self.return_range = state["return_range"].clone()
        self.updates, self.skipped, self._skipped_in_a_row = state["counters"].tolist()


def replayed(learner: DreamerLearner, buffer: SequenceBuffer, rng: np.random.Generator, generator: torch.Generator) -> DreamerLosses:
    """An update with stretches drawn from the buffer, which remembers where the model was with each of their rows.

    Args:
        learner: who learns.
        buffer: made with `learner.kept`.
        rng: draws the stretches.
        generator: draws the update's noise.
    """
    drawn = buffer.sample(rng, learner.fit.batch, learner.fit.length)
    losses = learner.update(SequenceBatch.of(drawn), learner.draw_noise(generator))
    if learner.fit.stored_states and not losses.skipped:
        reached = State(losses.reached.deter.transpose(0, 1), losses.reached.stoch.transpose(0, 1))
        buffer.remember(drawn.world[:, None], drawn.place, **learner.packed(reached))
    return losses


def replay_returns(data: SequenceBatch, bootstrap: Tensor, discount: float, weight: float) -> tuple[Tensor, Tensor]:
    """Lambda returns along recorded rewards, with imagined returns to bootstrap from.

    Args:
        data: [L, B, ...], time first.
        bootstrap: [L, B], the imagined return from each state.
        discount: per tick.
        weight: lambda.

    Returns:
        Returns `[L-1, B]` of all rows but the last, and which of these rows `[L-1, B]` end an episode: those have none.
    """
    last = data.first[1:]
    ends_next = torch.cat([last[1:], torch.zeros_like(last[:1])]) | data.terminated[1:]
    alive = discount * (~data.terminated[1:]).to(bootstrap.dtype)
    following, returns = bootstrap[-1], []
    for t in range(len(last) - 1, -1, -1):
        longer = torch.where(ends_next[t], bootstrap[t + 1], (1.0 - weight) * bootstrap[t + 1] + weight * following)
        following = data.reward[t + 1] + alive[t] * longer
        returns.append(following)
    return torch.stack(returns[::-1]), last | data.terminated[:-1]
