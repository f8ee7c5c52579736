"""Dreamer in simulation: the same course as `training.simulated`, with a recurrent policy and a replay of stretches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wm_ros.agents.controller import Controller
from wm_ros.agents.dreamer import DreamerController, wandering
from wm_ros.agents.planet import LatentPlanner, controller_of
from wm_ros.contract.errors import UserError
from wm_ros.data.replay import ReplayOptions
from wm_ros.data.sequence_buffer import SequenceBuffer
from wm_ros.models.rssm import State
from wm_ros.runtime.heap import keep_freed_memory
from wm_ros.sim.fleet import FleetTick
from wm_ros.training.config import DreamerAgentConfig
from wm_ros.training.dreamer_learner import DreamerLearner, DreamerLosses, replayed
from wm_ros.training.simulated import Look, SimulatedTraining


@dataclass(frozen=True)
class DreamerLook(Look):
    """What Dreamer has to show besides: means over the updates since the last evaluation."""

    observation_loss: float
    reward_loss: float
    continue_loss: float
    divergence: float
    """Balanced, with free nats."""
    actor_loss: float
    skipped: float
    """Updates so far that were not finite, and left out."""


class DreamerTraining(SimulatedTraining):
    """See `SimulatedTraining`. `temperature` in its table is the entropy's fixed weight."""

    _agent = DreamerController.agent
    _look_kind = DreamerLook
    learner: DreamerLearner  # type: ignore[assignment]  # another learner with networks, state and restore
    _buffer: SequenceBuffer  # type: ignore[assignment]

    @property
    def _settings(self) -> DreamerAgentConfig:
        return cast(DreamerAgentConfig, self.plan.agent)

    def _make(self, capacity: int, generator: torch.Generator) -> None:
        keep_freed_memory()
        contract, worlds, fit = self.contract, self.plan.simulators, self._settings.fit
        if min(fit.warm_up, capacity) // worlds < fit.length:
            raise UserError(
                f"fit.length: the first stretch of {fit.length} rows is drawn when each of {worlds} simulators has given "
                f"{min(fit.warm_up, capacity) // worlds}: give a larger fit.warm_up and more frames, or fewer simulators"
            )
        self.learner = DreamerLearner(contract, self._settings.dreamer, fit, generator)
        self._cameras = self.learner.networks.world.images
        options = ReplayOptions(fit.memory_bytes, self.folder / "replay")
        size = (contract.observation_size, contract.action_size)
        rows = min(fit.capacity, capacity + worlds + capacity // contract.episode_ticks)  # an episode has one more than actions
        self._buffer = SequenceBuffer(rows, *size, worlds, self._cameras, options, self.learner.kept())
        for i, observation in enumerate(self._fleet.observation):
            self._buffer.begin(i, observation, self._seen_by(i, self._fleet.images))
        begin = self.learner.networks.world.rssm.start(worlds)
        self._carry = {"deter": begin.deter, "stoch": begin.stoch, "action": torch.zeros(worlds, contract.action_size)}
        """Of the policy that acts: its state and last action, in half ranges, one row for each world."""
        self._generator = generator
        self._model_sums = torch.zeros(5, dtype=torch.float64)

    def _take_in(self, action: NDArray[np.float32], tick: FleetTick) -> None:
        for i, (reward, observation, terminated) in enumerate(zip(tick.reward, tick.next_observation, tick.terminated, strict=True)):
            self._buffer.add(i, action[i], float(reward), observation, bool(terminated), self._seen_by(i, tick.next_images))
        for ended in tick.ended:
            world = (ended.resets - 1) % self.plan.simulators  # as `Fleet` counts its resets
            self._buffer.begin(world, self._fleet.observation[world], self._seen_by(world, self._fleet.images))
            for held in self._carry.values():
                held[world] = 0.0

    def _seen_by(self, world: int, images: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
        """The pictures of one world, of the cameras that the model looks at."""
        return {name: images[name][world] for name in self._cameras}

    @torch.no_grad()
    def _act(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        networks, generator, worlds = self.learner.networks, self._generator, len(observation)
        rssm = networks.world.rssm
        pictures = {name: torch.from_numpy(self._fleet.images[name]) for name in self._cameras}
        before, embedded = State(self._carry["deter"], self._carry["stoch"]), networks.world.embed(torch.from_numpy(observation), pictures)
        state = rssm.observe_step(before, self._carry["action"], embedded, rssm.latent.draw((worlds,), generator))
        if self._settings.fit.stored_states:
            self._buffer.remember(np.arange(worlds), self._buffer.newest(), **self.learner.packed(state))
        action = self._chosen(state.feature)
        if self._settings.fit.explore_noise:
            action = wandering(action, self._settings.fit.explore_noise, torch.randn(action.shape, generator=generator))
        self._carry = {"deter": state.deter, "stoch": state.stoch, "action": action}
        # Rounding may leave a limit by its last bit.
        return np.clip(networks.to_contract(action).numpy(), *self._limits)

    def _chosen(self, feature: Tensor) -> Tensor:
        """Actions `[N, A]` in half ranges, for features `[N, F]`."""
        networks, generator = self.learner.networks, self._generator
        if self._settings.dreamer.act == "actor":
            mean, std = networks.actor(feature)
            return networks.actor.limited(mean + std * torch.randn(mean.shape, generator=generator))
        plan = LatentPlanner(self.contract, self._settings.dreamer, networks)
        noise = [{name: torch.randn(shape, generator=generator) for name, shape in plan.noise.items()} for _ in feature]
        return networks.to_half_ranges(torch.stack([plan(*of).action for of in zip(feature, noise, strict=True)]))

    def _update(self) -> None:
        losses = replayed(self.learner, self._buffer, self._rng, self._generator)
        self.updates += 1
        if not losses.skipped:
            self._note_dreamer(losses)

    def _note_dreamer(self, losses: DreamerLosses) -> None:
        weight = losses.value.new_tensor(self._settings.fit.entropy)
        self._sums += torch.stack([losses.critic, losses.value, losses.entropy, weight]).double()
        self._model_sums += torch.stack([*vars(losses.world).values(), losses.actor]).double()
        self._summed += 1

    def _figures(self) -> dict[str, float]:
        names = ("observation_loss", "reward_loss", "continue_loss", "divergence", "actor_loss")
        figures = dict(zip(names, (self._model_sums / max(1, self._summed)).tolist(), strict=True))
        self._model_sums.zero_()
        return {**figures, "skipped": float(self.learner.skipped)}

    def _policy(self) -> Controller:
        controller = controller_of(self.contract, self._settings.dreamer)
        controller.networks.load_state_dict(self.learner.networks.state_dict())
        return controller

    def _normalize(self) -> None:
        """Observations are compressed in the networks, not normalized."""

    def done_with(self) -> None:
        """See `SimulatedTraining.done_with`; pictures in files go: the checkpoint holds them."""
        super().done_with()
        for path in (self.folder / "replay").glob("*.bin"):
            path.unlink(missing_ok=True)

    def _state(self) -> dict[str, torch.Tensor]:
        acting = {f"acting.{name}": held.clone() for name, held in self._carry.items()}
        return super()._state() | acting | {"model_sums": self._model_sums.clone(), "generator": self._generator.get_state()}

    def _restore(self, state: dict[str, torch.Tensor], rest: dict[str, Any]) -> None:
        super()._restore(state, rest)
        self._carry = {name: state[f"acting.{name}"].clone() for name in self._carry}
        self._model_sums = state["model_sums"].clone()
        self._generator.set_state(state["generator"])
