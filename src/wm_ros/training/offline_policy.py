"""A policy from bags alone: MBPO with MOPO's penalty (Yu et al. 2020, arXiv 2005.13239), or a soft actor-critic without a model."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save

from wm_ros.agents.mbpo import MbpoController
from wm_ros.agents.sac import SacController
from wm_ros.contract import schema
from wm_ros.contract.announcements import ControllerNotice
from wm_ros.contract.errors import UserError
from wm_ros.data.transition_buffer import TransitionBuffer
from wm_ros.export import controller as export
from wm_ros.export.template import template, write_atomically
from wm_ros.models.transitions import Transitions, concatenated, transitions
from wm_ros.runtime.artifact import TrainingBag
from wm_ros.runtime.signature import SigningKey
from wm_ros.training import bag_set, checkpoint, pessimism
from wm_ros.training.bag_set import BagSet
from wm_ros.training.config import MbpoAgentConfig, PolicyConfig
from wm_ros.training.fit import Fit
from wm_ros.training.mbpo_learner import MbpoLearner
from wm_ros.training.offline import split_apart
from wm_ros.training.pessimism import PessimismChoice
from wm_ros.training.running_statistics import RunningStatistics
from wm_ros.training.sac_learner import Batch, SacLearner

CHECKPOINT = "checkpoint.safetensors"
LOOK_EVERY = 1000
"""Updates of one row of `metrics.csv`."""
_FIGURES = ("critic_loss", "value", "entropy", "temperature")
_IMAGINED = ("rollout_length", "imagined", "drop_rate", "spread")


@dataclass(frozen=True)
class OfflinePolicyPlan:
    """All that decides how a policy from bags comes out."""

    contract: str
    """Canonical JSON."""
    agent: PolicyConfig
    bags: tuple[TrainingBag, ...]
    """In the order in which their episodes are learned from."""
    refused: tuple[tuple[str, str], ...]
    """(bag, reason) of those that could not be used."""
    versions: dict[str, str]
    """Of the packages whose arithmetic shapes the result."""
    updates: int
    """Of the policy."""
    seed: int = 0
    holdout: float = 0.1
    """Share of the episodes that are kept from training, to measure the model."""
    namespace: str = ""
    force: bool = False
    threads: int = 1
    """Of torch: sums are split among them, so another number gives other last bits."""
    kind: Literal["offline_policy"] = "offline_policy"
    format: Literal[1] = 1


class OfflinePolicyTraining:
    """A training in a folder: `controller.onnx`, `model.safetensors`, `metrics.json`, `metrics.csv`.

    With MBPO the model is fitted first, then the penalty is chosen, then the policy learns. With a soft actor-critic there is only the
    last, from recorded transitions as they are.
    """

    def __init__(
        self,
        plan: OfflinePolicyPlan,
        data: BagSet,
        folder: Path,
        checkpoint_every: int = 500,
        signing_key: SigningKey | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Splits the episodes and stands before the first step.

        Args:
            plan: what to train, and on what.
            data: the episodes of the plan's bags.
            folder: where everything is written; exists.
            checkpoint_every: steps between checkpoints.
            signing_key: signs the controller.
            warn: told what is worth a person's notice.

        Raises:
            UserError: there are fewer transitions than a batch takes.
        """
        torch.set_num_threads(plan.threads)
        self.plan, self.folder, self._every, self._signing_key = plan, folder, checkpoint_every, signing_key
        self.contract = schema.parse(json.loads(plan.contract), "the contract of the training")
        self.training, self.held_out = split_apart(data, plan.seed, plan.holdout, 1, 2)
        self._episodes = [e for episodes in self.training for e in episodes]
        fit, size = plan.agent.fit, (self.contract.observation_size, self.contract.action_size)
        steps = sum(map(len, self._episodes))
        if steps < fit.batch:
            raise UserError(f"bag: {steps} steps to learn from, and a batch has fit.batch {fit.batch}: give more bags, or a smaller batch")
        self._buffer = TransitionBuffer(steps, *size)
        statistics = RunningStatistics(size[0])
        for e in self._episodes:
            self._buffer.add(e.observation[:-1], e.action, e.reward, e.observation[1:], e.terminated)
            statistics.add(e.observation)
        self.learner = SacLearner(self.contract, plan.agent.sac, fit, torch.Generator().manual_seed(_seed(plan.seed, 0)))
        if plan.agent.sac.normalize:
            self.learner.networks.observation_mean.copy_(torch.from_numpy(statistics.mean))
            self.learner.networks.observation_rate.copy_(torch.from_numpy(statistics.rate))
        self._rng = np.random.Generator(np.random.PCG64(_seed(plan.seed, 1)))
        self.updates = 0
        self.choice: PessimismChoice | None = None
        """How the penalty was chosen; None before, with a weight that was given, and without a model."""
        self.imagination: MbpoLearner | None = None
        self.model_fit: Fit | None = None
        """Of the model, while it lasts."""
        if isinstance(plan.agent, MbpoAgentConfig):
            self.imagination = MbpoLearner(self.contract, plan.agent.mbpo, plan.agent.model_fit, _seed(plan.seed, 2), warn)
            self.model_fit = self.imagination.begin_fit(self._model_rows())
        self._rows: list[list[float]] = []
        self._sums, self._summed, self._seconds = torch.zeros(len(_FIGURES), dtype=torch.float64), 0, 0.0

    @classmethod
    def resume(
        cls,
        folder: Path,
        checkpoint_every: int = 500,
        on_bag: Callable[[Path], None] = lambda path: None,
        signing_key: SigningKey | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> OfflinePolicyTraining:
        """Goes on with the checkpoint in a folder.

        Raises:
            UserError: no checkpoint, or a bag has gone or changed.
        """
        path = folder / CHECKPOINT
        plan, state = checkpoint.read_as(path, OfflinePolicyPlan)
        contract = schema.parse(json.loads(plan.contract), str(path))
        data = bag_set.read_again(plan.bags, contract, 1, namespace=plan.namespace, force=plan.force, on_bag=on_bag)
        training = cls(plan, data, folder, checkpoint_every, signing_key, warn)
        try:
            training._restore(state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(f"{path}: damaged: {str(error).splitlines()[0]}: begin anew in another folder") from None
        return training

    @property
    def finished(self) -> bool:
        """There is no step left to do; `finish` comes next."""
        return self.updates >= self.plan.updates

    @property
    def done(self) -> int:
        """Steps so far, of the model and of the policy."""
        return self.updates + (self.model_fit.done if self.model_fit is not None else 0)

    def step(self) -> str | None:
        """One gradient step of the model or, once it is fitted, of the policy; what there is to say after it.

        Raises:
            UserError: a loss is not finite, or a file cannot be written.
        """
        started = time.perf_counter()
        said = self._update() if self.model_fit is None else self._fit_model(self.model_fit)
        self._seconds += time.perf_counter() - started
        if self.done % self._every == 0:
            self.save()
        return said

    def save(self) -> None:
        """Writes the checkpoint."""
        checkpoint.write(self.folder / CHECKPOINT, self.plan, self._state())

    def finish(self) -> ControllerNotice:
        """Exports the policy, checks it and writes all files.

        Raises:
            UserError: the exported file failed its checks, or a file cannot be written.
        """
        kind = SacController if self.imagination is None else MbpoController
        controller = kind(self.contract, self.plan.agent.sac)
        controller.networks.load_state_dict(self.learner.networks.state_dict())
        used = tuple(bag for bag, episodes in zip(self.plan.bags, self.training, strict=True) if episodes)
        origin = export.Origin(1, self.plan.seed, len(self._episodes), used)
        graph, path = template(controller, self.contract), self.folder / "controller.onnx"
        with checkpoint.writing(self.folder):
            written = export.write(path, graph, controller, self.contract, origin, self._signing_key)
            networks = {k: v.contiguous() for k, v in self.learner.networks.state_dict().items()}
            write_atomically(self.folder / "model.safetensors", save(networks))
            write_atomically(self.folder / "metrics.csv", self._csv())
            write_atomically(self.folder / "metrics.json", json.dumps(self._metrics(kind.agent, written), indent=1).encode())
        return written.notice

    def done_with(self) -> None:
        """Everything is written: the checkpoint goes."""
        for path in (self.folder / CHECKPOINT, *self.folder.glob(f".{CHECKPOINT}.*")):  # the latter from writes that were killed
            path.unlink(missing_ok=True)

    # ---- steps ----------------------------------------------------------------------------------------------------

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
            self.plan.agent.fit.discount,
            held_out=bool(self.held_out),
        )
        self.imagination.pessimism = self.choice.weight
        where = "held-out" if self.choice.held_out else "learned (nothing was held out)"
        return (
            f"penalty {self.choice.weight:.4g}: the model's error is within {self.choice.error_per_spread:.3g} spreads at "
            f"{self.choice.coverage:.0%} of {self.choice.ticks} {where} ticks, and values range over {self.choice.worth:.3g}"
        )

    def _update(self) -> str | None:
        fit = self.plan.agent.fit
        if self.imagination is None:
            drawn = self._buffer.sample(self._rng, fit.batch, fit.discount)
            columns = (drawn.observation, drawn.action, drawn.reward, drawn.next_observation, drawn.discount)
            batch = Batch(*(torch.from_numpy(c) for c in columns))
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
        self._sums += torch.stack([getattr(losses, name.removesuffix("_loss")) for name in _FIGURES]).double()
        self._summed += 1
        return self._look() if self.updates % LOOK_EVERY == 0 or self.finished else None

    def _look(self) -> str:
        figures = (self._sums / self._summed).tolist()
        if not np.isfinite(figures).all():
            raise UserError(f"{self.folder}: losses are no longer finite: begin anew with a lower fit.learning_rate")
        seen = {} if self.imagination is None else self.imagination.figures()
        self._rows.append([float(self.updates), *figures, *(seen[name] for name in _IMAGINED if seen)])
        self._sums.zero_()
        self._summed = 0
        with checkpoint.writing(self.folder):
            write_atomically(self.folder / "metrics.csv", self._csv())
        return f"update {self.updates} of {self.plan.updates}: critic loss {figures[0]:.3g}, value {figures[1]:.3g}"

    def _model_rows(self) -> Transitions:
        return concatenated([transitions(e.observation, e.action, 1, e.reward, e.terminated) for e in self._episodes])

    # ---- files ----------------------------------------------------------------------------------------------------

    def _metrics(self, agent: str, written: export.Written) -> dict[str, Any]:
        return {
            "agent": agent,
            "updates": self.updates,
            "train_s": self._seconds,
            "episodes": len(self._episodes),
            "steps": len(self._buffer),
            "pessimism": None if self.imagination is None else self.imagination.pessimism,
            "pessimism_choice": None if self.choice is None else asdict(self.choice),
            "elites": None if self.imagination is None else self.imagination.chosen,
            "parity": written.parity,
            "latency_ms": {"p50": written.latency_p50_ms, "p99": written.latency_p99_ms},
            "held_out": [asdict(e.provenance) | {"ticks": len(e)} for e in self.held_out],
            "training_bags": [b.model_dump() for b, episodes in zip(self.plan.bags, self.training, strict=True) if episodes],
            "not_used": [reason for _, reason in self.plan.refused],
            "seed": self.plan.seed,
            "threads": self.plan.threads,
            "contract": self.contract.name,
            "contract_hash": self.contract.hash,
            "config": asdict(self.plan.agent),
            "versions": self.plan.versions,
        }

    def _csv(self) -> bytes:
        out = io.StringIO()
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["update", *_FIGURES, *(() if self.imagination is None else _IMAGINED)])
        rows.writerows([int(row[0]), *row[1:]] for row in self._rows)
        return out.getvalue().encode()

    def _state(self) -> dict[str, torch.Tensor]:
        parts: dict[str, dict[str, Any]] = {"learner": self.learner.state()}
        if self.model_fit is not None:
            parts["fit"] = self.model_fit.state_dict()
        elif self.imagination is not None:
            parts["imagination"] = self.imagination.state()
        state = {f"{part}.{k}": torch.as_tensor(v).contiguous() for part, values in parts.items() for k, v in values.items()}
        text = json.dumps({
            "rng": self._rng.bit_generator.state,
            "counters": [self.updates, self._seconds, self._summed],
            "rows": self._rows,
            "choice": None if self.choice is None else asdict(self.choice),
        })
        return state | {"sums": self._sums.clone(), "rest": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}

    def _restore(self, state: dict[str, torch.Tensor]) -> None:
        def below(part: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}

        self.learner.restore(below("learner"))
        if self.model_fit is not None and below("fit"):
            self.model_fit.load_state_dict(below("fit"))
        elif self.imagination is not None:
            self.imagination.restore(below("imagination"))
            self.model_fit = None
        rest = json.loads(state["rest"].numpy().tobytes())
        self._rng.bit_generator.state = rest["rng"]
        self.updates, self._seconds, self._summed = rest["counters"]
        self._rows = rest["rows"]
        self.choice = None if rest["choice"] is None else PessimismChoice(**rest["choice"])
        self._sums = state["sums"].clone()


def _seed(seed: int, purpose: int) -> int:
    return int(np.random.SeedSequence([seed, purpose, 9]).generate_state(1)[0])
