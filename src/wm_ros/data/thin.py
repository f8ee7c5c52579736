"""Reads of a long bag only the messages that a tick can ask for: memory is bounded by the episodes in it, not by its length.

The first pass learns the times: how the clocks run, where episodes begin and end. So the second one knows every tick before it comes to the
messages around it, and keeps those that `policy.sample` would choose. What comes out gives the same episodes as the whole columns, bit for
bit, and has one message per tick and channel (`hold`), or three (`nearest`, `linear`). In the first pass a command costs 16 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.schema import Contract
from wm_ros.data.bag_reader import Bag
from wm_ros.data.columns import ChannelColumns, ColumnDecoder
from wm_ros.data.policy import Policy
from wm_ros.data.recording import (
    CLOCK_JUMP_NS,
    Clocks,
    Recording,
    action_channel,
    decode,
    find_channels,
    offset_ns,
    read_recording,
    receive_channels,
    tolerances,
)

WHOLE_BYTES = 32 << 20
"""Columns that are smaller than this are read in one pass and kept."""
_NS = 1_000_000_000


class Stretch(Protocol):
    """A stretch of the robot's time with ticks from its start on."""

    @property
    def start_ns(self) -> int: ...

    @property
    def end_ns(self) -> int: ...


class _Disorder(Exception):
    """Messages do not stand in the order of reception, so nothing can be decided before all are read."""


def read(bag: Bag, contract: Contract, namespace: str, spans_of: Callable[[Recording], Sequence[Stretch]], whole_bytes: int) -> Recording:
    """The columns of a bag, as far as its episodes need them.

    Args:
        bag: what to read.
        contract: names the channels.
        namespace: of the robot's topics in the bag.
        spans_of: gives the stretches that are cut into episodes; of every channel it sees only the ends, and no values.
        whole_bytes: smaller columns are read whole.

    Raises:
        UserError: a topic is not in the bag or has another type.
    """
    if column_bytes(bag, contract, namespace) <= whole_bytes:
        return read_recording(bag, contract, namespace)
    try:
        return _read(bag, contract, namespace, spans_of)
    except _Disorder:
        return read_recording(bag, contract, namespace)


def column_bytes(bag: Bag, contract: Contract, namespace: str) -> int:
    """How much memory the columns of a bag take whole, by the numbers of messages that it says it has."""
    topics, counts = find_channels(bag, contract, namespace).topics, bag.counts
    channels = {c.name: len(c.features) for c in (*contract.observation, action_channel(contract))}
    return sum(counts.get(topic, 0) * (8 * channels[name] + 16) for name, topic in topics.items())


