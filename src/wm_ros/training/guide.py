"""Takes policy and critics out of a SAC controller, for a planner to be guided by."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper

from wm_ros.agents.guide import Guide
from wm_ros.agents.sac import SacConfig, SacController, SacNetworks
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.runtime.controller import ControllerSession

_PREFIX = "weights.networks."
"""Of the initializers in the file, as `export.template` names them."""


def load(path: str, contract: Contract) -> Guide:
    """Reads the networks of a controller that `wm-ros train --sim` or the trainer has written.

    Raises:
        UserError: no controller, one for another contract, or one of another agent than SAC.
    """
    file = Path(path).expanduser()
    metadata = ControllerSession.load(file, contract).metadata
    if metadata.agent != SacController.agent:
        raise UserError(f"guide: {file}: a controller of agent {metadata.agent}: policy and value come from one of agent sac")
    settings = {name: value for name, value in metadata.config.items() if name != "explore"}
    networks = SacNetworks(contract, SacConfig(**settings)).requires_grad_(False)
    stored = onnx.load(file).graph.initializer
    weights = {t.name.removeprefix(_PREFIX): numpy_helper.to_array(t) for t in stored if t.name.startswith(_PREFIX)}
    try:
        networks.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
    except RuntimeError as error:
        raise UserError(f"guide: {file}: {str(error).splitlines()[-1].strip()}: write it again with this version") from None
    return Guide(networks, dict(settings))
