"""Reads a command by joint name: the order in a message is never trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.assembler import BadMessage
from wm_ros.contract.schema import Contract


def read_values(contract: Contract, names: Sequence[str], values: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]:
    """An action in the contract's order.

    Args:
        contract: names the joints.
        names: joints of the values, in any order.
        values: one per name, in contract units.

    Returns:
        [A].

    Raises:
        BadMessage: other joints than the contract's, another number of values, or a value that is not finite.
    """
    topic, expected = contract.action.topic, contract.action.names
    if sorted(names) != sorted(expected):
        raise BadMessage("names", f"{topic}: joints {list(names)}, the contract has {list(expected)}")
    if len(values) != len(names):
        raise BadMessage("size", f"{topic}: {len(values)} values for {len(names)} joints")
    by_name = dict(zip(names, values, strict=True))
    action = np.array([by_name[name] for name in expected], dtype=np.float64)
    if not np.isfinite(action).all():
        bad = [n for n, v in zip(expected, action, strict=True) if not np.isfinite(v)]
        raise BadMessage("non_finite", f"{topic}: not a finite number: {', '.join(bad)}")
    return action


def read_message(contract: Contract, message: Any) -> NDArray[np.float64]:
    """The action [A] in a JointState command, from the field that the contract's interface names.

    Raises:
        BadMessage: as `read_values`.
    """
    return read_values(contract, list(message.name), getattr(message, contract.action.interface))
