"""Dreamer from bags alone: its world model learns from recorded stretches, actor and critic in its imagination."""

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

from wm_ros.agents.dreamer import DreamerController
from wm_ros.agents.planet import controller_of
from wm_ros.contract import schema
from wm_ros.contract.announcements import ControllerNotice
from wm_ros.contract.errors import UserError
from wm_ros.data.episode import Episode
from wm_ros.data.replay import ReplayOptions
from wm_ros.data.sequence_buffer import SequenceBuffer
from wm_ros.export import controller as export
from wm_ros.export.template import template, write_atomically
from wm_ros.runtime.artifact import TrainingBag
from wm_ros.runtime.signature import SigningKey
from wm_ros.training import bag_set, checkpoint
from wm_ros.training.bag_set import BagSet
from wm_ros.training.config import DreamerAgentConfig
from wm_ros.training.dreamer_learner import DreamerLearner, SequenceBatch
from wm_ros.training.offline import split_apart

CHECKPOINT = "checkpoint.safetensors"
LOOK_EVERY = 200
"""Updates of one row of `metrics.csv`."""
MEASURED = 16
"""Stretches of held-out episodes on which the world model is measured; always the same ones."""
FIGURES = ("observation_loss", "reward_loss", "continue_loss", "divergence", "actor_loss", "critic_loss", "value", "entropy")


@dataclass(frozen=True)
class OfflineDreamerPlan:
    """All that decides how Dreamer from bags comes out."""

    contract: str
    """Canonical JSON."""
    agent: DreamerAgentConfig
    bags: tuple[TrainingBag, ...]
    """In the order in which their episodes are learned from."""
    refused: tuple[tuple[str, str], ...]
    """(bag, reason) of those that could not be used."""
    versions: dict[str, str]
    """Of the packages whose arithmetic shapes the result."""
    updates: int
    seed: int = 0
    holdout: float = 0.1
    """Share of the episodes that are kept from training, to measure the model."""
    namespace: str = ""
    force: bool = False
    threads: int = 1
    """Of torch: sums are split among them, so another number gives other last bits."""
    kind: Literal["offline_dreamer"] = "offline_dreamer"
    format: Literal[1] = 1


