"""Agent configurations: YAML in, frozen dataclasses out, every fault with its field."""

from __future__ import annotations

from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from wm_ros.agents.dreamer import DreamerConfig
from wm_ros.agents.mbpo import MbpoConfig
from wm_ros.agents.pets import PetsConfig
from wm_ros.agents.sac import SacConfig
from wm_ros.contract import resources
from wm_ros.contract.errors import UserError
from wm_ros.planners.choice import CONFIGS, kind_of
from wm_ros.planners.planner import PlannerConfig
from wm_ros.training.dreamer_learner import DreamerFitConfig
from wm_ros.training.fit import FitConfig
from wm_ros.training.mbpo_learner import MbpoFitConfig, ModelFitConfig
from wm_ros.training.sac_learner import SacFitConfig

Kind = TypeVar("Kind")


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class AgentConfig:
    """What `config/agents/<name>.yaml` holds."""

    pets: PetsConfig = field(default_factory=PetsConfig)
    """The agent itself."""
    fit: FitConfig = field(default_factory=FitConfig)
    """How its model is fitted."""
    guide: str = ""
    """SAC controller (`controller.onnx`) for the same contract: its policy is one more candidate of every plan, and its critics value
    the plan's end. Empty: none."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class SacAgentConfig:
    """What `config/agents/sac.yaml` holds."""

    sac: SacConfig = field(default_factory=SacConfig)
    """The networks."""
    fit: SacFitConfig = field(default_factory=SacFitConfig)
    """How they are trained."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class DreamerAgentConfig:
    """What `config/agents/dreamer.yaml` holds."""

    dreamer: DreamerConfig = field(default_factory=DreamerConfig)
    """The networks."""
    fit: DreamerFitConfig = field(default_factory=DreamerFitConfig)
    """How they are trained."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class MbpoAgentConfig:
    """What `config/agents/mbpo.yaml` holds."""

    mbpo: MbpoConfig = field(default_factory=MbpoConfig)
    """What is imagined."""
    sac: SacConfig = field(default_factory=SacConfig)
    """The policy's networks."""
    fit: MbpoFitConfig = field(default_factory=MbpoFitConfig)
    """How they are trained."""
    model_fit: ModelFitConfig = field(default_factory=ModelFitConfig)
    """How the model is fitted."""


PolicyConfig = SacAgentConfig | MbpoAgentConfig
"""Of an agent whose controller is a policy alone. An empty file is the first."""


def load_policy(name: str | Path) -> PolicyConfig:
    """`load_as` for MBPO where the file has its part, else for the soft actor-critic."""
    return load_as(name, MbpoAgentConfig) if "mbpo" in _parts(name) else load_as(name, SacAgentConfig)


def is_policy(name: str | Path) -> bool:
    """Whether the file is one for `load_policy`; what it holds is not looked at.

    Raises:
        UserError: as for `load_as`.
    """
    return bool({"mbpo", "sac"} & _parts(name))


def is_dreamer(name: str | Path) -> bool:
    """Whether the file is one for Dreamer; what it holds is not looked at.

    Raises:
        UserError: as for `load_as`.
    """
    return "dreamer" in _parts(name)


def load_policy_or_dreamer(name: str | Path) -> PolicyConfig | DreamerAgentConfig:
    """`load_as` for Dreamer where the file has its part, else `load_policy`."""
    return load_as(name, DreamerAgentConfig) if is_dreamer(name) else load_policy(name)


def load_for_bags(name: str | Path) -> PolicyConfig | DreamerAgentConfig:
    """`load_policy_or_dreamer` for a training from bags alone: Dreamer without `explore`, since nobody goes and looks."""
    agent = load_policy_or_dreamer(name)
    return replace(agent, dreamer=replace(agent.dreamer, explore=0.0)) if isinstance(agent, DreamerAgentConfig) else agent


def _parts(name: str | Path) -> set[str]:
    data = _read(resources.find("config/agents", name, ".yaml"))
    return set(data) if isinstance(data, dict) else set()


def load(name: str | Path) -> AgentConfig:
    """`load_as` for PETS."""
    return load_as(name, AgentConfig)


def load_as(name: str | Path, kind: type[Kind]) -> Kind:
    """Reads an agent configuration from a file, or by the name of one that ships in `config/agents`.

    Args:
        name: of the file.
        kind: what it must hold.

    Raises:
        UserError: no such file, no YAML, an unknown field or a value out of range.
    """
    path = resources.find("config/agents", name, ".yaml")
    data = _read(path)
    _refuse_unknown(kind, data, str(path), "")
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        lines = [f"{path}: {_field(f['loc'])}: {f['msg'].removeprefix('Value error, ')}" for f in error.errors()]
        raise UserError("\n".join(lines)) from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _read(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from None


def _refuse_unknown(kind: type, data: object, where: str, prefix: str) -> None:
    if not isinstance(data, dict):
        raise UserError(f"{where}: {prefix or 'the file'}: expected a mapping, found {type(data).__name__}")
    known = getattr(kind, "__dataclass_fields__")  # noqa: B009  (type checkers know no such attribute on `type`)
    for key, value in data.items():
        if key not in known:
            raise UserError(f"{where}: {prefix}{key}: unknown field; there are {', '.join(known)}")
        factory = known[key].default_factory
        if isinstance(factory, type) and is_dataclass(factory):
            _refuse_unknown(_chosen(factory, value, where, f"{prefix}{key}."), value, where, f"{prefix}{key}.")


def _chosen(kind: type, value: object, where: str, prefix: str) -> type:
    """The settings that `value` has: those of the planner that it names, else those of `kind`."""
    if not issubclass(kind, PlannerConfig):
        return kind
    if kind_of(value) not in CONFIGS:
        raise UserError(f"{where}: {prefix}kind: no planner {kind_of(value)!r}; there are {', '.join(CONFIGS)}")
    return CONFIGS[kind_of(value)]


def _field(location: tuple[int | str, ...]) -> str:
    """A field as it stands in the file: without the kind that pydantic puts behind a choice."""
    parts = [part for i, part in enumerate(location) if not (i > 0 and location[i - 1] == "planner" and part in CONFIGS)]
    return ".".join(str(part) for part in parts)
