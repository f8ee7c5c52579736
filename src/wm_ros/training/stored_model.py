"""Reads a trained model back: from a run, a version of it, or the checkpoint of a training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wm_ros.agents.dreamer import DreamerNetworks
from wm_ros.agents.pets import dynamics
from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data.episode import Episode
from wm_ros.models.dynamics import ObservationDynamics
from wm_ros.runtime import artifact
from wm_ros.runtime.artifact import TrainingBag
from wm_ros.training import checkpoint
from wm_ros.training.bag_policy import BagPolicyPlan
from wm_ros.training.config import AgentConfig, DreamerAgentConfig
from wm_ros.training.dreamer_learner import DreamerLearner
from wm_ros.training.foresight import Foresight, ObservationForesight
from wm_ros.training.latent_foresight import LatentForesight
from wm_ros.training.online import OnlinePlan
from wm_ros.training.parts import below
from wm_ros.training.simulated import SimulatedPlan

WEIGHTS, METRICS, CONTROLLER, CHECKPOINT = "model.safetensors", "metrics.json", "controller.onnx", "checkpoint.safetensors"
NO_MODEL = "of a training that leaves no world model behind: give the run of an agent that has one, pets or dreamer"


@dataclass(frozen=True)
class StoredModel:
    """A model as it plans or imagines, and where it comes from."""

    model: ObservationDynamics | DreamerNetworks
    contract: Contract
    agent: AgentConfig | DreamerAgentConfig
    path: Path
    """Of the weights."""
    training_bags: tuple[TrainingBag, ...]
    """What it has learned from; empty also for one that learned in simulation, without bags."""
    what: str
    """In words, such as `5 elites of 6 members`."""

    @property
    def family(self) -> str:
        """What kind of model it is."""
        return self.agent.pets.model.family if isinstance(self.agent, AgentConfig) else "recurrent"

    @property
    def horizon(self) -> int:
        """Model steps that plans, or the imagination that taught the policy, look ahead."""
        return self.agent.pets.planner.horizon if isinstance(self.agent, AgentConfig) else self.agent.fit.horizon

    def before(self, episodes: Sequence[Episode], context: int) -> Foresight:
        """The model before recorded episodes; a latent one sees so many ticks before it imagines."""
        if isinstance(self.model, DreamerNetworks):
            return LatentForesight(self.model, episodes, context)
        return ObservationForesight(self.model)


def load(path: Path) -> StoredModel:
    """Reads a model.

    Args:
        path: of a run (`wm-ros train`, `wm-ros demo`), of one version in it, of a file in that, or of a training's checkpoint.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = path.expanduser()
    if not path.exists():
        raise UserError(f"{path}: no such file or folder: give the folder of a run, such as runs/demo or runs/offline, or a checkpoint")
    if path.name == CHECKPOINT and path.is_file():
        return _from_checkpoint(path)
    folder = _folder(path)
    if not (folder / WEIGHTS).is_file() and (folder / CHECKPOINT).is_file():
        return _from_checkpoint(folder / CHECKPOINT)
    return _from_version(folder)


def _folder(path: Path) -> Path:
    if path.is_file():
        if path.name not in (WEIGHTS, METRICS, CONTROLLER):
            raise UserError(f"{path}: no model: give the folder of a run, its {WEIGHTS}, or the {CHECKPOINT} of a training")
        return path.parent
    for folder in (path, path / "models"):  # the latter of a policy that learns beside a robot
        if any((folder / name).is_file() for name in (WEIGHTS, CHECKPOINT)):
            return folder
    versions = sorted(p.parent for where in ("", "models/") for p in path.glob(f"{where}[0-9]*/{WEIGHTS}"))
    if not versions:
        raise UserError(f"{path}: no {WEIGHTS} in it, nor in a folder models/NNNN: give the folder of a run that has trained a model")
    return versions[-1]


def _from_checkpoint(path: Path) -> StoredModel:
    for kind in (OnlinePlan, BagPolicyPlan, SimulatedPlan):
        if checkpoint.holds(path, kind):
            return _from_policy_checkpoint(path, kind)
    plan, state = checkpoint.read(path)
    contract = schema.from_json(plan.contract, str(path))
    model = dynamics(contract, plan.agent.pets, planning=False)
    _fill(model, below(state, "model"), path)
    done = int(state["counters"][0]) if "counters" in state else 0
    what = f"{model.members} members after {done} of {plan.agent.fit.steps} steps"
    return StoredModel(model, contract, plan.agent, path, plan.bags, what)