class OfflineDreamerTraining:
    """A training in a folder: `controller.onnx`, `model.safetensors`, `metrics.json`, `metrics.csv`."""

    def __init__(
        self,
        plan: OfflineDreamerPlan,
        data: BagSet,
        folder: Path,
        checkpoint_every: int = 500,
        signing_key: SigningKey | None = None,
    ) -> None:
        """Splits the episodes and stands before the first update.

        Args:
            plan: what to train, and on what.
            data: the episodes of the plan's bags.
            folder: where everything is written; exists.
            checkpoint_every: updates between checkpoints.
            signing_key: signs the controller.

        Raises:
            UserError: all recordings together are shorter than one stretch.
        """
        torch.set_num_threads(plan.threads)
        self.plan, self.folder, self._every, self._signing_key = plan, folder, checkpoint_every, signing_key
        self.contract = schema.parse(json.loads(plan.contract), "the contract of the training")
        fit = plan.agent.fit
        self.training, self.held_out = split_apart(data, plan.seed, plan.holdout, 1, fit.length)
        self.learner = DreamerLearner(self.contract, plan.agent.dreamer, fit, torch.Generator().manual_seed(_seed(plan.seed, 0)))
        self._episodes = [e for episodes in self.training for e in episodes]
        self._buffer = self._filled(self._episodes, folder / "replay")
        if len(self._buffer) < fit.length:
            raise UserError(
                f"bag: {len(self._buffer)} observations to learn from, and a stretch has fit.length {fit.length}: "
                "give more bags, or set fit.length lower"
            )
        self._measured: SequenceBatch | None = None
        """Stretches that are not learned from; None where nothing was held out."""
        if self.held_out:
            rng = np.random.Generator(np.random.PCG64(_seed(plan.seed, 2)))
            drawn = self._filled(self.held_out, folder / "replay_held_out").sample(rng, MEASURED, fit.length)
            self._measured = SequenceBatch.of(drawn)
        self._rng = np.random.Generator(np.random.PCG64(_seed(plan.seed, 1)))
        self._generator = torch.Generator().manual_seed(_seed(plan.seed, 3))
        self.updates = 0
        self._rows: list[list[float]] = []
        self._sums, self._summed, self._seconds = torch.zeros(len(FIGURES), dtype=torch.float64), 0, 0.0

    def _filled(self, episodes: list[Episode], folder: Path) -> SequenceBuffer:
        images = self.learner.networks.world.images
        rows, size = sum(len(e) + 1 for e in episodes), (self.contract.observation_size, self.contract.action_size)
        buffer = SequenceBuffer(rows, *size, images=images, options=ReplayOptions(folder=folder))
        for e in episodes:
            frames = {name: e.images[name] for name in images}
            buffer.begin(0, e.observation[0], {name: frame[0] for name, frame in frames.items()})
            for t in range(len(e)):
                seen = {name: frame[t + 1] for name, frame in frames.items()}
                buffer.add(0, e.action[t], float(e.reward[t]), e.observation[t + 1], bool(e.terminated[t]), seen)
        return buffer

    @classmethod
    def resume(
        cls,
        folder: Path,
        checkpoint_every: int = 500,
        on_bag: Callable[[Path], None] = lambda path: None,
        signing_key: SigningKey | None = None,
    ) -> OfflineDreamerTraining:
        """Goes on with the checkpoint in a folder.

        Raises:
            UserError: no checkpoint, or a bag has gone or changed.
        """
        path = folder / CHECKPOINT
        plan, state = checkpoint.read_as(path, OfflineDreamerPlan)
        contract = schema.parse(json.loads(plan.contract), str(path))
        data = bag_set.read_again(plan.bags, contract, 1, namespace=plan.namespace, force=plan.force, on_bag=on_bag)
        training = cls(plan, data, folder, checkpoint_every, signing_key)
        try:
            training._restore(state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(f"{path}: damaged: {str(error).splitlines()[0]}: begin anew in another folder") from None
        return training

    @property
    def finished(self) -> bool:
        """There is no update left to do; `finish` comes next."""
        return self.updates >= self.plan.updates

    def step(self) -> str | None:
        """One update; what there is to say after it.

        Raises:
            UserError: too many updates in a row were not finite, or a file cannot be written.
        """
        started, fit = time.perf_counter(), self.plan.agent.fit
        batch = SequenceBatch.of(self._buffer.sample(self._rng, fit.batch, fit.length))
        losses = self.learner.update(batch, self.learner.draw_noise(self._generator))
        self.updates += 1
        if not losses.skipped:
            self._sums += torch.stack([*vars(losses.world).values(), losses.actor, losses.critic, losses.value, losses.entropy]).double()
            self._summed += 1
        said = self._look() if self.updates % LOOK_EVERY == 0 or self.finished else None
        self._seconds += time.perf_counter() - started
        if self.updates % self._every == 0:
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
        controller = controller_of(self.contract, self.plan.agent.dreamer)
        controller.networks.load_state_dict(self.learner.networks.state_dict())
        used = tuple(bag for bag, episodes in zip(self.plan.bags, self.training, strict=True) if episodes)
        origin = export.Origin(1, self.plan.seed, len(self._episodes), used)
        graph, path = template(controller, self.contract), self.folder / "controller.onnx"
        with checkpoint.writing(self.folder):
            written = export.write(path, graph, controller, self.contract, origin, self._signing_key)
            networks = {k: v.contiguous() for k, v in self.learner.networks.state_dict().items()}
            write_atomically(self.folder / "model.safetensors", save(networks))
            write_atomically(self.folder / "metrics.csv", self._csv())
            write_atomically(self.folder / "metrics.json", json.dumps(self._metrics(written), indent=1).encode())
        return written.notice

    def done_with(self) -> None:
        """Everything is written: checkpoint and mapped frames go."""
        files = [self.folder / CHECKPOINT, *self.folder.glob(f".{CHECKPOINT}.*")]  # the latter from writes that were killed
        for path in [*files, *self.folder.glob("replay*/*.bin")]:
            path.unlink(missing_ok=True)

    def _look(self) -> str:
        figures = (self._sums / max(1, self._summed)).tolist()
        held_out = self._held_out_loss()
        self._rows.append([float(self.updates), *figures, held_out, float(self.learner.skipped)])
        self._sums.zero_()
        self._summed = 0
        with checkpoint.writing(self.folder):
            write_atomically(self.folder / "metrics.csv", self._csv())
        beside = "" if self._measured is None else f", {held_out:.3g} held out"
        return f"update {self.updates} of {self.plan.updates}: model loss {sum(figures[:4]):.3g}{beside}, value {figures[6]:.3g}"

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        """The world model's loss on stretches that it has not learned from; NaN where nothing was held out."""
        if self._measured is None:
            return float("nan")
        networks, data = self.learner.networks, self._measured.each(lambda column: column.transpose(0, 1))
        latent, shape = networks.world.rssm.latent, data.reward.shape
        draw = torch.rand if latent.distribution == "uniform" else torch.randn
        noise = draw((*shape, latent.noise), generator=torch.Generator().manual_seed(_seed(self.plan.seed, 4)))
        recorded = (data.observation, networks.to_half_ranges(data.action), data.reward, data.terminated, data.first)
        return float(networks.world.loss(networks.world.rssm.start(shape[1]), *recorded, noise, data.images)[0].total)

    def _metrics(self, written: export.Written) -> dict[str, Any]:
        return {
            "agent": DreamerController.agent,
            "updates": self.updates,
            "train_s": self._seconds,
            "episodes": len(self._episodes),
            "steps": sum(map(len, self._episodes)),
            "skipped": self.learner.skipped,
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
        rows.writerow(["update", *FIGURES, "held_out_model_loss", "skipped"])
        rows.writerows([int(row[0]), *row[1:]] for row in self._rows)
        return out.getvalue().encode()

    def _state(self) -> dict[str, torch.Tensor]:
        text = json.dumps({
            "rng": self._rng.bit_generator.state,
            "counters": [self.updates, self._seconds, self._summed],
            "rows": self._rows,
        })
        return {
            **{f"learner.{k}": v.contiguous() for k, v in self.learner.state().items()},
            "generator": self._generator.get_state(),
            "sums": self._sums.clone(),
            "rest": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8),
        }

    def _restore(self, state: dict[str, torch.Tensor]) -> None:
        self.learner.restore({k.removeprefix("learner."): v for k, v in state.items() if k.startswith("learner.")})
        self._generator.set_state(state["generator"])
        self._sums = state["sums"].clone()
        rest = json.loads(state["rest"].numpy().tobytes())
        self._rng.bit_generator.state = rest["rng"]
        self.updates, self._seconds, self._summed = rest["counters"]
        self._rows = rest["rows"]


def _seed(seed: int, purpose: int) -> int:
    return int(np.random.SeedSequence([seed, purpose, 11]).generate_state(1)[0])
