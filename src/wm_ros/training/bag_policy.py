"""What trainings of a policy from bags alone share: the plan, the split, checkpoint and files."""

from __future__ import annotations

import csv
import io
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from safetensors.torch import save

from wm_ros.agents.controller import Controller
from wm_ros.contract import schema
from wm_ros.contract.announcements import ControllerNotice
from wm_ros.contract.errors import UserError
from wm_ros.export import controller as export
from wm_ros.export.template import template, write_atomically
from wm_ros.runtime.artifact import TrainingBag
from wm_ros.runtime.signature import SigningKey
from wm_ros.training import bag_set, checkpoint
from wm_ros.training.bag_set import BagSet
from wm_ros.training.config import DreamerAgentConfig, PolicyConfig
from wm_ros.training.fit import Fit
from wm_ros.training.offline import split_apart
from wm_ros.training.parts import below, joined

CHECKPOINT = "checkpoint.safetensors"
Training = TypeVar("Training", bound="BagPolicyTraining")


@dataclass(frozen=True)
class BagPolicyPlan:
    """All that decides how a policy from bags comes out."""

    contract: str
    """Canonical JSON."""
    agent: PolicyConfig | DreamerAgentConfig
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
    kind: Literal["bag_policy"] = "bag_policy"
    format: Literal[1] = 1


