"""wm-ros train: a controller from recorded bags or from simulation, without a robot."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from wm_ros.bringup.interrupt import held_back
from wm_ros.cli import train_bags, train_policy, train_sim
from wm_ros.cli.display import Display
from wm_ros.cli.going_on import refuse_others, warn_of_versions
from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.runtime.signature import SigningKey

if TYPE_CHECKING:
    from wm_ros.training.offline import OfflineTraining

OUTPUTS = ("controller.onnx", "model.safetensors", "metrics.json", "metrics.csv", "report.html")


@dataclass(frozen=True)
class Train:
    """Train a controller from recorded bags, or with --sim in simulation.

    Ctrl-C stops; --resume goes on, also after a crash, as if nothing had happened.
    """

    out: Path
    """Folder for the controller, metrics and report; must not have a training in it, except with --resume."""
    contract: str = ""
    """Contract file, or the name of a shipped contract. With --resume it may be left out."""
    bag: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """rosbag2 directories, storage files, folders of bags, or globs. With --resume the bags are those that it began with."""
    agent: str | None = None
    """Agent configuration: a YAML file, or the name of one in config/agents (pets, mbpo, sac, dreamer); by default pets, with
    --sim sac."""
    seed: int | None = None
    """Of the held-out episodes, the first weights, and every draw; by default 0."""
    resume: bool = False
    """Go on with the training in the folder, with the settings that it began with."""
    holdout: float = 0.1
    """Share of the episodes held out to measure the model, at least one where there are two or more; 0 trains on all."""
    updates: int = 50_000
    """From bags with mbpo, sac or dreamer, gradient updates of the policy; those of dreamer teach its model too, and take far longer."""
    checkpoint_every: int = 500
    """Gradient steps between checkpoints."""
    threads: int = 1
    """Of torch; 0 takes every core, which pays for larger networks only."""
    namespace: str = ""
    """Of the robot's topics in the bags."""
    signing_key: Path | None = None
    """Private key (`wm-ros key new`) that signs the controller."""
    force: bool = False
    """Take bags that were recorded under another contract."""
    sim: bool = False
    """Learn in simulation, without bags and without ROS."""
    env: str = ""
    """With --sim, a task in place of a contract: dm_control/walker_walk, gymnasium/Hopper-v5."""
    action_repeat: int | None = None
    """With --env, environment steps per action; by default 2 for dm_control, 1 for Gymnasium."""
    frames: int | None = None
    """With --sim, physics frames or environment steps to learn from, all simulators together, by default 100000; with --resume, in all."""
    simulators: int = 1
    """With --sim, worlds that are driven side by side."""
    evaluate_every: int = 10_000
    """With --sim, frames between evaluations; each exports a controller and writes the checkpoint."""
    evaluations: int = 5
    """With --sim, episodes of each evaluation."""

    def run(self) -> int:
        """Trains, and says where everything is."""
        folder = self.out.expanduser()
        simulated = self._simulated(folder)
        if not simulated:
            self._check()
        finished = (folder / "metrics.json").is_file() and not (folder / "checkpoint.safetensors").is_file()
        if self.resume and finished:
            print(f"{folder}: this training is finished; the controller is {folder / 'controller.onnx'}")
            return 0
        if simulated:
            return train_sim.train(self, folder, self._key())
        if self._policy(folder):
            return train_policy.train(self, folder, self._key())
        show = Display()
        try:
            training = self._resumed(folder, show) if self.resume else self._begun(folder, show)
            try:
                self._fit(training, show)
                show.line("measuring, exporting, checking the controller")
                training.finish()
                from wm_ros.viz.training_report import write_training_report

                write_training_report(folder, training.contract)
                training.done_with()
            except KeyboardInterrupt:
                with held_back():
                    training.save()
                again = f"wm-ros train --out {shlex.quote(str(self.out))} --resume"
                raise KeyboardInterrupt(
                    f"stopped after {training.fit.done} of {training.fit.config.steps} steps; the checkpoint is in {folder}; "
                    f"go on with: {again}"
                ) from None
            finally:
                training.close()
        finally:
            show.close()
        print(f"controller {folder / 'controller.onnx'}\nreport     {folder / 'report.html'}")
        print(f"metrics    {folder / 'metrics.json'}, metrics.csv, tensorboard/")
        return 0

    def _simulated(self, folder: Path) -> bool:
        if not self.resume:
            return self.sim or bool(self.env)
        from wm_ros.training import checkpoint
        from wm_ros.training.simulated import CHECKPOINT, SimulatedPlan

        return checkpoint.holds(folder / CHECKPOINT, SimulatedPlan)

    def _policy(self, folder: Path) -> bool:
        if not self.resume:
            from wm_ros.training import config

            return self.agent is not None and (config.is_policy(self.agent) or config.is_dreamer(self.agent))
        from wm_ros.training import checkpoint
        from wm_ros.training.bag_policy import CHECKPOINT, BagPolicyPlan

        return checkpoint.holds(folder / CHECKPOINT, BagPolicyPlan)

    def _check(self) -> None:
        if not self.resume and not (self.contract and any(self.bag)):
            missing = "contract" if not self.contract else "bag"
            raise UserError(f"{missing}: missing: give --contract and --bag, or --resume to go on with the training in {self.out}")
        if not 0.0 <= self.holdout < 1.0:
            raise UserError(f"holdout: {self.holdout} must be at least 0 and below 1")
        if self.checkpoint_every < 1 or self.threads < 0:
            raise UserError("checkpoint_every must be at least 1, threads at least 0")

    def _key(self) -> SigningKey | None:
        return None if self.signing_key is None else SigningKey.load(self.signing_key)

    def _begun(self, folder: Path, show: Display) -> OfflineTraining:
        from wm_ros.export.controller import versions
        from wm_ros.training import config
        from wm_ros.training.checkpoint import Plan
        from wm_ros.training.offline import CHECKPOINT, OfflineTraining

        contract, agent = schema.load(self.contract), config.load(self.agent or "pets")
        read = train_bags.read(self, contract, agent.pets.stride, folder, (*OUTPUTS, CHECKPOINT), show)
        plan = Plan(
            contract=contract.canonical_json(),
            agent=agent,
            bags=tuple(read.data.bags),
            refused=read.refused,
            versions=versions(),
            seed=self.seed or 0,
            holdout=self.holdout,
            namespace=self.namespace,
            force=self.force,
            threads=self.threads or os.cpu_count() or 1,
        )
        training = OfflineTraining(plan, read.data, folder, self.checkpoint_every, self._key())
        training.save()
        show.line(read.said(training))
        return training

    def _resumed(self, folder: Path, show: Display) -> OfflineTraining:
        from wm_ros.training import bag_set, checkpoint, config
        from wm_ros.training.offline import CHECKPOINT, OfflineTraining

        path = folder / CHECKPOINT
        plan = checkpoint.read_plan(path, checkpoint.Plan)
        refuse_others(
            path,
            {
                "contract": bool(self.contract) and schema.load(self.contract).canonical_json() != plan.contract,
                "agent": self.agent is not None and config.load(self.agent) != plan.agent,
                "seed": self.seed is not None and self.seed != plan.seed,
            },
        )
        named, _ = bag_set.find(pattern for patterns in self.bag for pattern in patterns)
        known = {bag.path for bag in plan.bags} | {path for path, _ in plan.refused}
        new = [str(path) for path in named if str(path) not in known]
        if new:
            show.line(f"not learned from, since they were not there when this training began: {', '.join(new)}")
        warn_of_versions(plan.versions, show)
        show.begin("reading bags", len(plan.bags))
        training = OfflineTraining.resume(folder, self.checkpoint_every, lambda path: show.advance(), self._key())
        show.line(f"going on after {training.fit.done} of {training.fit.config.steps} steps")
        return training

    def _fit(self, training: OfflineTraining, show: Display) -> None:
        fit = training.fit
        show.begin("training", fit.config.steps, fit.done)
        started = time.monotonic()
        while not training.finished:
            with held_back():  # an interrupt in the middle of a step would leave half of it in the checkpoint
                looked = training.step()
            show.advance()
            if looked:
                figures = f"loss {fit.train_loss[-1]:.3f}, validation error {fit.holdout_error[-1]:.4f}"
                show.look(figures, f"step {fit.done} of {fit.config.steps}: {figures}, {time.monotonic() - started:.1f} s")
