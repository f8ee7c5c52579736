"""Which family of networks a model is made of, and what they predict of each observation column."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.models.deterministic import DeterministicEnsemble
from wm_ros.models.ensemble import EnsembleConfig, GaussianEnsemble
from wm_ros.models.forward_network import ForwardNetwork
from wm_ros.models.mixture import MixtureEnsemble

Family = Literal["gaussian", "deterministic", "mixture"]
Target = Literal["delta", "absolute"]


@dataclass(frozen=True)
class ModelConfig:
    """The kind of forward model; its size stands in `EnsembleConfig`."""

    family: Family = "gaussian"
    """`gaussian`: mean and variance; `deterministic`: one value; `mixture`: several Gaussians, for futures that fork."""
    components: int = 4
    """K Gaussians of a mixture."""
    targets: dict[str, Target] = field(default_factory=dict)
    """Channel, feature or column of the observation, or a pattern such as `*.velocity` → `absolute` (predicted as it is) or `delta` (as its
    change, the default). The last that fits counts."""
    normalize: bool = True
    """Targets and learned rewards count in deviations of their own channel; False: as they are, to see what that does."""

    def __post_init__(self) -> None:
        if self.family not in ("gaussian", "deterministic", "mixture"):
            raise ValueError(f"family {self.family!r} must be gaussian, deterministic or mixture")
        if self.components < 1:
            raise ValueError(f"components {self.components} must be at least 1")
        for pattern, target in self.targets.items():
            if target not in ("delta", "absolute"):
                raise ValueError(f"targets.{pattern}: {target!r} must be delta or absolute")


def forward_network(config: ModelConfig, size: EnsembleConfig, inputs: int, outputs: int, members: int | None) -> ForwardNetwork:
    """Untrained networks of the configured family."""
    if config.family == "deterministic":
        return DeterministicEnsemble(size, inputs, outputs, members)
    if config.family == "mixture":
        return MixtureEnsemble(size, inputs, outputs, config.components, members)
    return GaussianEnsemble(size, inputs, outputs, members)


def kept_share(config: ModelConfig, contract: Contract) -> Tensor:
    """`[O]`: 1 for columns that are predicted as changes, 0 for those that are predicted as they are.

    Raises:
        UserError: a pattern fits no column of the contract.
    """
    names = [(c.name, f.name, column) for c in contract.observation for f in c.features for column in f.columns]
    kept = torch.ones(len(names))
    for pattern, target in config.targets.items():
        fits = [any(fnmatchcase(name, pattern) for name in of) for of in names]
        if not any(fits):
            raise UserError(f"model.targets: {pattern!r} fits no column; there are {', '.join(contract.observation_names)}: correct it")
        kept[torch.tensor(fits)] = 1.0 if target == "delta" else 0.0
    return kept
