"""Dreamer beside a robot: world model and policy learn from stretches of its bags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from wm_ros.agents.controller import Controller
from wm_ros.agents.planet import controller_of
from wm_ros.data.episode import Episode
from wm_ros.data.replay import ReplayOptions
from wm_ros.data.sequence_buffer import SequenceBuffer
from wm_ros.training.config import DreamerAgentConfig
from wm_ros.training.dreamer_learner import FIGURES, DreamerLearner, SequenceBatch
from wm_ros.training.heap import keep_freed_memory
from wm_ros.training.online import OnlineTraining


class OnlineDreamer(OnlineTraining):
    """See `OnlineTraining`."""

    figures = FIGURES

    @property
    def _settings(self) -> DreamerAgentConfig:
        assert isinstance(self.config, DreamerAgentConfig)
        return self.config

    def _make(self) -> None:
        keep_freed_memory()
        contract, fit = self.contract, self._settings.fit
        self.learner = DreamerLearner(contract, self._settings.dreamer, fit, torch.Generator().manual_seed(self._seed(0)))
        size, options = (contract.observation_size, contract.action_size), ReplayOptions(fit.memory_bytes, self.directory / "replay")
        self.buffer = SequenceBuffer(fit.capacity, *size, images=self.learner.networks.world.images, options=options)
        self._generator = torch.Generator().manual_seed(self._seed(3))

    def _keep(self, episode: Episode, new: bool) -> None:
        self.buffer.take(0, episode)
        self._seen += len(episode)

    def _lacking(self) -> str:
        held, length = len(self.buffer), self._settings.fit.length
        return f"{held} observations in the buffer, a stretch has {length}" if held < length else ""

    def _update(self) -> torch.Tensor | None:
        fit = self._settings.fit
        batch = SequenceBatch.of(self.buffer.sample(self._rng, fit.batch, fit.length))
        losses = self.learner.update(batch, self.learner.draw_noise(self._generator))
        return None if losses.skipped else losses.figures

    def _untrained(self, explore: bool) -> Controller:
        return controller_of(self.contract, self._settings.dreamer, explore, self._settings.fit.explore_noise)

    def _networks(self) -> torch.nn.Module:
        return self.learner.networks

    def _notes(self) -> dict[str, Any]:
        return {"skipped": self.learner.skipped}

    def _shapes(self, config: Any) -> Any:
        return config.dreamer

    def _parts(self) -> dict[str, dict[str, Any]]:
        return {"learner": self.learner.state(), "draws": {"generator": self._generator.get_state()}}

    def _take_back(self, below: Callable[[str], dict[str, torch.Tensor]]) -> None:
        self.learner.restore(below("learner"))
        self._generator.set_state(below("draws")["generator"])
