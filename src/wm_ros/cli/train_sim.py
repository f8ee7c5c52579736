"""wm-ros train --sim: learning in simulation, without ROS and without bags."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from wm_ros.bringup.interrupt import held_back
from wm_ros.cli.display import Display, make_folder
from wm_ros.cli.going_on import refuse_others, warn_of_versions
from wm_ros.contract import resources, schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.runtime.signature import SigningKey

if TYPE_CHECKING:
    from wm_ros.cli.train import Train
    from wm_ros.training.simulated import SimulatedTraining

OUTPUTS = ("controller.onnx", "controllers", "model.safetensors", "metrics.json", "metrics.csv", "returns.csv", "report.html")
FRAMES = 100_000


def train(options: Train, folder: Path, signing_key: SigningKey | None) -> int:
    """Trains, and says where everything is."""
    _check(options)
    show = Display()
    try:
        training = (_resumed if options.resume else _begun)(options, folder, signing_key, show)
        training.warn = show.line
        try:
            _learn(training, show)
            training.finish()
            from wm_ros.viz.simulated_report import write_simulated_report

            write_simulated_report(folder)
            training.done_with()
        except KeyboardInterrupt:
            with held_back():
                training.save()
            again = f"wm-ros train --out {shlex.quote(str(options.out))} --resume"
            raise KeyboardInterrupt(
                f"stopped after {training.frames} of {training.plan.frames} frames; the checkpoint is in {folder}; go on with: {again}"
            ) from None
    finally:
        show.close()
    print(f"mean return of the last evaluation {training.looks[-1].mean_return:.1f}")
    print(f"controller {folder / 'controller.onnx'}\nreport     {folder / 'report.html'}")
    print(f"metrics    {folder / 'metrics.json'}, metrics.csv, returns.csv")
    print(f"to go on   wm-ros train --out {shlex.quote(str(options.out))} --resume --frames {2 * training.frames}")
    return 0


def _check(options: Train) -> None:
    if options.bag:
        raise UserError("bag: --sim learns from simulation alone: leave --bag away, or --sim")
    if options.resume:
        return
    if bool(options.contract) == bool(options.env):
        raise UserError("contract: give either --contract or --env, or --resume to go on with a training")
    for name in ("frames", "simulators", "evaluate_every", "evaluations"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"{name}: {value} must be at least 1")


def _contract(options: Train) -> tuple[Contract, str]:
    """The contract, and the folder of its file."""
    if options.env:
        from wm_ros.sim import adapters

        return adapters.contract_of(options.env, options.action_repeat), ""
    if options.action_repeat is not None:
        raise UserError("action_repeat: is for --env; a contract's control.rate_hz says it for its own simulator")
    return schema.load(options.contract), str(resources.find("config/contracts", options.contract, ".yaml").parent)


def _begun(options: Train, folder: Path, signing_key: SigningKey | None, show: Display) -> SimulatedTraining:
    from wm_ros.export.controller import versions
    from wm_ros.training import config, simulated_kinds
    from wm_ros.training.simulated import CHECKPOINT, SimulatedPlan

    contract, beside = _contract(options)
    make_folder(folder, (*OUTPUTS, CHECKPOINT))
    plan = SimulatedPlan(
        contract=contract.canonical_json(),
        agent=config.load_policy_or_dreamer(options.agent or "sac"),
        frames=options.frames or FRAMES,
        evaluate_every=options.evaluate_every,
        versions=versions(),
        seed=options.seed or 0,
        simulators=options.simulators,
        evaluations=options.evaluations,
        threads=options.threads or os.cpu_count() or 1,
        beside=beside,
    )
    training = simulated_kinds.begin(plan, folder, signing_key)
    fit = plan.agent.fit
    show.line(
        f"{contract.name}: {contract.observation_size} columns, {contract.action_size} joints, "
        f"{contract.control.rate_hz:g} Hz, episodes of {contract.episode_ticks} ticks; the first {fit.warm_up} steps are random"
    )
    return training


def _resumed(options: Train, folder: Path, signing_key: SigningKey | None, show: Display) -> SimulatedTraining:
    from wm_ros.training import config, simulated_kinds
    from wm_ros.training.simulated import CHECKPOINT

    training = simulated_kinds.resume(folder, signing_key, options.frames)
    plan = training.plan
    named = bool(options.contract or options.env)
    refuse_others(
        folder / CHECKPOINT,
        {
            "contract": named and _contract(options)[0].canonical_json() != plan.contract,
            "agent": options.agent is not None and config.load_policy_or_dreamer(options.agent) != plan.agent,
            "seed": options.seed is not None and options.seed != plan.seed,
        },
    )
    warn_of_versions(plan.versions, show)
    if training.finished:
        show.line(f"finished after {training.frames} frames: --resume with more --frames makes this training longer")
    else:
        show.line(f"going on after {training.frames} of {plan.frames} frames")
    return training


def _learn(training: SimulatedTraining, show: Display) -> None:
    plan, started, before = training.plan, time.monotonic(), training.updates
    show.begin("frames", plan.frames, training.frames)
    while not training.finished or training.due:
        if training.due:
            look = training.evaluate()
            seconds = max(time.monotonic() - started, 1e-9)
            figures = f"return {look.mean_return:.1f}, {(training.updates - before) / seconds:.0f} updates/s"
            show.look(figures, f"frame {look.frames} of {plan.frames}: mean {figures}, {seconds:.0f} s")
            continue
        frames = training.frames
        with held_back():  # an interrupt in the middle of a step would leave half of it in the checkpoint
            training.step()
        show.advance(training.frames - frames)
