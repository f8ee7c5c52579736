"""How much the members of an ensemble disagree about a plan, beside what they did about recorded data, and what follows from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.schema import Contract
from wm_ros.runtime.artifact import PLAN_SPREAD
from wm_ros.runtime.calibrated_level import Level
from wm_ros.runtime.controller import ControllerOutput

PATIENCE = 3
"""Plans in a row: one in a hundred is above the level by definition, three in a row are not chance."""


def disagreement(spread: NDArray[np.float32], scale: NDArray[np.float64]) -> float:
    """Root mean square over a plan's steps and columns of the members' standard deviation `[H, O]`, in units of `scale [O]`."""
    return float(np.sqrt(np.mean((spread / scale) ** 2)))


class Watch:
    """Judges one plan after the other, and makes of a controller's output what the contract's `safety.on_disagreement` says."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.action = contract.safety.on_disagreement
        self.ratio: float | None = None
        """Disagreement of the last plan beside the calibrated level; None where the controller has no level."""
        self.above = False
        """The last few plans were all above the level; it ends when as many are all below."""
        self._level: Level | None = None
        self._scale = np.ones(contract.observation_size)
        self._run = 0

    def begin(self, level: Level | None) -> None:
        """Another controller serves from now on."""
        self._level = level
        if level is not None:
            self._scale = np.array(level.scale)
        self.reset()

    def reset(self) -> None:
        """An episode begins."""
        self.ratio, self.above, self._run = None, False, 0

    def judge(self, output: ControllerOutput, observation: NDArray[np.float32]) -> ControllerOutput:
        """The output, or what caution makes of it.

        Args:
            output: of one tick, with its plan's spread.
            observation: `[O]`, that it was computed from.
        """
        spread = output.arrays.get(PLAN_SPREAD)
        if self._level is None or spread is None or not output.ok:
            return output
        self.ratio = disagreement(spread, self._scale) / self._level.level
        self._run = self._run + 1 if (self.ratio > 1.0) != self.above else 0
        if self._run >= PATIENCE:
            self.above, self._run = not self.above, 0
        if not self.above or self.action == "report":
            return output
        if self.action == "slow":
            rest = rest_action(self.contract, observation)
            share = min(1.0, 1.0 / self.ratio)
            return replace(output, action=(rest + share * (output.action - rest)).astype(np.float32))
        return replace(output, ok=False, reason=self.reason)

    @property
    def calm(self) -> bool:
        """The last plan was not above the level, nor are plans at large."""
        return not self.above and (self.ratio is None or self.ratio <= 1.0)

    @property
    def reason(self) -> str:
        """What people are told; empty while the plans agree."""
        if not self.above:
            return ""
        done = {"report": "reported", "slow": "slowed down", "policy": "left to the policy", "hold": "hold"}[self.action]
        return f"plans disagree {self.ratio:.1f} times as much as on recorded data: {done}"


def rest_action(contract: Contract, observation: NDArray[np.float32]) -> NDArray[np.float64]:
    """The contract's hold `[A]`, as far as an observation `[O]` tells: the measured positions for `last_position`."""
    hold = contract.safety.hold
    if hold == "zero":
        return np.zeros(contract.action_size)
    if isinstance(hold, dict):
        return np.array([hold[name] for name in contract.action.names])
    column, position = 0, {}
    for feature in (f for channel in contract.observation for f in channel.features):
        if feature.field == "position" and feature.joint is not None:
            values = observation[column : column + len(feature.columns)]
            position[feature.joint] = float(values[0]) if feature.encoding == "identity" else float(np.arctan2(values[0], values[1]))
        column += len(feature.columns)
    return np.array([position[name] for name in contract.action.names])
