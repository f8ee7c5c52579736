"""What trainings of a policy beside a robot share: every recorded bag pays for updates, and after them comes a controller; no ROS."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from wm_ros.agents.controller import Controller
from wm_ros.agents.explorer import Explorer, ExplorerConfig
from wm_ros.contract.announcements import ControllerNotice
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data.align import read_episodes
from wm_ros.data.bag_hash import bag_hash
from wm_ros.data.episode import Episode
from wm_ros.export import controller as export
from wm_ros.export.template import template, write_atomically
from wm_ros.runtime.artifact import TrainingBag
from wm_ros.runtime.controller import ControllerSession
from wm_ros.runtime.signature import SigningKey
from wm_ros.training import checkpoint
from wm_ros.training.config import DreamerAgentConfig, PolicyConfig
from wm_ros.training.parts import below, joined
from wm_ros.training.pets_learner import Report

CHECKPOINT = "checkpoint.safetensors"
CONTROLLER, EXPLORING = "controller.onnx", "exploring.onnx"
"""The policy's mean, and the policy with its noise, which is what a robot drives with while there is more to learn."""
CHUNK = 50
"""Steps between two reports, which is where a training can be paused or stopped."""


@dataclass(frozen=True)
class OnlinePlan:
    """What stands in the checkpoint beside the tensors."""

    contract: str
    """Canonical JSON."""
    agent: PolicyConfig | DreamerAgentConfig
    bags: tuple[TrainingBag, ...]
    """Whose episodes have been learned from, in this order."""
    version: int
    episodes: int
    updates: int
    owed: float
    """Updates that the transitions so far have paid for and that are not done."""
    rng: str
    """State of the generator, JSON."""
    kind: Literal["online"] = "online"
    format: Literal[1] = 1


