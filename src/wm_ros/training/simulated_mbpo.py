"""MBPO in simulation: the same course as `training.simulated`, with batches that are imagined for the most part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from wm_ros.agents.controller import Controller
from wm_ros.agents.mbpo import MbpoController
from wm_ros.training.config import MbpoAgentConfig
from wm_ros.training.mbpo_learner import MbpoLearner
from wm_ros.training.parts import below, joined
from wm_ros.training.simulated import Look, SimulatedTraining


@dataclass(frozen=True)
class MbpoLook(Look):
    """What MBPO has to show besides; all but the first two counted since the last evaluation."""

    model_error: float
    """One step ahead, on the transitions since the fit before last, in units of their variance; nan before the second fit."""
    rollout_length: float
    """Ticks of the newest rollouts."""
    imagined: float
    """Ticks imagined."""
    drop_rate: float
    """Share of them without a finite end."""
    spread: float
    """Mean over them of what the members are apart; 0 where it has no weight."""


class MbpoTraining(SimulatedTraining):
    """See `SimulatedTraining`."""

    _agent = MbpoController.agent
    _look_kind = MbpoLook

    @property
    def _settings(self) -> MbpoAgentConfig:
        return cast(MbpoAgentConfig, self.plan.agent)

    def _make(self, capacity: int, generator: torch.Generator) -> None:
        super()._make(capacity, generator)
        seed = int(np.random.SeedSequence([self.plan.seed, 2, 6]).generate_state(1)[0])
        settings = self._settings
        self.imagination = MbpoLearner(self.contract, settings.mbpo, settings.model_fit, seed, lambda text: self.warn(text))

    def _update(self) -> None:
        fit = self._settings.fit
        self.imagination.advance(self._buffer, self.learner.networks, self._rng)
        batch = self.imagination.batch(self._buffer, fit, self._rng)
        noise = self._rng.standard_normal((2, fit.batch, self.contract.action_size), dtype=np.float32)
        losses = self.learner.update(batch, torch.from_numpy(noise))
        self.updates += 1
        self._note(losses)

    def _figures(self) -> dict[str, float]:
        return self.imagination.figures()

    def _policy(self) -> Controller:
        controller = MbpoController(self.contract, self._settings.sac)
        controller.networks.load_state_dict(self.learner.networks.state_dict())
        return controller

    def _state(self) -> dict[str, torch.Tensor]:
        return super()._state() | joined({"imagination": self.imagination.state()})

    def _restore(self, state: dict[str, torch.Tensor], rest: dict[str, Any]) -> None:
        super()._restore(state, rest)
        self.imagination.restore(below(state, "imagination"))
