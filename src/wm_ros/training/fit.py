"""Fits an ensemble to transitions: Gaussian likelihood, fixed bootstrap, held-out elites, early stopping."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wm_ros.models.dynamics import ObservationDynamics


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


@dataclass(frozen=True)
class Transitions:
    """Training rows for `ObservationDynamics`."""

    observation: NDArray[np.float32]
    """`[B, O]`"""
    actions: NDArray[np.float32]
    """`[B, stride, A]`"""
    following: NDArray[np.float32]
    """`[B, O]`, `stride` ticks later."""

    def __len__(self) -> int:
        return len(self.observation)


def transitions(observation: NDArray[np.float32], action: NDArray[np.float32], stride: int) -> Transitions:
    """All windows of `stride` ticks of one episode: `observation [T+1, O]`, `action [T, A]` → T - stride + 1 rows."""
    rows = len(action) - stride + 1
    if rows < 1:
        raise ValueError(f"an episode of {len(action)} ticks is shorter than one model step of {stride} ticks")
    windows = np.stack([action[i : i + rows] for i in range(stride)], axis=1)
    return Transitions(observation[:rows], windows, observation[stride:])


def concatenated(parts: list[Transitions]) -> Transitions:
    """The rows of several episodes."""
    return Transitions(
        np.concatenate([p.observation for p in parts]),
        np.concatenate([p.actions for p in parts]),
        np.concatenate([p.following for p in parts]),
    )


def set_normalizers(model: ObservationDynamics, data: Transitions) -> None:
    """Means and standard deviations of inputs and targets, computed in float64 and baked into the model."""
    with torch.no_grad():
        for name, values in (("observation", data.observation), ("target", data.following.astype(np.float64) - data.observation)):
            values = values.astype(np.float64)
            getattr(model, f"{name}_mean").copy_(torch.from_numpy(values.mean(axis=0)))
            getattr(model, f"{name}_std").copy_(torch.from_numpy(np.maximum(values.std(axis=0), 1e-6)))


def fit(
    model: ObservationDynamics,
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
    started = time.monotonic()
    set_normalizers(model, data)
    generator = torch.Generator().manual_seed(seed)
    observation, actions, following = (torch.from_numpy(np.ascontiguousarray(a)) for a in (data.observation, data.actions, data.following))
    inputs = model.inputs(observation, actions)
    targets = (following - observation - model.target_mean) / model.target_std
    rows = len(data)
    held = min(config.holdout_most, int(rows * config.holdout))
    order = torch.randperm(rows, generator=generator)
    holdout, training = order[:held], order[held:]
    members = model.network.members
    bootstrap = training[torch.randint(len(training), (members, len(training)), generator=generator)]
    decayed = {"params": list(model.network.weights), "weight_decay": config.weight_decay}
    free = {"params": [*model.network.biases, model.network.log_variance_low, model.network.log_variance_high], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([decayed, free], lr=config.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.1)
    member = torch.arange(members).unsqueeze(1)
    best_error, best_state, waited = float("inf"), None, 0
    train_loss: list[float] = []
    holdout_error: list[float] = []
    best_members = per_member = torch.zeros(members)
    running, done = 0.0, 0
    batch = min(config.batch, len(training))
    for done in range(1, config.steps + 1):
        pick = bootstrap[member, torch.randint(len(training), (members, batch), generator=generator)]
        mean, log_variance = model.network(inputs[pick])
        error = (mean - targets[pick]) ** 2
        loss = gaussian_loss(error, log_variance)
        loss = loss + config.bound_weight * (model.network.log_variance_high.sum() - model.network.log_variance_low.sum())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        running += float(loss.detach())
        if done % config.check_every and done != config.steps:
            continue
        train_loss.append(running / ((done - 1) % config.check_every + 1))
        running = 0.0
        if not np.isfinite(train_loss[-1]):
            raise FloatingPointError(f"the training loss is {train_loss[-1]} after {done} steps: look for outliers in the recorded data")
        with torch.no_grad():
            look = holdout if held else training[: config.holdout_most]
            mean, _ = model.network(inputs[look].expand(members, -1, -1))
            per_member = ((mean - targets[look]) ** 2).mean(dim=(1, 2))
        holdout_error.append(float(per_member.mean()))
        if progress is not None:
            progress(done, config.steps, train_loss[-1], holdout_error[-1])
        if holdout_error[-1] < best_error * 0.99:
            best_error, best_members, waited = holdout_error[-1], per_member, 0
            best_state = {k: v.clone() for k, v in model.network.state_dict().items()}
        else:
            waited += 1
            if waited >= config.patience:
                break
    if best_state is not None:
        model.network.load_state_dict(best_state)
    seconds = time.monotonic() - started
    return FitResult(
        [int(i) for i in torch.argsort(best_members)], train_loss, holdout_error, done, seconds, done * members * batch / max(seconds, 1e-9)
    )


def gaussian_loss(squared_error: Tensor, log_variance: Tensor) -> Tensor:
    """Negative log-likelihood of a diagonal Gaussian up to a constant, summed over members and averaged over the rest (PETS, eq. 1)."""
    return (squared_error * torch.exp(-log_variance) + log_variance).mean(dim=(1, 2)).sum()
