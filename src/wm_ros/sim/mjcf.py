"""Finds and loads the MJCF of a contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco

from wm_ros.contract import resources
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract, Simulator


def find_mjcf(contract: Contract, beside: Path | None = None) -> Path:
    """The file that `simulator.mjcf` names: beside the contract, or among the shipped ones.

    Raises:
        UserError: the contract has no simulator, or there is no such file.
    """
    if contract.simulator is None:
        raise UserError(f"contract {contract.name}: it has no 'simulator': add one, or run without sim")
    name = contract.simulator.mjcf
    folders = [*([beside] if beside is not None else []), *(d / "sim" for d in resources.share_directories())]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"contract {contract.name}: simulator.mjcf: no file {name} in {' or '.join(str(f) for f in folders) or 'sim/'}")


def load_model(contract: Contract, beside: Path | None = None) -> tuple[Simulator, Any]:
    """The contract's simulator settings and its compiled MuJoCo model.

    Raises:
        UserError: as `find_mjcf`, or MuJoCo cannot compile the file.
    """
    path = find_mjcf(contract, beside)
    settings = contract.simulator
    assert settings is not None
    try:
        return settings, mujoco.MjModel.from_xml_path(str(path))
    except (ValueError, mujoco.FatalError) as error:
        raise UserError(f"{path}: MuJoCo cannot load it: {' '.join(str(error).split())}") from None