class OnlineTraining(ABC):
    """Grows a buffer by bags and writes `models/NNNN/{controller.onnx, exploring.onnx, metrics.json}` and one checkpoint beside them."""

    figures: tuple[str, ...]
    """Of every update, first the one to watch; `metrics.json` has their means."""

    def __init__(
        self,
        contract: Contract,
        config: PolicyConfig | DreamerAgentConfig,
        directory: Path,
        seed: int,
        report: Report,
        signing_key: SigningKey | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """
        Args:
            contract: of the robot.
            config: the agent's.
            directory: the run's `models/` folder.
            seed: of every draw.
            report: hears of progress.
            signing_key: signs the controllers.
            warn: told what is worth a person's notice.
        """
        self.contract, self.config, self.directory, self.seed = contract, config, directory, seed
        self.report, self._signing_key, self._warn = report, signing_key, warn
        self.version = -1
        self.episodes = self.updates = 0
        self.bags: list[TrainingBag] = []
        self.owed = 0.0
        self._seen = 0
        self._rng = np.random.Generator(np.random.PCG64(self._seed(1)))
        self._graphs: dict[str, Any] = {}
        self._make()

    @property
    def counts(self) -> dict[str, Any]:
        """Version, episodes and transitions so far, as fields of `announcements.Progress`."""
        return {"version": self.version, "episodes": self.episodes, "transitions": self._seen}

    def path(self, version: int) -> Path:
        """Where the controller of a version is written."""
        return self.directory / f"{version:04d}" / CONTROLLER

    def add(self, episodes: list[Episode], bag: TrainingBag) -> None:
        """Takes the episodes of one bag in; each transition past the warm-up is worth `fit.updates_per_step` updates."""
        self.bags.append(bag)
        for episode in episodes:
            self.episodes += 1
            self._keep(episode, new=True)
            learned = min(len(episode), max(0, self._seen - self.config.fit.warm_up))
            self.owed += learned * self.config.fit.updates_per_step

    def explore(self) -> ControllerNotice:
        """Writes the controller that acts before anything is learned; it overwrites no version of an earlier run in the folder."""
        self.version = self._newest() + 1
        self.report("exporting", self.counts)
        notice = self._write(Explorer(self.contract, ExplorerConfig()), self.path(self.version))
        self.save()
        return notice

    def warm_up(self) -> None:
        """Exports the graphs ahead of the first training, for that takes seconds."""
        for explore in (False, True):
            self._graph(self._untrained(explore))

    def train(self) -> ControllerNotice:
        """Does the updates that are owed, and writes the next version; during the warm-up that is a random one again.

        Returns:
            The controller to drive on with: the policy with its noise.

        Raises:
            UserError: training has diverged, which leaves everything as it was, or an exported file failed its checks.
        """
        started, due = time.monotonic(), int(self.owed)
        means = self._pay(due)
        self.version = max(self.version, self._newest()) + 1
        self.report("exporting", self.counts)
        path = self.path(self.version)
        if not self.updates:
            notice = self._write(Explorer(self.contract, ExplorerConfig()), path)
        else:
            self._write(self._policy(explore=False), path)
            notice = self._write(self._policy(explore=True), path.with_name(EXPLORING))
        seconds = time.monotonic() - started
        metrics = {
            **self.counts,
            "agent": notice.agent,
            "updates": self.updates,
            "updates_now": due,
            "train_s": seconds,
            **means,
            **self._notes(),
            "seed": self.seed,
            "contract_hash": self.contract.hash,
            "config": asdict(self.config),
            "versions": export.versions(),
        }
        write_atomically(path.with_name("metrics.json"), json.dumps(metrics, indent=1).encode())
        self.save()
        self.report("ready", {**self.counts, "seconds": seconds, "train_loss": means.get(self.figures[0]), "metrics": means})
        return notice

    # ---- for subclasses -------------------------------------------------------------------------------------------

    @abstractmethod
    def _make(self) -> None:
        """Learner and buffer."""

    @abstractmethod
    def _keep(self, episode: Episode, new: bool) -> None:
        """Into the buffer; not new is one that is read again after a restart."""

    @abstractmethod
    def _lacking(self) -> str:
        """What the buffer has too little of for an update; empty where there is enough."""

    @abstractmethod
    def _update(self) -> torch.Tensor | None:
        """One update; its figures [F], None where it was left out."""

    @abstractmethod
    def _untrained(self, explore: bool) -> Controller:
        """The policy's controller, with its noise or without."""

    @abstractmethod
    def _networks(self) -> torch.nn.Module:
        """Of the learner, as a controller's `networks` loads them."""

    @abstractmethod
    def _shapes(self, config: Any) -> Any:
        """The part of the agent's configuration that a checkpoint must share to be gone on with."""

    @abstractmethod
    def _parts(self) -> dict[str, dict[str, Any]]:
        """What the checkpoint holds: part → name → array."""

    @abstractmethod
    def _take_back(self, below: Callable[[str], dict[str, torch.Tensor]]) -> None:
        """Restores from the parts."""

    def _refilled(self, whole: bool) -> None:  # noqa: B027  (few keep anything beside the rows)
        """The buffer was filled from the bags of the checkpoint; not whole where one of them is gone."""

    def _notes(self) -> dict[str, Any]:
        """More for `metrics.json`."""
        return {}

    def _step_report(self, done: int, due: int) -> None:
        """Tells how far a training is, and stops or pauses it here where that is asked for."""
        if done % CHUNK == 0:
            self.report("training", {**self.counts, "epoch": done, "epochs": due})

    # ---- going on -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Writes the checkpoint: everything but the buffer, which the bags hold."""
        plan = OnlinePlan(
            contract=self.contract.canonical_json(),
            agent=self.config,
            bags=tuple(self.bags),
            version=self.version,
            episodes=self.episodes,
            updates=self.updates,
            owed=self.owed,
            rng=json.dumps(self._rng.bit_generator.state),
        )
        state = joined(self._parts())
        checkpoint.write(self.directory / CHECKPOINT, plan, state)

    def resume(self, warn: Callable[[str], None]) -> ControllerNotice | None:
        """Goes on with the checkpoint in the folder, with the buffer filled again from its bags.

        Args:
            warn: hears of what cannot be used again.

        Returns:
            The newest controller to drive with, or None where there is no checkpoint to go on with.
        """
        path = self.directory / CHECKPOINT
        if not path.is_file():
            return None
        try:
            plan, state = checkpoint.read_as(path, OnlinePlan)
            if plan.contract != self.contract.canonical_json():
                raise UserError(f"{path}: of another contract: beginning anew")
            if type(plan.agent) is not type(self.config):
                raise UserError(f"{path}: of another agent: beginning anew")
            if self._shapes(plan.agent) != self._shapes(self.config):
                raise UserError(f"{path}: of networks with other settings: beginning anew")
            notice = self._newest_notice(warn)
            if notice is None:
                return None
            self._restore(path, state)
        except UserError as error:
            warn(str(error).splitlines()[0])
            return None
        self._rng.bit_generator.state = json.loads(plan.rng)
        whole = True
        for bag in plan.bags:
            # Also one that is gone or has changed: the policy has learned from it, and must not do so twice.
            self.bags.append(bag)
            try:
                if bag_hash(Path(bag.path)) != bag.sha256:
                    raise UserError(f"{bag.path}: changed since it was learned from: left out of the buffer")
                for episode in read_episodes(bag.path, self.contract):
                    self._keep(episode, new=False)
            except (UserError, OSError) as error:
                warn(str(error).splitlines()[0])
                whole = False
        self._refilled(whole)
        self.updates, self.owed, self.episodes = plan.updates, plan.owed, plan.episodes
        self.version = max(plan.version, notice.version)
        return notice

    def _restore(self, path: Path, state: dict[str, torch.Tensor]) -> None:
        try:
            self._take_back(partial(below, state))
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(f"{path}: damaged: {str(error).splitlines()[0]}: beginning anew") from None

    def _newest(self) -> int:
        """The highest version in the folder; -1 where there is none."""
        return max((int(p.parent.name) for p in self.directory.glob(f"[0-9]*/{CONTROLLER}") if p.parent.name.isdigit()), default=-1)

    def _newest_notice(self, warn: Callable[[str], None]) -> ControllerNotice | None:
        for folder in sorted((p.parent for p in self.directory.glob(f"[0-9]*/{CONTROLLER}")), reverse=True):
            path = folder / EXPLORING
            try:
                return ControllerSession.load(path if path.is_file() else folder / CONTROLLER, self.contract).notice
            except UserError as error:
                warn(str(error).splitlines()[0])
        return None

    # ---- learning -------------------------------------------------------------------------------------------------

    def _pay(self, due: int) -> dict[str, float]:
        """The updates; means of their figures, nothing where there were none."""
        lacking = self._lacking() if due else ""
        if lacking:
            raise UserError(f"{lacking}: record more, or bring the bags back")
        before = self.updates, self.owed - due
        sums, counted = torch.zeros(len(self.figures), dtype=torch.float64), 0
        try:
            for done in range(due):
                self._step_report(done, due)
                figures = self._update()
                self.updates, self.owed = self.updates + 1, self.owed - 1.0
                if figures is not None:
                    sums, counted = sums + figures.double(), counted + 1
            if not torch.isfinite(sums).all():
                raise UserError("losses are no longer finite")
        except UserError as error:
            self.updates, self.owed = before
            path = self.directory / CHECKPOINT
            self._restore(path, checkpoint.read_as(path, OnlinePlan)[1])
            raise UserError(f"{error}: back to the last controller: set fit.learning_rate lower") from None
        return dict(zip(self.figures, (sums / counted).tolist(), strict=True)) if counted else {}

    # ---- writing --------------------------------------------------------------------------------------------------

    def _policy(self, explore: bool) -> Controller:
        controller = self._untrained(explore)
        controller.get_submodule("networks").load_state_dict(self._networks().state_dict())
        return controller

    def _graph(self, controller: Controller) -> Any:
        key = f"{controller.agent} {sorted(controller.noise)}"
        if key not in self._graphs:
            self._graphs[key] = template(controller, self.contract)
        return self._graphs[key]

    def _write(self, controller: Controller, path: Path) -> ControllerNotice:
        origin = export.Origin(self.version, self.seed, self.episodes, tuple(self.bags))
        return export.write(path, self._graph(controller), controller, self.contract, origin, self._signing_key).notice

    def _seed(self, purpose: int) -> int:
        return int(np.random.SeedSequence([self.seed, purpose, 7]).generate_state(1)[0])