def _from_policy_checkpoint(path: Path, kind: type[OnlinePlan] | type[BagPolicyPlan] | type[SimulatedPlan]) -> StoredModel:
    plan, state = checkpoint.read_as(path, kind)
    agent = plan.agent
    if not isinstance(agent, DreamerAgentConfig):
        raise UserError(f"{path}: {NO_MODEL}")
    contract = schema.from_json(plan.contract, str(path))
    learner = DreamerLearner(contract, agent.dreamer, agent.fit, torch.Generator())
    try:
        learner.restore(below(state, "learner"))
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{path}: damaged: {str(error).splitlines()[0]}: train the model again") from None
    bags = () if isinstance(plan, SimulatedPlan) else plan.bags
    return StoredModel(learner.networks, contract, agent, path, bags, f"{_sizes(agent)}, after {learner.updates} updates")


def _sizes(agent: DreamerAgentConfig) -> str:
    rssm = agent.dreamer.rssm
    latent = f"{rssm.groups} x {rssm.classes} categories" if rssm.latent == "categorical" else f"{rssm.groups} Gaussians"
    return f"{rssm.deter} units and {latent}"


def _from_version(folder: Path) -> StoredModel:
    metrics = _metrics(folder / METRICS)
    config = metrics.get("config")
    if isinstance(config, dict) and "dreamer" in config:
        return _dreamer(folder, config)
    if not isinstance(config, dict) or "pets" not in config:
        raise UserError(f"{folder / METRICS}: {NO_MODEL}")
    try:
        agent = TypeAdapter(AgentConfig).validate_python(config)
        elites = [int(i) for i in metrics["elites"]]
    except (ValidationError, KeyError, TypeError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"{folder / METRICS}: not of this version of wm_ros ({why}): train the model again") from None
    metadata = _metadata(folder / CONTROLLER)
    contract = schema.from_json(metadata.contract, str(folder / CONTROLLER))
    trained = dynamics(contract, agent.pets, planning=False)
    _fill(trained, _weights(folder / WEIGHTS), folder / WEIGHTS)
    model = dynamics(contract, agent.pets, planning=True)
    if len(elites) < model.members or any(not 0 <= i < trained.members for i in elites):
        raise UserError(f"{folder / METRICS}: elites {elites} do not fit {trained.members} members: train the model again")
    model.take(trained, elites[: model.members])
    what = f"{model.members} elites of {trained.members} members"
    return StoredModel(model, contract, agent, folder / WEIGHTS, metadata.training_bags, what)


def _dreamer(folder: Path, config: dict[str, Any]) -> StoredModel:
    try:
        agent = TypeAdapter(DreamerAgentConfig).validate_python(config)
    except ValidationError as error:
        why = str(error).splitlines()[0]
        raise UserError(f"{folder / METRICS}: not of this version of wm_ros ({why}): train the model again") from None
    metadata = _metadata(folder / CONTROLLER)
    contract = schema.from_json(metadata.contract, str(folder / CONTROLLER))
    networks = DreamerNetworks(contract, agent.dreamer)
    _fill(networks, _weights(folder / WEIGHTS), folder / WEIGHTS)
    return StoredModel(networks, contract, agent, folder / WEIGHTS, metadata.training_bags, _sizes(agent))


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read: {str(error).splitlines()[0]}: train the model again") from None


def _metrics(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: the model's settings stand in it: bring it back") from None
    except ValueError:
        raise UserError(f"{path}: not readable as JSON: train the model again") from None
    if not isinstance(metrics, dict):
        raise UserError(f"{path}: no metrics of a model: train the model again")
    return metrics


def _metadata(path: Path) -> artifact.Metadata:
    if not path.is_file():
        raise UserError(f"{path}: no such file: the model's contract stands in it: bring it back")
    try:
        properties = {p.key: p.value for p in onnx.load(path, load_external_data=False).metadata_props}
        text = properties[artifact.METADATA_KEY]
    except Exception as error:  # protobuf's exceptions share no base
        raise UserError(f"{path}: no controller of wm_ros: {type(error).__name__}: train the model again") from None
    return artifact.read_metadata(text, str(path))


def _fill(model: ObservationDynamics | DreamerNetworks, state: dict[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: does not fit its settings: {why}: train the model again") from None


