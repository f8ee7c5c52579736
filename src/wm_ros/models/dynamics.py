"""An ensemble of networks over observations as a world model, with the contract's own reward and termination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from wm_ros.contract.functions import reward_function, termination_function
from wm_ros.contract.schema import Contract
from wm_ros.models.ensemble import EnsembleConfig
from wm_ros.models.family import ModelConfig, forward_network, kept_share
from wm_ros.models.reward import RewardNetwork
from wm_ros.models.termination import TerminationNetwork
from wm_ros.models.trainable import Rows
from wm_ros.models.transitions import Transitions
from wm_ros.models.uniform import uniform
from wm_ros.models.world_model import Imagined, Step


@dataclass(frozen=True)
class LimitCost:
    """What a plan pays for coming near the ends of the ranges that the contract gives for observations, such as joint limits.

    A robot should stay off its stops, and a learned model is worst there. The recorded reward has no such term.
    """

    weight: float = 5.0
    """Reward taken off per tick at the very end of a range; grows linearly from the margin on."""
    margin: float = 0.15
    """Share of the half range, counted from its end, in which the cost begins."""

    def __post_init__(self) -> None:
        if self.weight < 0 or not 0 < self.margin <= 1:
            raise ValueError(f"weight {self.weight} must not be negative, margin {self.margin} must be above 0 and at most 1")


Propagation = Literal["TSinf", "TS1", "mean"]
"""Trajectory sampling of PETS (Chua et al. 2018, section 5.1): `TSinf` keeps a particle on its member for the whole rollout, so that what
members do not know stays apart from noise; `TS1` draws a member anew for every step; `mean` lets all follow the mean of the members'
predictions, and knows no spread."""


ACTIONS_AHEAD = 1 << 21
"""Numbers up to which the actions' part of the first layer is computed for a whole rollout in one product. That saves nodes, which is what
small networks spend their time on; beyond, the memory that it goes through costs more."""


class ObservationDynamics(nn.Module):
    """Predicts the observation `stride` ticks ahead from an observation and the actions of those ticks.

    One network call covers several control ticks, so a long horizon costs few calls and compounds few errors. Targets are changes of the
    observation (or the observation itself, per column), normalized; sin/cos pairs are brought back onto the unit circle after every step.
    There is one particle per member and candidate. Reward and termination are the contract's functions, or networks where it says
    `learned`.
    """

    def __init__(
        self,
        contract: Contract,
        config: EnsembleConfig,
        stride: int,
        members: int | None = None,
        sample: bool = False,
        limits: LimitCost | None = None,
        propagation: Propagation = "TSinf",
        model: ModelConfig | None = None,
        exploration: float = 0.0,
    ) -> None:
        """Builds untrained networks.

        Args:
            contract: sizes, names, reward and termination.
            config: of the ensemble.
            stride: ticks per step, at least 1.
            members: overrides `config.members`, for instance with the number of elites.
            sample: rollouts draw from the predicted distributions; False propagates each member's mean, or a mixture's likeliest component.
            limits: what imagined observations near the ends of the contract's ranges cost; None for nothing.
            propagation: how particles and members meet.
            model: family of the networks and kind of their targets; None for Gaussian networks and changes.
            exploration: reward of a rollout, per tick, for members that are one deviation of the observations apart (disagreement as
                intrinsic reward: Pathak et al. 2019, arXiv 1906.04161).

        Raises:
            UserError: `model.targets` names no column, or the contract's functions are not there.
        """
        super().__init__()
        if stride < 1:
            raise ValueError(f"stride {stride} must be at least 1")
        if propagation not in ("TSinf", "TS1", "mean"):
            raise ValueError(f"propagation {propagation!r} must be TSinf, TS1 or mean")
        if sample and propagation == "mean":
            raise ValueError("sample: particles that follow the mean are not drawn: set sample false, or another propagation")
        model = model or ModelConfig()
        self.stride, self.sample, self.propagation = stride, sample, propagation
        self._normalizes, self._exploration = model.normalize, exploration
        size = contract.observation_size
        self.observation_size, self.action_size = size, contract.action_size
        inputs = size + stride * self.action_size
        self.network = forward_network(model, config, inputs, size, members)
        if sample and not self.network.noise_columns:
            raise ValueError(f"sample: a {model.family} model has no noise to draw: set sample false, or another family")
        self.members = self.network.members
        learned_end = contract.termination is not None and contract.termination.learned
        self.reward_network = RewardNetwork(config, inputs + size, members) if contract.reward.learned else None
        self.termination_network = TerminationNetwork(config, inputs + size, members) if learned_end else None
        self._reward = None if contract.reward.learned else reward_function(contract)
        self._termination = None if learned_end else termination_function(contract)
        low = torch.tensor([j.low for j in contract.action.joints])
        high = torch.tensor([j.high for j in contract.action.joints])
        self.register_buffer("action_mean", (low + high) / 2)
        self.register_buffer("action_std", (high - low) / 2)
        for name, value in (("observation_mean", 0.0), ("observation_std", 1.0), ("target_mean", 0.0), ("target_std", 1.0)):
            self.register_buffer(name, torch.full((size,), value))
        kept = kept_share(model, contract)
        self._all_changes = bool(kept.all())
        self.register_buffer("_kept", kept, persistent=False)
        self._limits = limits if limits is not None and limits.weight > 0 else None
        middle, inverse_half = _ranges(contract)
        self.register_buffer("_range_middle", middle, persistent=False)
        self.register_buffer("_range_inverse_half", inverse_half, persistent=False)
        pairs, offset = _circle_sums(contract.observation_names)
        self._has_pairs = bool(pairs.any())
        self.register_buffer("_pairs", pairs, persistent=False)
        self.register_buffer("_offset", offset, persistent=False)

    def inputs(self, observation: Tensor, actions: Tensor) -> Tensor:
        """Normalized network inputs `[..., I]` from `observation [..., O]` and the actions of the ticks `[..., stride, A]`."""
        scaled = (actions - self.action_mean) / self.action_std
        return torch.cat([(observation - self.observation_mean) / self.observation_std, scaled.flatten(-2)], dim=-1)

    @property
    def prediction_noise(self) -> int:
        """Columns of noise that `predict` takes for a draw; 0 for a family that cannot be drawn from."""
        return self.network.noise_columns

    def predict(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Tensor:
        """The observation `stride` ticks later.

        Args:
            observation: `[M, B, O]`.
            actions: `[M, B, stride, A]`, one for each tick.
            noise: standard normal `[M, B, prediction_noise]`, or None for the mean.
        """
        change = self.network.predict(self.inputs(observation, actions), noise)
        return self._on_circle(self._base(observation) + change * self.target_std + self.target_mean)

    def noise_shape(self, horizon: int) -> tuple[int, ...] | None:
        """See `WorldModel.noise_shape`: `[H, M, 1, W]`, the same for all candidates so that their ranking is not a matter of luck.

        W counts the network's columns of noise where rollouts sample, and one more, which draws the member, for TS1.
        """
        width = (self.prediction_noise if self.sample else 0) + (self.propagation == "TS1")
        return (horizon, self.members, 1, width) if width else None

    def rollout(self, observation: Tensor, actions: Tensor, noise: Tensor | None) -> Imagined:
        """See `WorldModel.rollout`.

        Equal to `predict` step by step, but normalizers and the held action's columns are folded into the first and last layer, and
        rewards are computed for all steps at once: a third of the nodes of the exported graph.
        """
        horizon, candidates = actions.shape[0], actions.shape[1]
        weights, biases, size = list(self.network.weights), list(self.network.biases), self.observation_size
        first = weights[0]
        from_state = first[:, :size] / self.observation_std.unsqueeze(-1)
        from_action = first[:, size:].unflatten(1, (self.stride, self.action_size)).sum(dim=1) / self.action_std.unsqueeze(-1)
        centre = torch.matmul(self.observation_mean, from_state) + torch.matmul(self.action_mean, from_action)  # [M, width]
        offset = biases[0] - centre.unsqueeze(1)
        width, both = first.shape[-1], torch.cat([from_state, from_action], dim=1)
        ahead = horizon * self.members * candidates * width <= ACTIONS_AHEAD
        driven = (torch.matmul(actions.unsqueeze(1), from_action) + offset).unbind(0) if ahead else ()  # H times [M, N, width]
        decode = self.network.decoder(self.target_std, self.target_mean)
        state = observation.expand(self.members, candidates, size)
        states = [state]
        for h in range(horizon):
            if self.propagation == "TS1" and noise is not None and h > 0:  # all start at the same observation
                state = state.index_select(0, self._drawn_members(noise[h, :, 0, -1]))
            if ahead:
                hidden = torch.matmul(state, from_state) + driven[h]
            else:
                hidden = torch.matmul(torch.cat([state, actions[h].expand(self.members, -1, -1)], dim=-1), both) + offset
            hidden = nn.functional.silu(hidden)
            for weight, bias in zip(weights[1:-1], biases[1:-1], strict=True):
                hidden = nn.functional.silu(torch.matmul(hidden, weight) + bias)
            expected, drawn = decode(hidden, noise[h, ..., : self.prediction_noise] if self.sample and noise is not None else None)
            following = self._base(state) + expected
            if drawn is not None:
                following = following + drawn
            if self.propagation == "mean":
                following = following.mean(dim=0, keepdim=True).expand_as(following)
            state = self._on_circle(following)
            states.append(state)
        before, after = torch.stack(states[:-1]), torch.stack(states[1:])
        held = actions.unsqueeze(1).expand(horizon, self.members, candidates, self.action_size)
        reward = self.stride * self._rewards(before, held, after)
        if self._limits is not None:
            reward = reward - self._limit_cost(after)
        if self._exploration:
            reward = reward + self.stride * self._exploration * self._apart(after).unsqueeze(1)
        ended = self._endings(before, held, after)
        return Imagined(after, reward, None if ended is None else _running_product(1.0 - ended))

    def step(self, observation: Tensor, action: Tensor) -> Step:
        """See `WorldModel.step`."""
        rows = observation.shape[0]
        held = action.unsqueeze(1).expand(self.members, rows, self.stride, self.action_size)
        after = self.predict(observation.expand(self.members, rows, self.observation_size), held, None)
        following = self._on_circle(after.mean(dim=0))
        reward, ended = self._rewards(observation, action, following), self._endings(observation, action, following)
        reward = self.stride * (reward if self.reward_network is None else reward.mean(dim=0)) - self._limit_cost(following)
        if ended is not None and self.termination_network is not None:
            ended = ended.mean(dim=0)
        return Step(following, reward, None if ended is None else 1.0 - ended)

    def transition(self, observation: Tensor, action: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """One model step in which every member has rows of its own.

        Args:
            observation: `[M, B, O]`.
            action: `[M, B, A]`, held for `stride` ticks.
            noise: standard normal `[M, B, prediction_noise]`, or None for the mean.

        Returns:
            observation `[M, B, O]`; reward `[M, B]`, summed over the ticks; probability that the episode ends `[M, B]`, None where
            none ever does.
        """
        after = self.predict(observation, action.unsqueeze(-2).expand(*action.shape[:-1], self.stride, self.action_size), noise)
        return after, self.stride * self._rewards(observation, action, after), self._endings(observation, action, after)

    def spread(self, observation: Tensor, action: Tensor) -> Tensor:
        """How far the members are apart about one step from `observation [B, O]` under `action [B, A]`: `[B]`.

        Standard deviation over the members' means in deviations of each target, root mean square over the columns and, where the reward is
        learned, the reward.
        """
        rows = observation.shape[0]
        here, held = (t.expand(self.members, rows, t.shape[-1]) for t in (observation, action))
        after, reward, _ = self.transition(here, held, None)
        variance = (after / self.target_std).var(dim=0, correction=0)
        if self.reward_network is not None:
            scaled = reward / (self.stride * self.reward_network.reward_std)
            variance = torch.cat([variance, scaled.var(dim=0, correction=0).unsqueeze(-1)], dim=-1)
        return torch.sqrt(variance.mean(dim=-1))

    # ---- fitting: see `trainable.Trainable` ---------------------------------------------------------------------------

    def initialize(self, generator: torch.Generator) -> None:
        """Random weights for all networks."""
        for network in (self.network, self.reward_network, self.termination_network):
            if network is not None:
                network.initialize(generator)

    def normalize(self, data: Transitions) -> None:
        """Means and standard deviations of inputs and targets, computed in float64 and baked into the model."""
        base = data.observation if self._all_changes else data.observation * self._kept.numpy()
        with torch.no_grad():
            for name, values in (("observation", data.observation), ("target", data.following.astype(np.float64) - base)):
                values = values.astype(np.float64)
                getattr(self, f"{name}_mean").copy_(torch.from_numpy(values.mean(axis=0)))
                getattr(self, f"{name}_std").copy_(torch.from_numpy(np.maximum(values.std(axis=0), 1e-6)))
            if not self._normalizes:
                self.target_mean.zero_()
                self.target_std.fill_(1.0)

    def prepare(self, data: Transitions) -> Rows:
        """Sets the normalizers and gives rows: inputs, targets and, for what is learned, (before, after), reward, termination."""
        self.normalize(data)
        observation, actions, following = (
            torch.from_numpy(np.ascontiguousarray(a)) for a in (data.observation, data.actions, data.following)
        )
        inputs = self.inputs(observation, actions)
        rows = [inputs, (following - self._base(observation) - self.target_mean) / self.target_std]
        if self.reward_network is None and self.termination_network is None:
            return tuple(rows)
        rows.append(torch.cat([inputs, (following - self.observation_mean) / self.observation_std], dim=-1))
        if self.reward_network is not None:
            if data.reward is None:
                raise ValueError("the contract's reward is learned, and the transitions have none")
            rows.append(torch.from_numpy(data.reward))
            if self._normalizes:
                self.reward_network.normalize(rows[-1])
        if self.termination_network is not None:
            if data.terminated is None:
                raise ValueError("the contract's termination is learned, and the transitions have none")
            rows.append(torch.from_numpy(data.terminated.astype(np.float32)))
            self.termination_network.balance(rows[-1])
        return tuple(rows)

    def loss(self, rows: Rows) -> Tensor:
        """That of the family, and those of learned reward and termination, whose gradients do not meet."""
        inputs, targets, *outcome = rows
        loss = self.network.loss(inputs, targets)
        if self.reward_network is not None:
            loss = loss + self.reward_network.errors(outcome[0], outcome[1]).sum()
        if self.termination_network is not None:
            loss = loss + self.termination_network.loss(outcome[0], outcome[-1])
        return loss

    def errors(self, rows: Rows) -> Tensor:
        """Of the next observation, plus those of learned reward and termination."""
        inputs, targets, *outcome = rows
        errors = self.network.errors(inputs.expand(self.members, -1, -1), targets)
        if outcome:
            given = outcome[0].expand(self.members, -1, -1)
            if self.reward_network is not None:
                errors = errors + self.reward_network.errors(given, outcome[1])
            if self.termination_network is not None:
                errors = errors + self.termination_network.errors(given, outcome[-1])
        return errors

    def looseness(self) -> Tensor | None:
        """Of the learned log-variance bounds."""
        return self.network.looseness()

    def take(self, trained: ObservationDynamics, chosen: list[int]) -> None:
        """Copies the normalizers and the `chosen` members of a trained model of the same kind."""
        with torch.no_grad():
            for name, mine in self.named_buffers(recurse=False):
                mine.copy_(getattr(trained, name))
        self.network.members_from(trained.network, chosen)
        if self.reward_network is not None and trained.reward_network is not None:
            self.reward_network.members_from(trained.reward_network, chosen)
        if self.termination_network is not None and trained.termination_network is not None:
            self.termination_network.members_from(trained.termination_network, chosen)

    # ---- parts --------------------------------------------------------------------------------------------------------

    def _base(self, observation: Tensor) -> Tensor:
        """What a prediction `[..., O]` is added to: the observation, or zero for columns that are predicted as they are."""
        return observation if self._all_changes else observation * self._kept

    def _outcome_inputs(self, before: Tensor, held: Tensor, after: Tensor) -> Tensor:
        """Inputs `[..., M, B, I]` of learned reward and termination for actions `[..., B, A]` held for all ticks of the step."""
        ticks = held.unsqueeze(-2).expand(*held.shape[:-1], self.stride, self.action_size)
        joined = torch.cat([self.inputs(before, ticks), (after - self.observation_mean) / self.observation_std], dim=-1)
        return joined if joined.dim() > 2 else joined.expand(self.members, *joined.shape)

    def _rewards(self, before: Tensor, held: Tensor, after: Tensor) -> Tensor:
        """Reward per tick, `[...]` by the contract's function, or `[..., M, B]` by the network."""
        if self.reward_network is not None:
            return self.reward_network(self._outcome_inputs(before, held, after))
        assert self._reward is not None
        return torch.as_tensor(self._reward(before, held, after))

    def _endings(self, before: Tensor, held: Tensor, after: Tensor) -> Tensor | None:
        """Probability that the episode ends, shaped as the reward: 0 or 1 by the contract's function; None where none ever ends."""
        if self.termination_network is not None:
            return self.termination_network(self._outcome_inputs(before, held, after))
        return None if self._termination is None else self._termination(before, held, after).to(after.dtype)

    def _limit_cost(self, observation: Tensor) -> Tensor:
        """What a model step pays `[...]` for ending at `observation [..., O]`, near the ends of the contract's ranges."""
        if self._limits is None:
            return observation.new_zeros(observation.shape[:-1])
        beyond = torch.abs((observation - self._range_middle) * self._range_inverse_half) - (1.0 - self._limits.margin)
        return self.stride * self._limits.weight / self._limits.margin * torch.relu(beyond).sum(dim=-1)

    def _apart(self, observation: Tensor) -> Tensor:
        """What members are apart `[H, N]` at `observation [H, M, N, O]`: deviation over them in deviations of the recorded observations."""
        variance = (observation / self.observation_std).var(dim=1, correction=0).mean(dim=-1)
        return torch.sqrt(variance.clamp(min=1e-12))  # the slope of a root at zero has no end

    def _drawn_members(self, normal: Tensor) -> Tensor:
        """Members `[M]`, each equally likely, from standard normal numbers `[M]`: for each member, whose particles it takes over."""
        return torch.clamp(torch.floor(uniform(normal) * self.members), 0.0, self.members - 1.0).to(torch.int64)

    def _on_circle(self, observation: Tensor) -> Tensor:
        if not self._has_pairs:
            return observation
        return observation / torch.sqrt(torch.matmul(observation * observation, self._pairs) + self._offset)


