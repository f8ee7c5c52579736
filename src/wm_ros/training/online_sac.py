"""Soft actor-critic beside a robot: every recorded bag pays for updates, and after them comes a controller; knows nothing of ROS."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from wm_ros.agents.controller import Controller
from wm_ros.agents.explorer import Explorer, ExplorerConfig
from wm_ros.agents.sac import SacController
from wm_ros.contract.announcements import ControllerNotice
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data.align import read_episodes
from wm_ros.data.bag_hash import bag_hash
from wm_ros.data.episode import Episode
from wm_ros.data.transition_buffer import TransitionBuffer
from wm_ros.export import controller as export
from wm_ros.export.template import template, write_atomically
from wm_ros.runtime.artifact import TrainingBag
from wm_ros.runtime.controller import ControllerSession
from wm_ros.runtime.signature import SigningKey
from wm_ros.training import checkpoint
from wm_ros.training.config import SacAgentConfig
from wm_ros.training.pets_learner import Report
from wm_ros.training.running_statistics import RunningStatistics
from wm_ros.training.sac_learner import Batch, SacLearner

CHECKPOINT = "checkpoint.safetensors"
CONTROLLER, EXPLORING = "controller.onnx", "exploring.onnx"
"""The policy's mean, and the policy with its noise, which is what a robot drives with while there is more to learn."""
CHUNK = 50
"""Updates between two reports, which is where a training can be paused or stopped."""


@dataclass(frozen=True)
class OnlinePlan:
    """What stands in the checkpoint beside the tensors."""

    contract: str
    """Canonical JSON."""
    agent: SacAgentConfig
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


