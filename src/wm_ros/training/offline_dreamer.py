"""Dreamer from bags alone: its world model learns from recorded stretches, actor and critic in its imagination."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_ros.agents.controller import Controller
from wm_ros.agents.planet import controller_of
from wm_ros.contract.errors import UserError
from wm_ros.data.episode import Episode
from wm_ros.data.replay import ReplayOptions
from wm_ros.data.sequence_buffer import SequenceBuffer
from wm_ros.runtime.heap import keep_freed_memory
from wm_ros.training.bag_policy import BagPolicyTraining
from wm_ros.training.config import DreamerAgentConfig
from wm_ros.training.dreamer_learner import FIGURES, DreamerLearner, SequenceBatch, replayed

LOOK_EVERY = 200
"""Updates of one row of `metrics.csv`."""
MEASURED = 16
"""Stretches of held-out episodes on which the world model is measured; always the same ones."""


class OfflineDreamerTraining(BagPolicyTraining):
    """Every update teaches the world model, and the policy in it."""

    figures = FIGURES
    salt = 11

    def _measured_ticks(self) -> int:
        return self._agent.fit.length

    def _make(self) -> None:
        keep_freed_memory()
        fit = self._agent.fit
        self.learner = DreamerLearner(self.contract, self._agent.dreamer, fit, torch.Generator().manual_seed(self._seed(0)))
        self._buffer = self._filled(self._episodes, self.folder / "replay", self.learner.kept())
        if len(self._buffer) < fit.length:
            raise UserError(
                f"bag: {len(self._buffer)} observations to learn from, and a stretch has fit.length {fit.length}: "
                "give more bags, or set fit.length lower"
            )
        self._measured: SequenceBatch | None = None
        """Stretches that are not learned from; None where nothing was held out."""
        if self.held_out:
            rng = np.random.Generator(np.random.PCG64(self._seed(2)))
            drawn = self._filled(self.held_out, self.folder / "replay_held_out").sample(rng, MEASURED, fit.length)
            self._measured = SequenceBatch.of(drawn)
        self._generator = torch.Generator().manual_seed(self._seed(3))

    @property
    def _agent(self) -> DreamerAgentConfig:
        assert isinstance(self.plan.agent, DreamerAgentConfig)
        return self.plan.agent

    def _filled(self, episodes: list[Episode], folder: Path, remembered: Mapping[str, Any] | None = None) -> SequenceBuffer:
        images = self.learner.networks.world.images
        rows, size = sum(len(e) + 1 for e in episodes), (self.contract.observation_size, self.contract.action_size)
        buffer = SequenceBuffer(rows, *size, images=images, options=ReplayOptions(folder=folder), remembered=remembered)
        for e in episodes:
            buffer.take(0, e)
        return buffer

    def done_with(self) -> None:
        """Everything is written: checkpoint and mapped frames go."""
        super().done_with()
        for path in self.folder.glob("replay*/*.bin"):
            path.unlink(missing_ok=True)

    def _step(self) -> str | None:
        losses = replayed(self.learner, self._buffer, self._rng, self._generator)
        self.updates += 1
        if not losses.skipped:
            self._count(losses.figures)
        return self._look() if self.updates % LOOK_EVERY == 0 or self.finished else None

    def _look(self) -> str:
        figures = (self._sums / max(1, self._summed)).tolist()
        held_out = self._held_out_loss()
        self._row(figures, [held_out, float(self.learner.skipped)])
        beside = "" if self._measured is None else f", {held_out:.3g} held out"
        return f"update {self.updates} of {self.plan.updates}: model loss {sum(figures[:4]):.3g}{beside}, value {figures[6]:.3g}"

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        """The world model's loss on stretches that it has not learned from; NaN where nothing was held out."""
        if self._measured is None:
            return float("nan")
        networks, data = self.learner.networks, self._measured.each(lambda column: column.transpose(0, 1))
        latent, shape = networks.world.rssm.latent, data.reward.shape
        noise = latent.draw(shape, torch.Generator().manual_seed(self._seed(4)))
        recorded = (data.observation, networks.to_half_ranges(data.action), data.reward, data.terminated, data.first)
        return float(networks.world.loss(networks.world.rssm.start(shape[1]), *recorded, noise, data.images)[0].total)

    # ---- files ----------------------------------------------------------------------------------------------------

    def _controller(self) -> tuple[Controller, torch.nn.Module]:
        controller = controller_of(self.contract, self._agent.dreamer)
        controller.networks.load_state_dict(self.learner.networks.state_dict())
        return controller, self.learner.networks

    def _notes(self) -> dict[str, Any]:
        return {"skipped": self.learner.skipped}

    def _columns(self) -> tuple[str, ...]:
        return ("held_out_model_loss", "skipped")

    def _parts(self) -> dict[str, dict[str, Any]]:
        parts = {"learner": self.learner.state(), "draws": {"generator": self._generator.get_state()}}
        return {**parts, "memories": self._buffer.memories()}  # its rows come from the bags

    def _take_back(self, below: Callable[[str], dict[str, torch.Tensor]], rest: dict[str, Any]) -> None:
        self.learner.restore(below("learner"))
        self._generator.set_state(below("draws")["generator"])
        self._buffer.recall({name: kept.numpy() for name, kept in below("memories").items()})