def _running_product(share: Tensor) -> Tensor:
    """Products of `share [H, ...]` over the first 1 to H rows; the export knows no `cumprod`."""
    products = [share[0]]
    for row in share.unbind(0)[1:]:
        products.append(products[-1] * row)
    return torch.stack(products)


def _ranges(contract: Contract) -> tuple[Tensor, Tensor]:
    """Middle `[O]` and inverse of the half range `[O]` of the observations that have a range in the contract; zeros for the others."""
    features = [f for c in contract.observation for f in c.features for _ in f.columns]
    middle, inverse_half = torch.zeros(len(features)), torch.zeros(len(features))
    for i, feature in enumerate(features):
        if feature.encoding == "identity" and feature.low is not None and feature.high is not None:
            middle[i] = (feature.high + feature.low) / 2.0
            inverse_half[i] = 2.0 / (feature.high - feature.low)
    return middle, inverse_half


def _circle_sums(names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """`P [O, O]` and `e [O]` such that `sqrt(x² @ P + e)` is the radius for columns of a sin/cos pair and 1 for all others."""
    pairs, offset = torch.zeros(len(names), len(names)), torch.ones(len(names))
    for i, name in enumerate(names[:-1]):
        if name.endswith(".sin") and names[i + 1] == name[:-4] + ".cos":
            pairs[i : i + 2, i : i + 2] = 1.0
            offset[i : i + 2] = 1e-8
    return pairs, offset
