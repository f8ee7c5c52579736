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


def above_tolerance(x: Any, lower: float, margin: float) -> Any:
    """dm_control's `tolerance` with bounds (lower, infinity), the linear sigmoid and value 0 at `margin` below; margin 0 gives 0 or 1."""
    xp = array_namespace(x)
    if margin == 0:
        return xp.astype(x >= lower, x.dtype)
    return xp.clip(1.0 - (lower - x) / margin, 0.0, 1.0)


def below_tolerance(x: Any, upper: float, margin: float) -> Any:
    """dm_control's `tolerance` with bounds (0, upper) for an x that is never negative, and the Gaussian sigmoid; margin 0 gives 0 or 1."""
    xp = array_namespace(x)
    if margin == 0:
        return xp.astype(x <= upper, x.dtype)
    beyond = x - upper
    return gaussian_tolerance((beyond + xp.abs(beyond)) / 2.0, margin)


def cartpole_swingup(observation: Columns, action: Columns, next_observation: Columns, *, force_limit: float) -> Any:
    """The smooth swing-up reward of dm_control's cart-pole, in [0, 1] (dm_control/suite/cartpole.py)."""
    upright = (next_observation["hinge_1.position.cos"] + 1.0) / 2.0
    centered = (1.0 + gaussian_tolerance(next_observation["slider.position"], 2.0)) / 2.0
    small_control = (4.0 + quadratic_tolerance(action["slider"] / force_limit, 1.0)) / 5.0
    small_velocity = (1.0 + gaussian_tolerance(next_observation["hinge_1.velocity"], 5.0)) / 2.0
    return upright * small_control * small_velocity * centered


_UPRIGHT = 0.9902680687415704  # cos 8°, dm_control/suite/pendulum.py


def pendulum_swingup(observation: Columns, action: Columns, next_observation: Columns, *, margin: float) -> Any:
    """1 within 8° of upright, less by height below it (dm_control/suite/pendulum.py).

    The suite's own reward has margin 0 and says nothing until the pendulum is up; a margin of 2 reaches down to where it hangs.
    """
    return above_tolerance(next_observation["hinge.position.cos"], _UPRIGHT, margin)


def reach_two_link(
    observation: Columns,
    action: Columns,
    next_observation: Columns,
    *,
    target_x: float,
    target_y: float,
    radius: float,
    margin: float,
    upper_arm: float,
    forearm: float,
) -> Any:
    """1 where the finger is within `radius` of the target, less with distance (dm_control/suite/reacher.py); all lengths in metres.

    The suite's own reward has margin 0 and says nothing until the target is reached.
    """
    sin, cos, wrist = (next_observation[name] for name in ("shoulder.position.sin", "shoulder.position.cos", "wrist.position"))
    xp = array_namespace(wrist)
    along, across = upper_arm + forearm * xp.cos(wrist), forearm * xp.sin(wrist)  # the finger, as seen from the upper arm
    x, y = cos * along - sin * across - target_x, sin * along + cos * across - target_y
    return below_tolerance(xp.sqrt(x * x + y * y + _TINY), radius, margin)


_TINY = 1e-12  # keeps the square root's slope finite at the target


def cheetah_run(observation: Columns, action: Columns, next_observation: Columns, *, speed: float) -> Any:
    """Grows linearly with the trunk's forward speed, from 0 at rest to 1 at `speed` in m/s (dm_control/suite/cheetah.py).

    The suite takes the speed of the centre of mass of the whole body, which no sensor reads; this takes that of the trunk, as odometry
    would give it. The two differ within a stride. Summed over time they differ by how far the centre of mass moves within the body, which
    stays within a few centimetres.
    """
    return above_tolerance(next_observation["rootx.velocity"], speed, speed)


def outside(observation: Columns, action: Columns, next_observation: Columns, **limits: float) -> Any:
    """Termination: whether any column has left its range. `{"torso.tilt.low": -0.2, "torso.tilt.high": 0.2, "torso.height.low": 0.7}`.

    A column at its limit has left. One that is NaN has not: nothing that is computed from it could be trusted.

    Raises:
        ValueError: no limits, or a name that does not end in `.low` or `.high`.
        KeyError: there is no such column.
    """
    if not limits:
        raise ValueError("outside has no limits: give parameters such as {torso.height.low: 0.7}")
    left: Any = None
    for name, limit in limits.items():
        column, _, side = name.rpartition(".")
        if side not in ("low", "high"):
            raise ValueError(f"{name!r} does not end in .low or .high")
        value = next_observation[column]
        beyond = value <= limit if side == "low" else value >= limit
        left = beyond if left is None else left | beyond
    return left