def _read(bag: Bag, contract: Contract, namespace: str, spans_of: Callable[[Recording], Sequence[Stretch]]) -> Recording:
    outlines = {c.name: _Outline(len(c.features)) for c in contract.observation}
    outlines["action"] = _Outline(contract.action_size, every=True)
    first = decode(bag, contract, namespace, on_columns=lambda name, decoder: outlines[name].add(decoder.columns()))
    clocks = {name: outline.clocks for name, outline in outlines.items()}
    offset = offset_ns(contract, clocks)
    received = receive_channels(contract)

    def on_robot_time(name: str, columns: ChannelColumns) -> ChannelColumns:
        return replace(columns, stamp=columns.received - offset) if name in received else columns

    times = {name: on_robot_time(name, outline.columns()) for name, outline in outlines.items()}
    tolerance = tolerances(contract, clocks)
    command_times = times.pop("action")
    spans = spans_of(Recording(times, command_times, first.states, first.provenance, tolerance))
    period = contract.control.period_ns
    ticks = _Ticks(np.array([s.start_ns for s in spans], np.int64), np.array([s.end_ns for s in spans], np.int64), period)
    sieves = {c.name: _Sieve(len(c.features), ticks, c.align, tolerance[c.name], round(c.max_age_s * _NS)) for c in contract.observation}
    held = max(round(contract.safety.command_timeout_s * _NS), period)
    sieves["action"] = _Sieve(contract.action_size, ticks, "hold", (period - 1) // 2, held)

    def take(name: str, decoder: ColumnDecoder) -> None:
        # Of pictures only the places are kept, of all: a damaged one is replaced by the one before it.
        if name not in contract.images:
            sieves[name].add(on_robot_time(name, decoder.columns()))

    second = decode(bag, contract, namespace, on_columns=take)
    columns = {}
    for name, decoder in second.decoders.items():
        rest = decoder.columns()
        if name in contract.images:
            columns[name] = on_robot_time(name, rest)
            continue
        columns[name] = replace(sieves[name].columns(), refused=rest.refused, example=rest.example)
    command = columns.pop("action")
    return Recording(columns, command, second.states, second.provenance, tolerance)


class _Rising:
    """The messages of a channel that alignment looks at: stamps that rise, in lives that end where the clock is set back."""

    def __init__(self) -> None:
        self._newest: int | None = None
        self._received = -(1 << 63)

    def split(self, columns: ChannelColumns) -> Iterator[tuple[bool, NDArray[np.int64]]]:
        """(whether a new life begins, rows) of the next messages."""
        stamp, received = columns.stamp, columns.received
        if len(received):
            if received[0] < self._received or (np.diff(received) < 0).any():
                raise _Disorder
            self._received = int(received[-1])
        begin = 0
        while begin < len(stamp):
            part = stamp[begin:]
            newest = np.maximum.accumulate(part)
            begins = self._newest is None
            if self._newest is not None:
                newest = np.maximum(newest, self._newest)
            jumps = np.flatnonzero(newest - part > CLOCK_JUMP_NS)
            count = int(jumps[0]) if len(jumps) else len(part)
            if count:
                yield begins, np.flatnonzero(part[:count] == newest[:count]) + begin
                self._newest = int(newest[count - 1])
            if len(jumps):
                self._newest = None
            begin += count


class _Outline:
    """The first and the last message of each life of a channel's clock, or every one's time."""

    def __init__(self, features: int, *, every: bool = False) -> None:
        self.clocks = Clocks()
        self._features = features
        self._every = every
        self._rising = _Rising()
        self._times: list[NDArray[np.int64]] = []
        self._last: NDArray[np.int64] | None = None

    def add(self, columns: ChannelColumns) -> None:
        self.clocks.add(columns.stamp, columns.received)
        for begins, rows in self._rising.split(columns):
            if not len(rows):
                continue
            times = np.stack([columns.stamp[rows], columns.received[rows]], axis=1)
            if self._every:
                self._times.append(times)
                continue
            if begins:
                self._end()
                self._times.append(times[:1])
            self._last = times[-1:]

    def _end(self) -> None:
        if self._last is not None:
            self._times.append(self._last)

    def columns(self) -> ChannelColumns:
        """Times without values."""
        self._end()
        times = np.concatenate(self._times) if self._times else np.zeros((0, 2), np.int64)
        nothing = np.broadcast_to(np.float64(0.0), (len(times), self._features))
        return ChannelColumns(nothing, times[:, 0], times[:, 1], {})


@dataclass(frozen=True, eq=False)
class _Ticks:
    """The ticks of all stretches: from `start` [S] by `period` to `end` [S]."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    period: int


class _Rows:
    """Messages in arrays that grow in place: joining many pieces at the end would take them twice."""

    def __init__(self, features: int) -> None:
        self._raw, self._stamp, self._received = np.empty((0, features)), np.empty(0, np.int64), np.empty(0, np.int64)
        self._count = 0

    def add(self, raw: NDArray[np.float64], stamp: NDArray[np.int64], received: NDArray[np.int64]) -> None:
        end = self._count + len(stamp)
        for values, new in ((self._raw, raw), (self._stamp, stamp), (self._received, received)):
            if end > len(values):
                values.resize((end + end // 8 + 1024, *values.shape[1:]), refcheck=False)
            values[self._count : end] = new
        self._count = end

    def columns(self) -> ChannelColumns:
        here = slice(self._count)
        return ChannelColumns(self._raw[here], self._stamp[here], self._received[here], {})


class _Sieve:
    """Keeps a channel's messages that some tick's sample is made of, and what marks the ends of a life or a stretch."""

    def __init__(self, features: int, ticks: _Ticks, policy: Policy, tolerance_ns: int, margin_ns: int) -> None:
        self._ticks = ticks
        self._hold = policy == "hold"
        self._tolerance = tolerance_ns
        self._margin = margin_ns
        self._rising = _Rising()
        self._waiting: tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]] | None = None
        """The newest message: whether it is kept depends on the next one."""
        self._before: int | None = None
        """Stamp of the one before it in its life."""
        self._kept = _Rows(features)

    def add(self, columns: ChannelColumns) -> None:
        for begins, rows in self._rising.split(columns):
            if not len(rows):
                continue
            if begins:
                self._end()
            raw, stamp, received = columns.raw[rows], columns.stamp[rows], columns.received[rows]
            if self._waiting is not None:
                raw, stamp, received = (np.concatenate(pair) for pair in zip(self._waiting, (raw, stamp, received), strict=True))
            keep = np.flatnonzero(self._wanted(stamp))
            self._kept.add(raw[keep], stamp[keep], received[keep])
            if len(stamp) > 1:
                self._before = int(stamp[-2])
            # Copies: a view would keep the whole block.
            self._waiting = raw[-1:].copy(), stamp[-1:].copy(), received[-1:].copy()

    def _end(self) -> None:
        if self._waiting is not None:
            self._kept.add(*self._waiting)
        self._waiting, self._before = None, None

    def columns(self) -> ChannelColumns:
        """What was kept."""
        self._end()
        return self._kept.columns()

    def _wanted(self, stamp: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the messages [N] but the last are wanted: [N-1]."""
        here, after = stamp[:-1], stamp[1:]
        wanted = np.zeros(len(here), np.bool_)
        if not len(here):
            return wanted
        before = np.concatenate([here[:1] if self._before is None else [self._before], here[:-1]])
        wanted[0] = self._before is None
        ticks, period = self._ticks, self._ticks.period
        reach = self._margin + 2 * period
        for i in np.flatnonzero((ticks.start - reach <= here[-1]) & (ticks.end + reach >= here[0])).tolist():
            start, end = int(ticks.start[i]), int(ticks.end[i])

            def cell(of: NDArray[np.int64], start: int = start) -> Any:
                # Numbers of the tick that is the first at or after each stamp.
                return (of - start + (self._ticks.period - 1)) // self._ticks.period

            if self._hold:
                chosen = cell(here - self._tolerance) != cell(after - self._tolerance)
            else:
                numbers = cell(here)
                chosen = (numbers != cell(after)) | (numbers != cell(before)) | ((here == before) & (here != after))
            # Near the ends of a stretch all are kept: whether a life has a part in it is decided by any message there.
            chosen |= (np.abs(here - start) <= period) | (np.abs(here - (end + self._margin)) <= 2 * period)
            wanted |= chosen & (here >= start - reach) & (here <= end + reach)
        return wanted
