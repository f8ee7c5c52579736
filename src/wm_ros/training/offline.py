"""Offline training: bags in, one controller out, with a checkpoint from which a killed training goes on bit for bit."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from wm_ros.contract import schema
from wm_ros.contract.announcements import ControllerNotice
from wm_ros.contract.errors import UserError
from wm_ros.data.episode import Episode
from wm_ros.export.template import write_atomically
from wm_ros.runtime.signature import SigningKey
from wm_ros.training import bag_set, checkpoint
from wm_ros.training.bag_set import BagSet
from wm_ros.training.checkpoint import Plan
from wm_ros.training.pets_learner import PetsLearner

CHECKPOINT = "checkpoint.safetensors"
MOST_HELD_OUT = 20
"""Episodes; each is imagined from many starts at once, which takes memory."""


class OfflineTraining:
    """A training from bags in a folder: `controller.onnx`, `model.safetensors`, `metrics.json`, `metrics.csv`, `tensorboard/`."""

    def __init__(
        self, plan: Plan, data: BagSet, folder: Path, checkpoint_every: int = 500, signing_key: SigningKey | None = None
    ) -> None:
        """Splits the episodes and stands before the first step.

        Args:
            plan: what to train, and on what.
            data: the episodes of the plan's bags.
            folder: where everything is written; exists.
            checkpoint_every: gradient steps between checkpoints.
            signing_key: signs the controller.

        Raises:
            UserError: there is no episode to train on.
        """
        torch.set_num_threads(plan.threads)
        self.plan, self.folder, self._every = plan, folder, checkpoint_every
        self.contract = schema.parse(json.loads(plan.contract), "the contract of the training")
        self._learner = PetsLearner(self.contract, plan.agent, folder, plan.seed, lambda phase, fields: None, signing_key)
        self.training, self.held_out = split(data, plan)
        for bag, episodes in zip(plan.bags, self.training, strict=True):
            if episodes:
                self._learner.add(episodes, bag)
        self.fit = self._learner.begin()
        self._board: SummaryWriter | None = None
        self._since = 0

    @classmethod
    def resume(
        cls,
        folder: Path,
        checkpoint_every: int = 500,
        on_bag: Callable[[Path], None] = lambda path: None,
        signing_key: SigningKey | None = None,
    ) -> OfflineTraining:
        """Goes on with the checkpoint in a folder.

        Raises:
            UserError: no checkpoint, or a bag has gone or changed.
        """
        path = folder / CHECKPOINT
        plan, state = checkpoint.read(path)
        contract = schema.parse(json.loads(plan.contract), str(path))
        stride = plan.agent.pets.stride
        data = bag_set.read_again(plan.bags, contract, stride, namespace=plan.namespace, force=plan.force, on_bag=on_bag)
        training = cls(plan, data, folder, checkpoint_every, signing_key)
        try:
            training.fit.load_state_dict(state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(f"{path}: damaged: {str(error).splitlines()[0]}: begin anew in another folder") from None
        training._since = training.fit.done
        return training

    @property
    def finished(self) -> bool:
        """There is no step left to do; `finish` comes next."""
        return self.fit.finished

    def step(self) -> bool:
        """One gradient step, and the files that are due after it; True where it was followed by a look at validation data.

        Raises:
            UserError: the loss is not finite, or a file cannot be written.
        """
        try:
            looked = self.fit.step()
        except FloatingPointError as error:
            raise UserError(f"{error} (`wm-ros bag check`), leave it out and begin anew") from None
        if looked:
            with checkpoint.writing(self.folder):
                write_atomically(self.folder / "metrics.csv", self._csv())
                for name, values in self._series().items():
                    self._tensorboard().add_scalar(name, values[-1], self.fit.done)
        if self.fit.done % self._every == 0 or self.fit.finished:
            self.save()
        return looked

    def save(self) -> None:
        """Writes the checkpoint. All events up to it are on disk first, for those after it are written again."""
        if self._board is not None:
            with checkpoint.writing(self.folder):
                self._board.flush()
        checkpoint.write(self.folder / CHECKPOINT, self.plan, self.fit.state_dict())

    def finish(self) -> ControllerNotice:
        """Measures the model on the held-out episodes, exports it, checks it and writes all files.

        Raises:
            UserError: the exported file failed its checks.
        """
        result = self.fit.result()
        error = self._learner.open_loop(self.fit.model, self.held_out)
        notes: dict[str, Any] = {
            "held_out": [asdict(e.provenance) | {"ticks": len(e)} for e in self.held_out],
            "training_bags": [bag.model_dump() for bag in self._learner.bags],
            "not_used": [reason for _, reason in self.plan.refused],
        }
        with checkpoint.writing(self.folder):
            notice = self._learner.finish(self.fit.model, result, error, self.folder / "controller.onnx", notes, self.held_out)
            if error is not None:
                for i, (rmse, inside) in enumerate(zip(error.normalized_rmse, error.coverage_90, strict=True)):
                    self._tensorboard().add_scalar("open_loop/normalized_rmse_by_model_step", rmse, i + 1)
                    self._tensorboard().add_scalar("open_loop/coverage_90_by_model_step", inside, i + 1)
        return notice

    def close(self) -> None:
        """Ends the event file."""
        if self._board is not None:
            with suppress(OSError):  # figures for people; a full disk has been said already
                self._board.close()
            self._board = None

    def done_with(self) -> None:
        """Everything is written: the checkpoint goes."""
        self.close()
        for path in (self.folder / CHECKPOINT, *self.folder.glob(f".{CHECKPOINT}.*")):  # the latter from writes that were killed
            path.unlink(missing_ok=True)

    def _series(self) -> dict[str, list[float]]:
        return {
            "fit/train_loss": self.fit.train_loss,
            "fit/validation_error": self.fit.holdout_error,
            "fit/learning_rate": self.fit.learning_rates,
        }

    def _csv(self) -> bytes:
        """All looks, from the fit's own state: a resumed training writes the same file."""
        config, looks = self.fit.config, len(self.fit.train_loss)
        out = io.StringIO()
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["step", *(name.removeprefix("fit/") for name in self._series())])
        steps = (min((i + 1) * config.check_every, config.steps) for i in range(looks))
        rows.writerows(zip(steps, *self._series().values(), strict=True))
        return out.getvalue().encode()

    def _tensorboard(self) -> SummaryWriter:
        if self._board is None:
            # What a killed process wrote after its last checkpoint is dropped by the reader.
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self._since + 1 if self._since else None)
        return self._board


