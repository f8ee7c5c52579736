"""wm-ros train --bag with Dreamer: a world model, and a policy that learns in it, from recorded bags alone."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from wm_ros.bringup.interrupt import held_back
from wm_ros.cli.display import Display, make_folder
from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.runtime.signature import SigningKey

if TYPE_CHECKING:
    from wm_ros.cli.train import Train
    from wm_ros.training.offline_dreamer import OfflineDreamerTraining

OUTPUTS = ("controller.onnx", "model.safetensors", "metrics.json", "metrics.csv")


def train(options: Train, folder: Path, signing_key: SigningKey | None) -> int:
    """Trains, and says where everything is."""
    show = Display()
    try:
        training = (_resumed if options.resume else _begun)(options, folder, signing_key, show)
        try:
            _learn(training, show)
            show.line("exporting, checking the controller")
            training.finish()
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
    print(f"controller {folder / 'controller.onnx'}\nmetrics    {folder / 'metrics.json'}, metrics.csv")
    return 0


def _begun(options: Train, folder: Path, signing_key: SigningKey | None, show: Display) -> OfflineDreamerTraining:
    from wm_ros.export.controller import versions
    from wm_ros.training import bag_set, config
    from wm_ros.training.offline_dreamer import CHECKPOINT, OfflineDreamerPlan, OfflineDreamerTraining

    if options.updates < 1:
        raise UserError(f"updates: {options.updates} must be at least 1")
    contract, agent = schema.load(options.contract), config.load_as(options.agent or "dreamer", config.DreamerAgentConfig)
    paths, nothing = bag_set.find(pattern for patterns in options.bag for pattern in patterns)
    make_folder(folder, (*OUTPUTS, CHECKPOINT))
    show.begin("reading bags", len(paths))
    data = bag_set.read(
        paths,
        contract,
        1,
        namespace=options.namespace,
        force=options.force,
        on_bag=lambda path: show.advance(),
        on_loss=lambda loss: show.line(f"warning: {loss.path}: {loss.bytes} bytes are lost: {loss.reason}"),
    )
    refused = [*nothing, *data.refused]
    for _, reason in refused:
        show.line(f"not used: {reason}")
    if not data.bags:
        raise UserError(f"bag: none of {len(refused)} can train {contract.name}: see above, and `wm-ros bag check`")
    plan = OfflineDreamerPlan(
        contract=contract.canonical_json(),
        agent=agent,
        bags=tuple(data.bags),
        refused=tuple(refused),
        versions=versions(),
        updates=options.updates,
        seed=options.seed or 0,
        holdout=options.holdout,
        namespace=options.namespace,
        force=options.force,
        threads=options.threads or os.cpu_count() or 1,
    )
    training = OfflineDreamerTraining(plan, data, folder, options.checkpoint_every, signing_key)
    training.save()
    kept = [e for episodes in training.training for e in episodes]
    show.line(
        f"{len(data.bags)} of {len(paths) + len(nothing)} bags, {len(kept)} episodes with {sum(map(len, kept))} steps to learn from, "
        f"{len(training.held_out)} held out"
    )
    return training


def _resumed(options: Train, folder: Path, signing_key: SigningKey | None, show: Display) -> OfflineDreamerTraining:
    from wm_ros.export.controller import versions
    from wm_ros.training import checkpoint, config
    from wm_ros.training.offline_dreamer import CHECKPOINT, OfflineDreamerPlan, OfflineDreamerTraining

    path = folder / CHECKPOINT
    plan, _ = checkpoint.read_as(path, OfflineDreamerPlan)
    differing = [
        name
        for name, differs in (
            ("contract", bool(options.contract) and schema.load(options.contract).canonical_json() != plan.contract),
            ("agent", options.agent is not None and config.load_as(options.agent, config.DreamerAgentConfig) != plan.agent),
            ("seed", options.seed is not None and options.seed != plan.seed),
        )
        if differs
    ]
    if differing:
        raise UserError(f"{path}: was begun with another {' and '.join(differing)}: leave that option away, or begin in another folder")
    if plan.versions != versions():
        show.line(f"warning: begun with {plan.versions}, now {versions()}: the last bits may differ")
    show.begin("reading bags", len(plan.bags))
    training = OfflineDreamerTraining.resume(folder, options.checkpoint_every, lambda path: show.advance(), signing_key)
    show.line(f"going on after {training.updates} of {plan.updates} updates")
    return training


def _learn(training: OfflineDreamerTraining, show: Display) -> None:
    show.begin("updates", training.plan.updates, training.updates)
    while not training.finished:
        with held_back():  # an interrupt in the middle of an update would leave half of it in the checkpoint
            said = training.step()
        show.advance()
        if said is not None:
            show.look(said, said)
