"""Reward and termination functions that contracts refer to.

Each takes `(observation, action, next_observation)` as `Columns` with any leading dimensions and gives `[...]`.
They are written in the array API standard, so numpy, torch and the ONNX export of a planner run the same lines.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from wm_ros.contract.columns import Columns

_LOG_VALUE_AT_MARGIN = -2.302585092994046  # ln(0.1), dm_control's default value at the margin


def gaussian_tolerance(x: Any, margin: float) -> Any:
    """dm_control's `tolerance` with bounds (0, 0) and the Gaussian sigmoid: 1 at zero, 0.1 at `margin`."""
    xp = array_namespace(x)
    return xp.exp(_LOG_VALUE_AT_MARGIN * (x / margin) ** 2)


def quadratic_tolerance(x: Any, margin: float) -> Any:
    """dm_control's `tolerance` with bounds (0, 0), the quadratic sigmoid and value 0 at `margin` and beyond."""
    xp = array_namespace(x)
    return xp.clip(1.0 - (x / margin) ** 2, 0.0, 1.0)


def cartpole_swingup(observation: Columns, action: Columns, next_observation: Columns, *, force_limit: float) -> Any:
    """The smooth swing-up reward of dm_control's cart-pole, in [0, 1] (dm_control/suite/cartpole.py)."""
    upright = (next_observation["hinge_1.position.cos"] + 1.0) / 2.0
    centered = (1.0 + gaussian_tolerance(next_observation["slider.position"], 2.0)) / 2.0
    small_control = (4.0 + quadratic_tolerance(action["slider"] / force_limit, 1.0)) / 5.0
    small_velocity = (1.0 + gaussian_tolerance(next_observation["hinge_1.velocity"], 5.0)) / 2.0
    return upright * small_control * small_velocity * centered
