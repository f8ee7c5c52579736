"""Fits any model to transitions by its own loss: fixed bootstrap, held-out elites, early stopping."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wm_ros.models.trainable import Rows, Trainable
from wm_ros.models.transitions import Transitions
from wm_ros.training.parts import below


@dataclass(frozen=True)
class FitConfig:
    """Settings of one fit."""

    batch: int = 64
    """Transitions per member and gradient step."""
    learning_rate: float = 4e-3
    """Peak of the one-cycle schedule of AdamW."""
    weight_decay: float = 1e-5
    """Decoupled, of the weights only."""
    steps: int = 4000
    """Gradient steps of a full fit."""
    holdout: float = 0.1
    """Share of the episodes' transitions that chooses elites and stops early."""
    holdout_most: int = 500
    """Largest held-out set, in transitions."""
    patience: int = 8
    """Checks without improvement before the fit stops."""
    check_every: int = 200
    """Gradient steps between looks at the held-out set."""
    bound_weight: float = 0.01
    """Weight of the log-variance bounds in the loss (PETS, appendix A.1)."""

    def __post_init__(self) -> None:
        for name in ("batch", "holdout_most", "patience", "check_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.steps < 20:  # the schedule's first tenth needs more than one step
            raise ValueError(f"steps {self.steps} must be at least 20")
        if not self.learning_rate > 0.0 or not self.weight_decay >= 0.0 or not self.bound_weight >= 0.0:
            raise ValueError("learning_rate must be above 0, weight_decay and bound_weight must not be negative")
        if not 0.0 <= self.holdout < 1.0:
            raise ValueError(f"holdout {self.holdout} must be at least 0 and below 1")


@dataclass(frozen=True)
class FitResult:
    """What a fit did."""

    elites: list[int]
    """Members, best first on held-out data."""
    train_loss: list[float]
    """Mean loss between two looks."""
    holdout_error: list[float]
    """Mean squared error over all members on held-out data, in units of the target's variance."""
    steps: int
    """Gradient steps done."""
    seconds: float
    samples_per_second: float
    """Member-samples per second."""


class Fit:
    """A fit in progress: everything that the next step depends on, so that it can be saved, and gone on with bit for bit."""

    def __init__(self, model: Trainable, data: Transitions, config: FitConfig, seed: int) -> None:
        """Sets the normalizers, splits the data and stands before the first step; arguments as of `fit`."""
        self._started, self._seconds_before = time.monotonic(), 0.0
        self.model, self.config = model, config
        self._generator = torch.Generator().manual_seed(seed)
        self._rows = model.prepare(data)
        rows = len(data)
        held = min(config.holdout_most, int(rows * config.holdout))
        order = torch.randperm(rows, generator=self._generator)
        holdout, training = order[:held], order[held:]
        look_at = holdout if held else training[: config.holdout_most]
        self._looked_at: Rows = tuple(column[look_at] for column in self._rows)
        members = model.members
        self._bootstrap = training[torch.randint(len(training), (members, len(training)), generator=self._generator)]
        self._batch = min(config.batch, len(training))
        named = dict(model.named_parameters())
        decayed = {"params": [p for name, p in named.items() if _is_weight(name)], "weight_decay": config.weight_decay}
        free = {"params": [p for name, p in named.items() if not _is_weight(name)], "weight_decay": 0.0}
        self._optimizer = torch.optim.AdamW([decayed, free], lr=config.learning_rate, fused=True)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.1
        )
        self._member = torch.arange(members).unsqueeze(1)
        self.done = 0
        """Gradient steps so far."""
        self.train_loss: list[float] = []
        self.holdout_error: list[float] = []
        self.learning_rates: list[float] = []
        """At each look, for the step that follows."""
        self._running, self._waited = 0.0, 0
        self._best_error, self._best_members = float("inf"), torch.zeros(members)
        self._best: dict[str, Tensor] = {}

    @property
    def finished(self) -> bool:
        """All steps are done, or the fit stops early."""
        return self.done >= self.config.steps or self._waited >= self.config.patience

    def step(self) -> bool:
        """One gradient step; True where it was followed by a look at the held-out data.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        model, rows = self.model, self._bootstrap.shape[1]
        pick = self._bootstrap[self._member, torch.randint(rows, (model.members, self._batch), generator=self._generator)]
        loss = model.loss(tuple(column[pick] for column in self._rows))
        looseness = model.looseness()
        if looseness is not None:
            loss = loss + self.config.bound_weight * looseness
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        self.done += 1
        self._running += float(loss.detach())
        if self.done % self.config.check_every and self.done != self.config.steps:
            return False
        self._look()
        return True

    def _look(self) -> None:
        done = self.done
        self.train_loss.append(self._running / ((done - 1) % self.config.check_every + 1))
        self._running = 0.0
        if not np.isfinite(loss := self.train_loss[-1]):
            raise FloatingPointError(f"the training loss is {loss} after {done} steps: look for outliers in the recorded data")
        with torch.no_grad():
            per_member = self.model.errors(self._looked_at)
        self.holdout_error.append(float(per_member.mean()))
        self.learning_rates.append(float(self._optimizer.param_groups[0]["lr"]))
        if self.holdout_error[-1] < self._best_error * 0.99:
            self._best_error, self._best_members, self._waited = self.holdout_error[-1], per_member, 0
            self._best = {k: v.clone() for k, v in self.model.state_dict().items()}
        else:
            self._waited += 1

    def state_dict(self) -> dict[str, Tensor]:
        """All that `step` changes and the normalizers, as copies; the split of the data comes from the seed again."""
        group = self._optimizer.param_groups[0]
        state = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        state |= {f"best.{k}": v for k, v in self._best.items()}
        for index, moments in self._optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{k}": v for k, v in moments.items()}
        state |= {name: torch.tensor(getattr(self, name), dtype=torch.float64) for name in _SERIES}
        state["counters"] = torch.tensor([self.done, self._waited])
        state["sums"] = torch.tensor([self._running, self._best_error, self._seconds()], dtype=torch.float64)
        state["schedule"] = torch.tensor([group["lr"], *group["betas"]], dtype=torch.float64)
        state["best_members"] = self._best_members
        state["generator"] = self._generator.get_state()
        return {k: v.detach().clone() for k, v in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Goes on where `state_dict` was taken of a fit of the same data, configuration and seed.

        Raises:
            KeyError: something is missing.
            RuntimeError: sizes differ: of another model.
        """
        self.model.load_state_dict(below(state, "model"))
        self._best = below(state, "best")
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in below(state, "optimizer").items():
            index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value.clone()
        rate, *betas = state["schedule"].tolist()
        groups = [{**group, "lr": rate, "betas": tuple(betas)} for group in self._optimizer.state_dict()["param_groups"]]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        for name in _SERIES:
            setattr(self, name, state[name].tolist())
        self.done, self._waited = state["counters"].tolist()
        self._running, self._best_error, self._seconds_before = state["sums"].tolist()
        self._schedule.load_state_dict({"last_epoch": self.done, "_step_count": self.done + 1, "_last_lr": [rate] * len(groups)})
        self._best_members = state["best_members"].clone()
        self._generator.set_state(state["generator"])
        self._started = time.monotonic()

    def result(self) -> FitResult:
        """Brings the best weights back into the model."""
        if self._best:
            self.model.load_state_dict(self._best)
        elites = [int(i) for i in torch.argsort(self._best_members)]
        seconds = self._seconds()
        samples = self.done * self.model.members * self._batch
        return FitResult(elites, self.train_loss, self.holdout_error, self.done, seconds, samples / max(seconds, 1e-9))

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started


_SERIES = ("train_loss", "holdout_error", "learning_rates")


def _is_weight(name: str) -> bool:
    return ".weights." in f".{name}"


def fit(
    model: Trainable,
    data: Transitions,
    config: FitConfig,
    seed: int,
    progress: Callable[[int, int, float, float], None] | None = None,
) -> FitResult:
    """Fits all members of `model` to `data`, in place.

    Args:
        model: normalizers are set from the data; weights are the starting point.
        data: rows of all episodes.
        config: settings.
        seed: of the split, the bootstrap and the batches.
        progress: called at every look with (steps done, steps in all, training loss, held-out error).

    Raises:
        FloatingPointError: the loss is not finite.
    """
    fitting = Fit(model, data, config, seed)
    while not fitting.finished:
        if fitting.step() and progress is not None:
            progress(fitting.done, config.steps, fitting.train_loss[-1], fitting.holdout_error[-1])
    return fitting.result()
