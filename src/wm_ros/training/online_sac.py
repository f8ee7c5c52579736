"""Soft actor-critic and MBPO beside a robot."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from wm_ros.agents.controller import Controller
from wm_ros.agents.mbpo import MbpoController
from wm_ros.agents.sac import SacController
from wm_ros.contract.announcements import ControllerNotice
from wm_ros.data.episode import Episode
from wm_ros.data.transition_buffer import TransitionBuffer
from wm_ros.training.config import DreamerAgentConfig, MbpoAgentConfig, PolicyConfig
from wm_ros.training.mbpo_learner import MbpoLearner
from wm_ros.training.online import OnlineTraining
from wm_ros.training.running_statistics import RunningStatistics
from wm_ros.training.sac_learner import FIGURES, Batch, SacLearner


class OnlineSac(OnlineTraining):
    """See `OnlineTraining`."""

    figures = FIGURES
    _kind: type[SacController] = SacController

    @property
    def _settings(self) -> PolicyConfig:
        assert not isinstance(self.config, DreamerAgentConfig)
        return self.config

    def _make(self) -> None:
        size, fit = (self.contract.observation_size, self.contract.action_size), self._settings.fit
        self.buffer = TransitionBuffer(fit.capacity, *size)
        self.learner = SacLearner(self.contract, self._settings.sac, fit, torch.Generator().manual_seed(self._seed(0)))
        self._statistics = RunningStatistics(size[0])

    def _keep(self, episode: Episode, new: bool) -> None:
        columns = (episode.observation[:-1], episode.action, episode.reward, episode.observation[1:], episode.terminated)
        # By no more at once than the buffer holds.
        for start in range(0, len(episode), self.buffer.capacity):
            part = slice(start, start + self.buffer.capacity)
            self.buffer.add(*(column[part] for column in columns))
        self._seen += len(episode)
        if new and self._settings.sac.normalize:
            self._statistics.add(episode.observation[:-1])
            self._normalize()

    def _normalize(self) -> None:
        if self._statistics.count:
            networks = self.learner.networks
            networks.observation_mean.copy_(torch.from_numpy(self._statistics.mean))
            networks.observation_rate.copy_(torch.from_numpy(self._statistics.rate))

    def _lacking(self) -> str:
        held, batch = len(self.buffer), self._settings.fit.batch
        return f"{held} transitions in the buffer, a batch has {batch}" if held < batch else ""

    def _update(self) -> torch.Tensor:
        fit = self._settings.fit
        batch = self._batch()
        noise = self._rng.standard_normal((2, fit.batch, self.contract.action_size), dtype=np.float32)
        return self.learner.update(batch, torch.from_numpy(noise)).figures

    def _batch(self) -> Batch:
        return Batch.of(self.buffer.sample(self._rng, self._settings.fit.batch, self._settings.fit.discount))

    def _untrained(self, explore: bool) -> Controller:
        return self._kind(self.contract, self._settings.sac, explore)

    def _networks(self) -> torch.nn.Module:
        return self.learner.networks

    def _shapes(self, config: Any) -> Any:
        return config.sac

    def _parts(self) -> dict[str, dict[str, Any]]:
        return {"learner": self.learner.state(), "statistics": self._statistics.state()}

    def _take_back(self, below: Callable[[str], dict[str, torch.Tensor]]) -> None:
        self.learner.restore(below("learner"))
        self._statistics.restore({k: v.numpy() for k, v in below("statistics").items()})
        self._normalize()


class OnlineMbpo(OnlineSac):
    """The same with batches that are imagined for the most part; the model is fitted before the updates that new transitions pay for."""

    _kind = MbpoController

    @property
    def _agent(self) -> MbpoAgentConfig:
        assert isinstance(self.config, MbpoAgentConfig)
        return self.config

    def _make(self) -> None:
        super()._make()
        self.imagination = MbpoLearner(self.contract, self._agent.mbpo, self._agent.model_fit, self._seed(2), self._warn)
        self._since = 0

    def _batch(self) -> Batch:
        ahead, networks, fit, config = self.imagination, self.learner.networks, self._agent.fit, self._agent.mbpo
        fits = ahead.fits
        ahead.advance(self.buffer, networks, self._rng, lambda done: self._step_report(done, self._agent.model_fit.steps))
        if ahead.fits > fits:
            self._since = 0
        # A bag brings many transitions at once: as often as if they had come one by one, there are rollouts of the policy as it is by now.
        elif self._since >= max(1, round(config.model_every * fit.updates_per_step)):
            held = self.buffer.state()
            ahead.imagine(held["observation"], config.rollouts * config.model_every, ahead.length, networks, self._rng)
            self._since = 0
        self._since += 1
        return ahead.batch(self.buffer, fit, self._rng)

    def _notes(self) -> dict[str, Any]:
        return {name: value if math.isfinite(value) else None for name, value in self.imagination.figures().items()}

    def _shapes(self, config: Any) -> Any:
        return config.sac, config.mbpo.model, config.mbpo.ensemble

    def _parts(self) -> dict[str, dict[str, Any]]:
        return {**super()._parts(), "imagination": self.imagination.state(), "counts": {"since": np.array([self._since])}}

    def _take_back(self, below: Callable[[str], dict[str, torch.Tensor]]) -> None:
        super()._take_back(below)
        self.imagination.restore(below("imagination"))
        self._since = int(below("counts")["since"][0])

    def resume(self, warn: Callable[[str], None]) -> ControllerNotice | None:
        """See `OnlineTraining.resume`."""
        notice = super().resume(warn)
        # Where a bag is gone, fewer have come in again than the model was fitted to.
        self.imagination.learned_from = min(self.imagination.learned_from, int(self.buffer.state()["added"][0]))
        return notice