class BagPolicyTraining(ABC):
    """A training in a folder: `controller.onnx`, `model.safetensors`, `metrics.json`, `metrics.csv`."""

    figures: tuple[str, ...]
    """Of every update; `metrics.csv` has their means."""
    salt: int
    """Keeps the draws of one kind of training apart from another's with the same seed."""

    model_fit: Fit | None = None
    """Of a model that is fitted before the policy learns, while that lasts."""

    def __init__(
        self,
        plan: BagPolicyPlan,
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
            UserError: there is too little to learn from.
        """
        torch.set_num_threads(plan.threads)
        self.plan, self.folder, self._every, self._signing_key, self._warn = plan, folder, checkpoint_every, signing_key, warn
        self.contract = schema.parse(json.loads(plan.contract), "the contract of the training")
        self.training, self.held_out = split_apart(data, plan.seed, plan.holdout, 1, self._measured_ticks())
        self._episodes = [e for episodes in self.training for e in episodes]
        self._rng = np.random.Generator(np.random.PCG64(self._seed(1)))
        self.updates = 0
        self._rows: list[list[float]] = []
        self._sums, self._summed, self._seconds = torch.zeros(len(self.figures), dtype=torch.float64), 0, 0.0
        self._make()

    @classmethod
    def resume(
        cls: type[Training],
        folder: Path,
        checkpoint_every: int = 500,
        on_bag: Callable[[Path], None] = lambda path: None,
        signing_key: SigningKey | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> Training:
        """Goes on with the checkpoint in a folder.

        Raises:
            UserError: no checkpoint, or a bag has gone or changed.
        """
        path = folder / CHECKPOINT
        plan, state = checkpoint.read_as(path, BagPolicyPlan)
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
        """Steps so far."""
        return self.updates

    def step(self) -> str | None:
        """One gradient step; what there is to say after it.

        Raises:
            UserError: losses are not finite, or a file cannot be written.
        """
        started = time.perf_counter()
        said = self._step()
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
        controller, networks = self._controller()
        used = tuple(bag for bag, episodes in zip(self.plan.bags, self.training, strict=True) if episodes)
        origin = export.Origin(1, self.plan.seed, len(self._episodes), used)
        graph, path = template(controller, self.contract), self.folder / "controller.onnx"
        with checkpoint.writing(self.folder):
            written = export.write(path, graph, controller, self.contract, origin, self._signing_key)
            write_atomically(self.folder / "model.safetensors", save({k: v.contiguous() for k, v in networks.state_dict().items()}))
            write_atomically(self.folder / "metrics.csv", self._csv())
            metrics = {
                "agent": controller.agent,
                "updates": self.updates,
                "train_s": self._seconds,
                "episodes": len(self._episodes),
                "steps": sum(map(len, self._episodes)),
                **self._notes(),
                "parity": written.parity,
                "latency_ms": {"p50": written.latency_p50_ms, "p99": written.latency_p99_ms},
                "held_out": [asdict(e.provenance) | {"ticks": len(e)} for e in self.held_out],
                "training_bags": [bag.model_dump() for bag in used],
                "not_used": [reason for _, reason in self.plan.refused],
                "seed": self.plan.seed,
                "threads": self.plan.threads,
                "contract": self.contract.name,
                "contract_hash": self.contract.hash,
                "config": asdict(self.plan.agent),
                "versions": self.plan.versions,
            }
            write_atomically(self.folder / "metrics.json", json.dumps(metrics, indent=1).encode())
        return written.notice

    def done_with(self) -> None:
        """Everything is written: the checkpoint goes."""
        for path in (self.folder / CHECKPOINT, *self.folder.glob(f".{CHECKPOINT}.*")):  # the latter from writes that were killed
            path.unlink(missing_ok=True)

    # ---- for subclasses -------------------------------------------------------------------------------------------

    @abstractmethod
    def _measured_ticks(self) -> int:
        """Ticks that an episode must have to be held out."""

    @abstractmethod
    def _make(self) -> None:
        """Learner and data, before the first step."""

    @abstractmethod
    def _step(self) -> str | None:
        """See `step`."""

    @abstractmethod
    def _controller(self) -> tuple[Controller, torch.nn.Module]:
        """What is exported, and the networks that are kept beside it."""

    @abstractmethod
    def _notes(self) -> dict[str, Any]:
        """More for `metrics.json`."""

    @abstractmethod
    def _columns(self) -> tuple[str, ...]:
        """Of `metrics.csv`, behind `figures`."""

    @abstractmethod
    def _parts(self) -> dict[str, dict[str, Any]]:
        """What the checkpoint holds: part → name → array."""

    @abstractmethod
    def _take_back(self, below: Callable[[str], dict[str, torch.Tensor]], rest: dict[str, Any]) -> None:
        """Restores from the parts, and from what `_more` gave."""

    def _more(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {}

    def _seed(self, purpose: int) -> int:
        return int(np.random.SeedSequence([self.plan.seed, purpose, self.salt]).generate_state(1)[0])

    def _count(self, losses: torch.Tensor) -> None:
        """Takes the figures of an update into the next row."""
        self._sums += losses.double()
        self._summed += 1

    def _row(self, means: list[float], more: list[float]) -> None:
        """Ends a row of `metrics.csv`."""
        self._rows.append([float(self.updates), *means, *more])
        self._sums.zero_()
        self._summed = 0
        with checkpoint.writing(self.folder):
            write_atomically(self.folder / "metrics.csv", self._csv())

    # ---- files ----------------------------------------------------------------------------------------------------

    def _csv(self) -> bytes:
        out = io.StringIO()
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["update", *self.figures, *self._columns()])
        rows.writerows([int(row[0]), *row[1:]] for row in self._rows)
        return out.getvalue().encode()

    def _state(self) -> dict[str, torch.Tensor]:
        state = joined(self._parts())
        text = json.dumps({
            "rng": self._rng.bit_generator.state,
            "counters": [self.updates, self._seconds, self._summed],
            "rows": self._rows,
            **self._more(),
        })
        return state | {"sums": self._sums.clone(), "rest": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}

    def _restore(self, state: dict[str, torch.Tensor]) -> None:
        rest = json.loads(state["rest"].numpy().tobytes())
        self._take_back(partial(below, state), rest)
        self._rng.bit_generator.state = rest["rng"]
        self.updates, self._seconds, self._summed = rest["counters"]
        self._rows, self._sums = rest["rows"], state["sums"].clone()
