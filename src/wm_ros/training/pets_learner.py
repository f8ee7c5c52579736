"""Learns PETS controllers from episodes, one version after each training; knows nothing of ROS."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from wm_ros.agents.explorer import Explorer
from wm_ros.agents.pets import PetsController, dynamics
from wm_ros.contract.announcements import ControllerNotice
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data.align import read_episodes
from wm_ros.data.bag_hash import bag_hash
from wm_ros.data.episode import Episode
from wm_ros.export import controller as export
from wm_ros.export.template import template, write_atomically
from wm_ros.models.dynamics import ObservationDynamics
from wm_ros.models.transitions import concatenated, transitions
from wm_ros.runtime.artifact import TrainingBag
from wm_ros.runtime.controller import ControllerSession
from wm_ros.runtime.signature import SigningKey
from wm_ros.training import guide
from wm_ros.training.calibration import calibrate
from wm_ros.training.config import AgentConfig
from wm_ros.training.fit import Fit, FitResult
from wm_ros.training.open_loop import OpenLoop, open_loop

Report = Callable[[str, dict[str, Any]], None]
"""Called with a phase of `announcements.Progress` and further fields of it."""


class PetsLearner:
    """Grows a data set by episodes and writes `models/NNNN/{controller.onnx, model.safetensors, metrics.json}`."""

    def __init__(
        self,
        contract: Contract,
        config: AgentConfig,
        directory: Path,
        seed: int,
        report: Report,
        signing_key: SigningKey | None = None,
    ) -> None:
        """Args: contract, agent configuration, the run's `models/` folder, seed of every draw, who hears of progress, and who signs."""
        self._signing_key = signing_key
        self.contract, self.config, self.directory, self.seed = contract, config, directory, seed
        self.report = report
        self.version = -1
        self.episodes: list[Episode] = []
        self.bags: list[TrainingBag] = []
        self._unseen: list[Episode] = []
        self._model: ObservationDynamics | None = None
        self._graph: Any = None
        self._guide = guide.load(config.guide, contract) if config.guide else None

    @property
    def counts(self) -> dict[str, Any]:
        """Version, episodes and transitions so far, as fields of `announcements.Progress`."""
        return {"version": self.version, "episodes": len(self.episodes), "transitions": sum(len(e) for e in self.episodes)}

    def add(self, episodes: list[Episode], bag: TrainingBag) -> None:
        """Takes the episodes of one bag in."""
        self.episodes += episodes
        self._unseen += episodes
        self.bags.append(bag)

    def explore(self) -> ControllerNotice:
        """Writes version 0, the controller that acts before there is a model."""
        explorer = Explorer(self.contract, self.config.pets.explorer)
        self.version = 0
        self.report("exporting", {"version": 0})
        written = export.write(
            self.path(0),
            template(explorer, self.contract),
            explorer,
            self.contract,
            export.Origin(version=0, seed=self.seed),
            self._signing_key,
        )
        return written.notice

    def resume(self, warn: Callable[[str], None]) -> ControllerNotice | None:
        """Goes on with the newest controller of an earlier run in the same folder, and with the bags that it has learned from.

        Args:
            warn: hears of what cannot be used again.

        Returns:
            The controller, or None where there is none for this contract.
        """
        for path in sorted(self.directory.glob("[0-9]*/controller.onnx"), reverse=True):
            try:
                session = ControllerSession.load(path, self.contract)
            except UserError as error:
                warn(str(error).splitlines()[0])
                continue
            for bag in session.metadata.training_bags:
                try:
                    if bag_hash(Path(bag.path)) != bag.sha256:
                        raise UserError(f"{bag.path}: changed since {path} learned from it: not learned from again")
                    self.add(read_episodes(bag.path, self.contract), bag)
                except (UserError, OSError) as error:
                    warn(str(error).splitlines()[0])
            self._unseen = []
            self.version = session.metadata.version
            return session.notice
        return None

    def warm_up(self) -> None:
        """Exports the agent's graph ahead of the first training, for it takes seconds."""
        if self._graph is None:
            self._graph = template(self._controller(), self.contract)

    def path(self, version: int) -> Path:
        """Where the controller of a version is written."""
        return self.directory / f"{version:04d}" / "controller.onnx"

    def train(self) -> ControllerNotice:
        """Fits the ensemble to all episodes, exports, checks and writes the next version.

        Raises:
            UserError: no episode is as long as a model step, or the exported file failed its checks.
        """
        held_out = None if self._model is None else self.open_loop(self._model, self._unseen)
        fitting = self.begin()
        while not fitting.finished:
            if fitting.step():
                losses = {"train_loss": fitting.train_loss[-1], "holdout_loss": fitting.holdout_error[-1]}
                self.report("training", {**self.counts, "epoch": fitting.done, "epochs": fitting.config.steps, **losses})
        self._unseen = []
        return self.finish(fitting.model, fitting.result(), held_out, self.path(self.version))

    def begin(self) -> Fit:
        """The fit of the next version to all episodes, before its first step.

        Raises:
            UserError: no episode is as long as a model step.
        """
        settings = self.config.pets
        rows = [
            transitions(e.observation, e.action, settings.stride, e.reward, e.terminated)
            for e in self.episodes
            if len(e) >= settings.stride
        ]
        if not rows:
            raise UserError(f"no episode has {settings.stride} ticks, one model step: record longer episodes or set pets.stride lower")
        self.version = max(0, self.version) + 1
        model = dynamics(self.contract, settings, planning=False)
        model.initialize(torch.Generator().manual_seed(self._seed(self.version, 0)))
        return Fit(model, concatenated(rows), self.config.fit, self._seed(self.version, 1))

    def finish(
        self,
        model: ObservationDynamics,
        result: FitResult,
        held_out: OpenLoop | None,
        path: Path,
        notes: dict[str, Any] | None = None,
        unseen: list[Episode] | None = None,
    ) -> ControllerNotice:
        """Exports a fitted model, checks it and writes its files.

        Args:
            model: with all members, of `begin`.
            result: of its fit.
            held_out: open-loop error, for the metrics.
            path: of the controller; the other files go beside it.
            notes: further entries of metrics.json.
            unseen: episodes that the model has not learned from, to calibrate its disagreement on; without them, those that it has.

        Raises:
            UserError: the exported file failed its checks: nothing is written.
        """
        version, common, self._model = self.version, self.counts, model
        self.report("exporting", common)
        started = time.monotonic()
        self.warm_up()
        controller = self._controller()
        controller.take(model, result.elites)
        recorded = [(e.observation, e.action) for e in unseen or self.episodes]
        level = calibrate(controller.model, recorded, self.config.pets.planner.horizon, held_out=bool(unseen))
        calibration = {"disagreement": level} if level else {}
        origin = export.Origin(version, self.seed, len(self.episodes), tuple(self.bags), calibration)
        written = export.write(path, self._graph, controller, self.contract, origin, self._signing_key)
        export_s = time.monotonic() - started
        metrics = {
            **common,
            "train_s": result.seconds,
            "export_s": export_s,
            "steps": result.steps,
            "samples_per_second": result.samples_per_second,
            "parity": written.parity,
            "latency_ms": {"p50": written.latency_p50_ms, "p99": written.latency_p99_ms},
            "train_loss": result.train_loss,
            "holdout_loss": result.holdout_error,
            "elites": result.elites,
            "open_loop": None if held_out is None else held_out.as_dict(),
            "seed": self.seed,
            "contract_hash": self.contract.hash,
            "config": asdict(self.config),
            "versions": export.versions(),
            **(notes or {}),
        }
        folder = path.parent
        write_atomically(folder / "model.safetensors", save({k: v.contiguous() for k, v in model.state_dict().items()}))
        write_atomically(folder / "metrics.json", json.dumps(metrics, indent=1).encode())
        self.report(
            "ready",
            {
                **common,
                "train_loss": result.train_loss[-1],
                "holdout_loss": result.holdout_error[-1],
                "seconds": result.seconds,
                "metrics": {
                    "parity": written.parity,
                    "latency_p50_ms": written.latency_p50_ms,
                    "export_s": export_s,
                    "open_loop_rmse": None if held_out is None else held_out.normalized_rmse[-1],
                    "open_loop_horizon_s": None if held_out is None else held_out.horizon_s[-1],
                },
            },
        )
        return written.notice

    def open_loop(self, model: ObservationDynamics, episodes: list[Episode]) -> OpenLoop | None:
        """Error of a model on episodes that it has not seen, over the planner's horizon; None where none is as long."""
        pairs = [(e.observation, e.action) for e in episodes]
        steps = self.config.pets.planner.horizon
        return open_loop(model, pairs, steps, self.contract.control.period_s, self.contract.observation_names, self.seed)

    def _controller(self) -> PetsController:
        return PetsController(self.contract, self.config.pets, self._guide)

    def _seed(self, version: int, purpose: int) -> int:
        return int(np.random.SeedSequence([self.seed, version, purpose]).generate_state(1)[0])