def split(data: BagSet, plan: Plan) -> tuple[list[list[Episode]], list[Episode]]:
    """Episodes to train on, of each bag, and those held out: drawn by the seed, at least one where there are two or more.

    Only episodes as long as the planner looks ahead are held out, for only these can be measured; one always stays for training.
    """
    stride = plan.agent.pets.stride
    return split_apart(data, plan.seed, plan.holdout, stride, stride * plan.agent.pets.planner.horizon)


def split_apart(data: BagSet, seed: int, holdout: float, shortest: int, measured: int) -> tuple[list[list[Episode]], list[Episode]]:
    """As `split`: episodes of at least `shortest` ticks are learned from, and of at least `measured` ticks held out."""
    places = [(b, e) for b, episodes in enumerate(data.episodes) for e in range(len(episodes))]
    trainable = [p for p in places if len(data.episodes[p[0]][p[1]]) >= shortest]
    measurable = [p for p in trainable if len(data.episodes[p[0]][p[1]]) >= measured]
    wanted = max(1, round(holdout * len(trainable))) if holdout > 0 else 0
    count = max(0, min(wanted, MOST_HELD_OUT, len(measurable), len(trainable) - 1))
    drawn = np.random.default_rng(np.random.SeedSequence([seed, 2])).permutation(len(measurable))[:count]
    held = {measurable[i] for i in drawn}
    kept = [[e for j, e in enumerate(episodes) if (b, j) not in held] for b, episodes in enumerate(data.episodes)]
    return kept, [data.episodes[b][e] for b, e in sorted(held)]
