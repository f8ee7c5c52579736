"""A policy from bags alone: MBPO with MOPO's penalty (Yu et al. 2020, arXiv 2005.13239), or a soft actor-critic without a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from wm_ros.agents.controller import Controller
from wm_ros.agents.mbpo import MbpoController
from wm_ros.agents.sac import SacController
from wm_ros.contract.errors import UserError
from wm_ros.data.transition_buffer import TransitionBuffer
from wm_ros.models.transitions import Transitions, concatenated, transitions
from wm_ros.training import pessimism
from wm_ros.training.bag_policy import BagPolicyTraining
from wm_ros.training.config import DreamerAgentConfig, MbpoAgentConfig, PolicyConfig
from wm_ros.training.fit import Fit
from wm_ros.training.mbpo_learner import MbpoLearner
from wm_ros.training.pessimism import PessimismChoice
from wm_ros.training.running_statistics import RunningStatistics
from wm_ros.training.sac_learner import FIGURES, Batch, SacLearner

LOOK_EVERY = 1000
"""Updates of one row of `metrics.csv`."""
_IMAGINED = ("rollout_length", "imagined", "drop_rate", "spread")


class OfflinePolicyTraining(BagPolicyTraining):
    """With MBPO the model is fitted first, then the penalty is chosen, then the policy learns. With a soft actor-critic there is only the
    last, from recorded transitions as they are.
    """

    figures = FIGURES
    salt = 9

    def _measured_ticks(self) -> int:
        return 2

    def _make(self) -> None:
        agent = self._agent
        fit, size = agent.fit, (self.contract.observation_size, self.contract.action_size)
        steps = sum(map(len, self._episodes))
        if steps < fit.batch:
            raise UserError(f"bag: {steps} steps to learn from, and a batch has fit.batch {fit.batch}: give more bags, or a smaller batch")
        self._buffer = TransitionBuffer(steps, *size)
        statistics = RunningStatistics(size[0])
        for e in self._episodes:
            self._buffer.add(e.observation[:-1], e.action, e.reward, e.observation[1:], e.terminated)
            statistics.add(e.observation)
        self.learner = SacLearner(self.contract, agent.sac, fit, torch.Generator().manual_seed(self._seed(0)))
        if agent.sac.normalize:
            self.learner.networks.observation_mean.copy_(torch.from_numpy(statistics.mean))
            self.learner.networks.observation_rate.copy_(torch.from_numpy(statistics.rate))
        self.choice: PessimismChoice | None = None
        """How the penalty was chosen; None before, with a weight that was given, and without a model."""
        self.imagination: MbpoLearner | None = None
        if isinstance(agent, MbpoAgentConfig):
            self.imagination = MbpoLearner(self.contract, agent.mbpo, agent.model_fit, self._seed(2), self._warn)
            self.model_fit = self.imagination.begin_fit(self._model_rows())

    @property
    def _agent(self) -> PolicyConfig:
        assert not isinstance(self.plan.agent, DreamerAgentConfig)
        return self.plan.agent

    @property
    def done(self) -> int:
        """Steps so far, of the model and of the policy."""
        return self.updates + (self.model_fit.done if self.model_fit is not None else 0)

    def _controller(self) -> tuple[Controller, torch.nn.Module]:
        controller = (SacController if self.imagination is None else MbpoController)(self.contract, self._agent.sac)
        controller.networks.load_state_dict(self.learner.networks.state_dict())
        return controller, self.learner.networks

    # ---- steps ----------------------------------------------------------------------------------------------------

    def _step(self) -> str | None:
        return self._update() if self.model_fit is None else self._fit_model(self.model_fit)

    def _fit_model(self, fit: Fit) -> str | None:
        assert self.imagination is not None
        try:
            looked = fit.step()
        except FloatingPointError as error:
            raise UserError(f"{error} (`wm-ros bag check`), leave it out and begin anew") from None
        if not fit.finished:
            return f"model step {fit.done}: held-out error {fit.holdout_error[-1]:.4f}" if looked else None
        self.imagination.end_fit(fit)
        self.model_fit = None
        if self.imagination.config.pessimism is not None:
            return f"penalty {self.imagination.pessimism:.4g}, as given"
        self.choice = pessimism.choose(
            self.imagination.elites,
            self.held_out or self._episodes,
            self._episodes,
            self._agent.fit.discount,
            held_out=bool(self.held_out),
        )
        self.imagination.pessimism = self.choice.weight
        where = "held-out" if self.choice.held_out else "learned (nothing was held out)"
        return (
            f"penalty {self.choice.weight:.4g}: the model's error is within {self.choice.error_per_spread:.3g} spreads at "
            f"{self.choice.coverage:.0%} of {self.choice.ticks} {where} ticks, and values range over {self.choice.worth:.3g}"
        )

    def _update(self) -> str | None:
        fit = self._agent.fit
        if self.imagination is None:
            batch = Batch.of(self._buffer.sample(self._rng, fit.batch, fit.discount))
        else:
            config = self.imagination.config
            # As often as in simulation, where transitions come in while updates are made.
            if self.updates % max(1, round(config.model_every * fit.updates_per_step)) == 0:
                starts, length = self._buffer.state()["observation"], config.lengths.at(len(self._buffer))
                self.imagination.imagine(starts, config.rollouts * config.model_every, length, self.learner.networks, self._rng)
            batch = self.imagination.batch(self._buffer, fit, self._rng)
        noise = self._rng.standard_normal((2, fit.batch, self.contract.action_size), dtype=np.float32)
        losses = self.learner.update(batch, torch.from_numpy(noise))
        self.updates += 1
        self._count(losses.figures)
        return self._look() if self.updates % LOOK_EVERY == 0 or self.finished else None

    def _look(self) -> str:
        figures = (self._sums / self._summed).tolist()
        if not np.isfinite(figures).all():
            raise UserError(f"{self.folder}: losses are no longer finite: begin anew with a lower fit.learning_rate")
        seen = {} if self.imagination is None else self.imagination.figures()
        self._row(figures, [seen[name] for name in self._columns()])
        return f"update {self.updates} of {self.plan.updates}: critic loss {figures[0]:.3g}, value {figures[1]:.3g}"

    def _model_rows(self) -> Transitions:
        return concatenated([transitions(e.observation, e.action, 1, e.reward, e.terminated) for e in self._episodes])

    # ---- files ----------------------------------------------------------------------------------------------------

    def _notes(self) -> dict[str, Any]:
        return {
            "pessimism": None if self.imagination is None else self.imagination.pessimism,
            "pessimism_choice": None if self.choice is None else asdict(self.choice),
            "elites": None if self.imagination is None else self.imagination.chosen,
        }

    def _columns(self) -> tuple[str, ...]:
        return () if self.imagination is None else _IMAGINED

    def _parts(self) -> dict[str, dict[str, Any]]:
        parts: dict[str, dict[str, Any]] = {"learner": self.learner.state()}
        if self.model_fit is not None:
            parts["fit"] = self.model_fit.state_dict()
        elif self.imagination is not None:
            parts["imagination"] = self.imagination.state()
        return parts

    def _more(self) -> dict[str, Any]:
        return {"choice": None if self.choice is None else asdict(self.choice)}

    def _take_back(self, below: Callable[[str], dict[str, torch.Tensor]], rest: dict[str, Any]) -> None:
        self.learner.restore(below("learner"))
        if self.model_fit is not None and below("fit"):
            self.model_fit.load_state_dict(below("fit"))
        elif self.imagination is not None:
            self.imagination.restore(below("imagination"))
            self.model_fit = None
        self.choice = None if rest["choice"] is None else PessimismChoice(**rest["choice"])
