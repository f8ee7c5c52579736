"""Rewards and terminations as they were recorded, for contracts that have no function for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Channel, Contract, Feature
from wm_ros.data.bag_reader import Bag
from wm_ros.data.columns import ColumnDecoder

TOPIC = "step"
_TYPE = "std_msgs/msg/Float64MultiArray"
_COLUMNS = ("stamp_s", "reward", "terminated")
"""The first of what the topic carries."""


@dataclass(frozen=True, eq=False)
class RecordedSteps:
    """One row per control tick that somebody judged."""

    stamp: NDArray[np.int64]
    """`[N]`, robot time of the tick in nanoseconds, rising."""
    reward: NDArray[np.float64]
    """`[N]`"""
    terminated: NDArray[np.bool_]
    """`[N]`"""

    def at(self, tick: NDArray[np.int64], period_ns: int) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Reward, termination and whether there is a row within half a period, `[K]` each, for the ticks `[K]`; of several the last."""
        if not len(self.stamp):
            return np.zeros(len(tick)), np.zeros(len(tick), np.bool_), np.zeros(len(tick), np.bool_)
        row = np.searchsorted(self.stamp, tick + period_ns // 2, side="left") - 1
        chosen = row.clip(0)
        known = (row >= 0) & (tick - self.stamp[chosen] <= period_ns // 2)
        return np.where(known, self.reward[chosen], 0.0), self.terminated[chosen] & known, known


def read(bag: Bag, contract: Contract, namespace: str = "") -> RecordedSteps | None:
    """What was recorded on the topic `step`; None for a contract with functions for both, which needs nothing recorded.

    Raises:
        UserError: the contract says `learned`, and the bag has no such topic, or no usable message on it.
    """
    learned = [name for name, part in (("reward", contract.reward), ("termination", contract.termination)) if part and part.learned]
    if not learned:
        return None
    what = f"the contract's {' and '.join(learned)} {'is' if len(learned) == 1 else 'are'} learned"
    topic = bag.resolve(TOPIC, namespace)
    if topic is None or bag.connections[topic].type != _TYPE:
        raise UserError(f"{bag.path}: no topic {TOPIC} of type {_TYPE}, and {what}: record it, or name a function in the contract")
    features = tuple(Feature(field="data", index=i, units=name) for i, name in enumerate(_COLUMNS))
    channel = Channel(name=TOPIC, topic=TOPIC, type=_TYPE, max_age_s=1.0, clock="receive", features=features)
    decoder = ColumnDecoder(channel, _TYPE, bag.store())
    for block in bag.blocks():
        for key, connection in block.connections.items():
            if connection.topic == topic:
                decoder.add(block, np.flatnonzero(block.channel == key))
    raw = decoder.columns().raw
    if not len(raw):
        raise UserError(f"{bag.path}: no usable message on {topic}, and {what}: its data are {', '.join(_COLUMNS)}, all finite")
    stamp = np.rint(raw[:, 0].clip(-9e9, 9e9) * 1e9).astype(np.int64)
    order = np.argsort(stamp, kind="stable")
    return RecordedSteps(stamp[order], raw[order, 1], raw[order, 2] > 0.5)
