"""wm-ros train --bag with MBPO, SAC or Dreamer: a policy from recorded bags alone."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from wm_ros.bringup.interrupt import held_back
from wm_ros.cli import train_bags
from wm_ros.cli.display import Display
from wm_ros.cli.going_on import refuse_others, warn_of_versions
from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.runtime.signature import SigningKey

if TYPE_CHECKING:
    from wm_ros.cli.train import Train
    from wm_ros.training.bag_policy import BagPolicyPlan, BagPolicyTraining

OUTPUTS = ("controller.onnx", "model.safetensors", "metrics.json", "metrics.csv")
REPORT = "report.html"
"""Of MBPO and SAC; Dreamer's figures are in `metrics.csv`."""


def train(options: Train, folder: Path, signing_key: SigningKey | None) -> int:
    """Trains, and says where everything is."""
    show = Display()
    try:
        training = (_resumed if options.resume else _begun)(options, folder, signing_key, show)
        try:
            _learn(training, show)
            show.line("exporting, checking the controller")
            training.finish()
            if _reported(training.plan):
                from wm_ros.viz.bag_policy_report import write_bag_policy_report

                write_bag_policy_report(folder)
            training.done_with()
        except KeyboardInterrupt:
            with held_back():
                training.save()
            again = f"wm-ros train --out {shlex.quote(str(options.out))} --resume"
            raise KeyboardInterrupt(
                f"stopped after {training.updates} of {training.plan.updates} updates; the checkpoint is in {folder}; go on with: {again}"
            ) from None
    finally:
        show.close()
    print(f"controller {folder / 'controller.onnx'}")
    if _reported(training.plan):
        print(f"report     {folder / REPORT}")
    print(f"metrics    {folder / 'metrics.json'}, metrics.csv")
    return 0


def _reported(plan: BagPolicyPlan) -> bool:
    from wm_ros.training.config import DreamerAgentConfig

    return not isinstance(plan.agent, DreamerAgentConfig)


def _begun(options: Train, folder: Path, signing_key: SigningKey | None, show: Display) -> BagPolicyTraining:
    from wm_ros.export.controller import versions
    from wm_ros.training import config
    from wm_ros.training.bag_policy import CHECKPOINT, BagPolicyPlan
    from wm_ros.training.bag_policy_kinds import kind_of

    if options.updates < 1:
        raise UserError(f"updates: {options.updates} must be at least 1")
    assert options.agent is not None, "another agent than PETS is always named"
    contract, agent = schema.load(options.contract), config.load_for_bags(options.agent)
    read = train_bags.read(options, contract, 1, folder, (*OUTPUTS, REPORT, CHECKPOINT), show)
    if isinstance(agent, config.SacAgentConfig):
        show.line("warning: sac from bags only guesses what actions are worth that nobody took, and prefers them: take --agent mbpo_bags")
    plan = BagPolicyPlan(
        contract=contract.canonical_json(),
        agent=agent,
        bags=tuple(read.data.bags),
        refused=read.refused,
        versions=versions(),
        updates=options.updates,
        seed=options.seed or 0,
        holdout=options.holdout,
        namespace=options.namespace,
        force=options.force,
        threads=options.threads or os.cpu_count() or 1,
    )
    training = kind_of(plan)(plan, read.data, folder, options.checkpoint_every, signing_key, show.line)
    training.save()
    show.line(read.said(training))
    return training


def _resumed(options: Train, folder: Path, signing_key: SigningKey | None, show: Display) -> BagPolicyTraining:
    from wm_ros.training import checkpoint, config
    from wm_ros.training.bag_policy import CHECKPOINT, BagPolicyPlan
    from wm_ros.training.bag_policy_kinds import kind_of

    path = folder / CHECKPOINT
    plan = checkpoint.read_plan(path, BagPolicyPlan)
    refuse_others(
        path,
        {
            "contract": bool(options.contract) and schema.load(options.contract).canonical_json() != plan.contract,
            "agent": options.agent is not None and config.load_for_bags(options.agent) != plan.agent,
            "seed": options.seed is not None and options.seed != plan.seed,
        },
    )
    warn_of_versions(plan.versions, show)
    show.begin("reading bags", len(plan.bags))
    training = kind_of(plan).resume(folder, options.checkpoint_every, lambda path: show.advance(), signing_key, show.line)
    show.line(f"going on after {training.updates} of {plan.updates} updates")
    return training


def _learn(training: BagPolicyTraining, show: Display) -> None:
    if training.model_fit is not None:
        show.begin("fitting the model", training.model_fit.config.steps, training.model_fit.done)
    else:
        show.begin("updates", training.plan.updates, training.updates)
    while not training.finished:
        fitting = training.model_fit is not None
        with held_back():  # an interrupt in the middle of a step would leave half of it in the checkpoint
            said = training.step()
        show.advance()
        if fitting and training.model_fit is None:
            show.line(said or "")
            show.begin("updates", training.plan.updates, 0)
        elif said is not None:
            show.look(said, said)
