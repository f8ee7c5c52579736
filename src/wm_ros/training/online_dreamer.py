"""Dreamer beside a robot: world model and policy learn from stretches of its bags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from wm_ros.agents.controller import Controller
from wm_ros.agents.planet import controller_of
from wm_ros.data.episode import Episode
from wm_ros.data.replay import ReplayOptions
from wm_ros.data.sequence_buffer import SequenceBuffer
from wm_ros.runtime.heap import keep_freed_memory
from wm_ros.training.config import DreamerAgentConfig
from wm_ros.training.dreamer_learner import FIGURES, DreamerLearner, replayed
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
        images, kept = self.learner.networks.world.images, self.learner.kept()
        self.buffer = SequenceBuffer(fit.capacity, *size, images=images, options=options, remembered=kept)
        self._memories: dict[str, torch.Tensor] = {}
        """Of a buffer that is filled again from bags."""
        self._generator = torch.Generator().manual_seed(self._seed(3))

    def _keep(self, episode: Episode, new: bool) -> None:
        places = self.buffer.take(0, episode)
        self._seen += len(episode)
        if new and self._settings.fit.stored_states:
            states = self.learner.followed(episode, self._generator)
            self.buffer.remember(np.zeros(len(places), np.intp), places, **self.learner.packed(states))

    def _refilled(self, whole: bool) -> None:
        if whole and self._memories:  # else rows lie elsewhere, or nothing was stored: zero until they are replayed
            self.buffer.recall({name: kept.numpy() for name, kept in self._memories.items()})
        self._memories = {}

    def _lacking(self) -> str:
        held, length = len(self.buffer), self._settings.fit.length
        return f"{held} observations in the buffer, a stretch has {length}" if held < length else ""

    def _update(self) -> torch.Tensor | None:
        losses = replayed(self.learner, self.buffer, self._rng, self._generator)
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
        parts: dict[str, dict[str, Any]] = {"learner": self.learner.state(), "draws": {"generator": self._generator.get_state()}}
        return {**parts, "memories": self.buffer.memories()}  # its rows come from the bags

    def _take_back(self, below: Callable[[str], dict[str, torch.Tensor]]) -> None:
        self.learner.restore(below("learner"))
        self._generator.set_state(below("draws")["generator"])
        self._memories = {} if len(self.buffer) else below("memories")
