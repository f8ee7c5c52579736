"""Deep Dyna: a model that is fitted to what was seen, rollouts in it, and batches that mix both (MBPO, Janner et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wm_ros.agents.mbpo import MbpoConfig, dynamics
from wm_ros.agents.sac import SacNetworks
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data.transition_buffer import TransitionBuffer
from wm_ros.models.dynamics import ObservationDynamics
from wm_ros.models.transitions import Transitions
from wm_ros.training.fit import Fit, FitConfig
from wm_ros.training.imagination import Imagined, imagine
from wm_ros.training.parts import below
from wm_ros.training.sac_learner import Batch, SacFitConfig


@dataclass(frozen=True)
class MbpoFitConfig(SacFitConfig):
    """As of the soft actor-critic, with more updates for each transition."""

    updates_per_step: float = 20.0
    """Updates for each transition that comes in: G of algorithm 2. Published: 10 to 40."""


@dataclass(frozen=True)
class ModelFitConfig(FitConfig):
    """As of every model, for fits that begin at the weights of the last one."""

    batch: int = 128
    """Transitions per member and gradient step."""
    learning_rate: float = 1e-3
    """Peak of the one-cycle schedule of AdamW."""
    steps: int = 1000
    """Gradient steps of a fit at most."""
    patience: int = 4
    """Checks without improvement before the fit stops."""
    check_every: int = 100
    """Gradient steps between looks at the held-out set."""


class MbpoLearner:
    """Model, its elites, and the newest rounds of rollouts."""

    def __init__(
        self, contract: Contract, config: MbpoConfig, fit: FitConfig, seed: int, warn: Callable[[str], None] = lambda text: None
    ) -> None:
        """Untrained.

        Args:
            contract: sizes, reward and termination.
            config: what is imagined.
            fit: how the model is fitted.
            seed: of the first weights and the fits' draws.
            warn: told where more ticks are dropped than `config.warn_dropped`.
        """
        self.config, self._fit, self._seed, self._warn = config, fit, seed, warn
        self.model = dynamics(contract, config, imagining=False)
        self.model.initialize(torch.Generator().manual_seed(seed))
        self.elites = dynamics(contract, config, imagining=True).requires_grad_(False)
        self.pessimism = config.pessimism or 0.0
        """Reward taken off for a spread of one."""
        self.chosen = list(range(config.ensemble.elites))
        """Members that are the elites, best on held-out data first."""
        self.elites.take(self.model, self.chosen)
        self.fits = 0
        self.learned_from = 0
        """Transitions that had come in at the last fit."""
        self.model_error = float("nan")
        """Of the elites' mean on the transitions since the fit before last, which it had not seen; see `one_step_error`."""
        self.length = config.lengths.at(0)
        """Ticks of the newest rollouts."""
        self._sizes = contract.observation_size, contract.action_size
        self._imagined = TransitionBuffer(1, *self._sizes)
        self._ticks = self._dropped = 0
        self._spread = 0.0

    @property
    def imagined(self) -> TransitionBuffer:
        """The newest rounds of rollouts."""
        return self._imagined

    @property
    def weight(self) -> float:
        """What a spread of one adds to the reward."""
        return self.config.exploration - self.pessimism

    def advance(
        self, real: TransitionBuffer, networks: SacNetworks, rng: np.random.Generator, on_step: Callable[[int], None] = lambda done: None
    ) -> None:
        """Fits the model and imagines, where `config.model_every` transitions have come in since the last time, and the first time.

        Args:
            real: all that has come in.
            networks: the policy.
            rng: of every draw.
            on_step: told the steps of a fit so far.

        Raises:
            UserError: the model's loss is not finite.
        """
        state = real.state()
        added = int(state["added"][0])
        new = added - self.learned_from
        if self.fits and new < self.config.model_every:
            return
        if self.fits:
            place = (added - 1 - np.arange(min(new, real.capacity))) % real.capacity
            self.model_error = one_step_error(self.elites, _rows({k: v[place] for k, v in state.items() if k != "added"}))
        self.fit(_rows(state), on_step)
        self.learned_from = added
        self.imagine(state["observation"], self.config.rollouts * self.config.model_every, self.config.lengths.at(added), networks, rng)

    def begin_fit(self, data: Transitions) -> Fit:
        """A fit of all members, from where the last one ended, before its first step."""
        return Fit(self.model, data, self._fit, int(np.random.SeedSequence([self._seed, self.fits, 8]).generate_state(1)[0]))

    def end_fit(self, fit: Fit) -> None:
        """Takes the elites of a fit over."""
        self.chosen = fit.result().elites[: self.elites.members]
        self.elites.take(self.model, self.chosen)
        self.fits += 1

    def fit(self, data: Transitions, on_step: Callable[[int], None] = lambda done: None) -> None:
        """Fits all members and chooses the elites.

        Raises:
            UserError: the loss is not finite.
        """
        fit = self.begin_fit(data)
        try:
            while not fit.finished:
                on_step(fit.done)
                fit.step()
        except FloatingPointError as error:
            raise UserError(f"model: {error}, or begin anew with a lower model_fit.learning_rate") from None
        self.end_fit(fit)

    def imagine(
        self, starts: NDArray[np.float32], rollouts: int, length: int, networks: SacNetworks, rng: np.random.Generator
    ) -> Imagined:
        """Adds a round of rollouts from states drawn of `starts [N, O]`."""
        capacity = rollouts * length * self.config.kept
        if capacity != self._imagined.capacity:  # a new length; what older models imagined goes
            self._imagined = TransitionBuffer(capacity, *self._sizes)
        self.length = length
        start = starts[rng.integers(0, len(starts), rollouts)]
        found = imagine(self.elites, networks, start, length, rng, sample=self.config.sample, weight=self.weight)
        self._imagined.add(**found.columns)
        self._ticks += len(found) + found.dropped
        self._dropped += found.dropped
        self._spread += found.spread * (len(found) + found.dropped)
        if found.drop_rate > self.config.warn_dropped:
            self._warn(
                f"warning: {found.drop_rate:.1%} of the imagined ticks have no finite end and are left out: the model is poor where the "
                "policy goes; shorter mbpo.lengths or more model_fit.steps help"
            )
        return found

    def batch(self, real: TransitionBuffer, fit: SacFitConfig, rng: np.random.Generator) -> Batch:
        """Transitions for one update, of which `config.real_share` are real; all of them as long as too few are imagined."""
        imagined = fit.batch - round(self.config.real_share * fit.batch)
        if len(self._imagined) < imagined:
            imagined = 0
        both = []
        if imagined < fit.batch:
            drawn = Batch.of(real.sample(rng, fit.batch - imagined, fit.discount))
            if self.weight and self.fits:  # the rewards of both kinds must mean the same
                with torch.inference_mode():
                    drawn = replace(drawn, reward=drawn.reward + self.weight * self.elites.spread(drawn.observation, drawn.action))
            both.append(drawn)
        if imagined:
            both.append(Batch.of(self._imagined.sample(rng, imagined, fit.discount)))
        return Batch(*(torch.cat(columns) for columns in zip(*(vars(batch).values() for batch in both), strict=True)))

    def figures(self) -> dict[str, float]:
        """What there is to see since it was last asked for, and begins to count anew."""
        ticks = max(1, self._ticks)
        seen = {
            "model_error": self.model_error,
            "rollout_length": float(self.length),
            "imagined": float(self._ticks),
            "drop_rate": self._dropped / ticks,
            "spread": self._spread / ticks,
        }
        self._ticks = self._dropped = 0
        self._spread = 0.0
        return seen

    def state(self) -> dict[str, Any]:
        """All that changes."""
        counters = [self.fits, self.learned_from, self.length, self._ticks, self._dropped, self._imagined.capacity]
        return {
            **{f"model.{k}": v.clone() for k, v in self.model.state_dict().items()},
            **{f"imagined.{k}": v for k, v in self._imagined.state().items()},
            "chosen": np.array(self.chosen, np.int64),
            "counters": np.array(counters, np.int64),
            "sums": np.array([self.model_error, self._spread, self.pessimism]),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state` gave.

        Raises:
            KeyError: something is missing.
            RuntimeError: sizes differ.
        """
        self.model.load_state_dict(below(state, "model"))
        self.chosen = state["chosen"].tolist()
        self.elites.take(self.model, self.chosen)
        self.fits, self.learned_from, self.length, self._ticks, self._dropped, capacity = state["counters"].tolist()
        self.model_error, self._spread, self.pessimism = state["sums"].tolist()
        self._imagined = TransitionBuffer(capacity, *self._sizes)
        self._imagined.restore({name: value.numpy() for name, value in below(state, "imagined").items()})


def _rows(columns: dict[str, NDArray[Any]]) -> Transitions:
    """As the fit takes them."""
    observation, action, reward, following, ended = (
        columns[name] for name in ("observation", "action", "reward", "next_observation", "terminated")
    )
    return Transitions(observation, action[:, None], following, reward, ended)


@torch.inference_mode()
def one_step_error(model: ObservationDynamics, data: Transitions) -> float:
    """Mean squared error of the members' mean, each column in units of its target's variance: 1 is what always the mean target has."""
    here, held = (torch.from_numpy(np.ascontiguousarray(a)) for a in (data.observation, data.actions))
    after = model.predict(here.expand(model.members, *here.shape), held.expand(model.members, *held.shape), None).mean(dim=0)
    return float((((after - torch.from_numpy(np.ascontiguousarray(data.following))) / model.target_std) ** 2).mean())