class OnlineSac:
    """Grows a buffer by bags and writes `models/NNNN/{controller.onnx, exploring.onnx, metrics.json}` and one checkpoint beside them."""

    def __init__(
        self,
        contract: Contract,
        config: SacAgentConfig,
        directory: Path,
        seed: int,
        report: Report,
        signing_key: SigningKey | None = None,
    ) -> None:
        """Args: contract, agent configuration, the run's `models/` folder, seed of every draw, who hears of progress, and who signs."""
        self.contract, self.config, self.directory, self.seed = contract, config, directory, seed
        self.report, self._signing_key = report, signing_key
        self.version = -1
        self.episodes = self.updates = 0
        self.bags: list[TrainingBag] = []
        self.owed = 0.0
        self._seen = 0
        self.buffer = TransitionBuffer(config.fit.capacity, contract.observation_size, contract.action_size)
        self.learner = SacLearner(contract, config.sac, config.fit, torch.Generator().manual_seed(self._seed(0)))
        self._statistics = RunningStatistics(contract.observation_size)
        self._rng = np.random.Generator(np.random.PCG64(self._seed(1)))
        self._graphs: dict[str, Any] = {}

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
            self._take(episode)
            if self.config.sac.normalize:
                self._statistics.add(episode.observation[:-1])
            learned = min(len(episode), max(0, self._seen - self.config.fit.warm_up))
            self.owed += learned * self.config.fit.updates_per_step
        self._normalize()

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
            self._graph(SacController(self.contract, self.config.sac, explore))

    def train(self) -> ControllerNotice:
        """Does the updates that are owed, and writes the next version; during the warm-up that is a random one again.

        Returns:
            The controller to drive on with: the policy with its noise.

        Raises:
            UserError: training has diverged, which leaves everything as it was, or an exported file failed its checks.
        """
        started, due = time.monotonic(), int(self.owed)
        losses = self._pay(due)
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
            "agent": SacController.agent,
            "updates": self.updates,
            "updates_now": due,
            "train_s": seconds,
            **losses,
            "seed": self.seed,
            "contract_hash": self.contract.hash,
            "config": asdict(self.config),
            "versions": export.versions(),
        }
        write_atomically(path.with_name("metrics.json"), json.dumps(metrics, indent=1).encode())
        self.save()
        self.report("ready", {**self.counts, "seconds": seconds, "train_loss": losses.get("critic_loss"), "metrics": losses})
        return notice

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
        state = {f"learner.{k}": v for k, v in self.learner.state().items()}
        state |= {f"statistics.{k}": torch.from_numpy(np.array(v)) for k, v in self._statistics.state().items()}
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
            if plan.agent.sac != self.config.sac:
                raise UserError(f"{path}: of networks with other settings: beginning anew")
            notice = self._newest_notice(warn)
            if notice is None:
                return None
            self._restore(path, state)
        except UserError as error:
            warn(str(error).splitlines()[0])
            return None
        self._rng.bit_generator.state = json.loads(plan.rng)
        for bag in plan.bags:
            # Also one that is gone or has changed: the policy has learned from it, and must not do so twice.
            self.bags.append(bag)
            try:
                if bag_hash(Path(bag.path)) != bag.sha256:
                    raise UserError(f"{bag.path}: changed since it was learned from: left out of the buffer")
                for episode in read_episodes(bag.path, self.contract):
                    self._take(episode)
            except (UserError, OSError) as error:
                warn(str(error).splitlines()[0])
        self.updates, self.owed, self.episodes = plan.updates, plan.owed, plan.episodes
        self.version = max(plan.version, notice.version)
        return notice

    def _restore(self, path: Path, state: dict[str, torch.Tensor]) -> None:
        def below(part: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}

        try:
            self.learner.restore(below("learner"))
            self._statistics.restore({k: v.numpy() for k, v in below("statistics").items()})
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{path}: damaged: {str(error).splitlines()[0]}: beginning anew") from None
        self._normalize()

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

    def _take(self, episode: Episode) -> None:
        """Into the buffer, by no more at once than it holds."""
        columns = (episode.observation[:-1], episode.action, episode.reward, episode.observation[1:], episode.terminated)
        for start in range(0, len(episode), self.buffer.capacity):
            part = slice(start, start + self.buffer.capacity)
            self.buffer.add(*(column[part] for column in columns))
        self._seen += len(episode)

    def _pay(self, due: int) -> dict[str, float]:
        """The updates; means of their losses, nothing where there were none."""
        fit = self.config.fit
        sums = torch.zeros(4, dtype=torch.float64)
        if due and len(self.buffer) < fit.batch:
            raise UserError(f"{len(self.buffer)} transitions in the buffer, a batch has {fit.batch}: record more, or bring the bags back")
        for done in range(due):
            if done % CHUNK == 0:
                self.report("training", {**self.counts, "epoch": done, "epochs": due})
            drawn = self.buffer.sample(self._rng, fit.batch, fit.discount)
            noise = self._rng.standard_normal((2, fit.batch, self.contract.action_size), dtype=np.float32)
            columns = (drawn.observation, drawn.action, drawn.reward, drawn.next_observation, drawn.discount)
            losses = self.learner.update(Batch(*(torch.from_numpy(c) for c in columns)), torch.from_numpy(noise))
            sums += torch.stack([losses.critic, losses.value, losses.entropy, losses.temperature]).double()
        if not torch.isfinite(sums).all():
            self.owed -= due
            self._restore(self.directory / CHECKPOINT, checkpoint.read_as(self.directory / CHECKPOINT, OnlinePlan)[1])
            raise UserError("losses are no longer finite: back to the last controller: set fit.learning_rate lower")
        self.owed -= due
        self.updates += due
        names = ("critic_loss", "value", "entropy", "temperature")
        return dict(zip(names, (sums / due).tolist(), strict=True)) if due else {}

    def _normalize(self) -> None:
        if self._statistics.count:
            networks = self.learner.networks
            networks.observation_mean.copy_(torch.from_numpy(self._statistics.mean))
            networks.observation_rate.copy_(torch.from_numpy(self._statistics.rate))

    # ---- writing --------------------------------------------------------------------------------------------------

    def _policy(self, explore: bool) -> SacController:
        controller = SacController(self.contract, self.config.sac, explore)
        controller.networks.load_state_dict(self.learner.networks.state_dict())
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
