"""Draws what a bag holds of a contract's channels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wm_ros.contract.assembler import BadMessage
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data.bag_reader import Bag
from wm_ros.data.columns import ChannelColumns
from wm_ros.data.images import Images
from wm_ros.data.recording import Clocks, action_channel, decode, offset_ns, receive_channels

_MAX_POINTS = 20_000
"""Of one feature: a picture has fewer columns, and memory does not grow with the bag."""
_FRAMES = 10
"""In a strip."""


def draw(bag: Bag, contract: Contract, out: Path, namespace: str = "") -> None:
    """Writes one picture: a row per feature, commands last, over the robot's time in seconds; of a camera a strip of frames.

    Raises:
        UserError: a channel is not in the bag, or the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    action = action_channel(contract)
    samples = _samples(bag, contract, namespace)
    strips = [(c, samples[c.name]) for c in contract.observation if c.image is not None]
    rows = [
        (feature, samples[channel.name].stamp, samples[channel.name].raw[:, i], channel is action)
        for channel in (*contract.observation, action)
        for i, feature in enumerate(channel.features)
    ]
    heard = [stamp for stamp in (*(r[1] for r in rows), *(columns.stamp for _, columns in strips)) if len(stamp)]
    start, end = (min(int(s[0]) for s in heard), max(int(s[-1]) for s in heard)) if heard else (0, 0)
    figure = Figure(figsize=(10, 1.2 + 1.3 * (len(strips) + len(rows))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(strips) + len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (channel, columns) in zip(axes, strips, strict=False):
        _strip(axis, columns, start, max((end - start) * 1e-9, 1e-3))
        axis.set_ylabel(channel.name, fontsize=8)
    for axis, (feature, stamp, values, command) in zip(axes[len(strips) :], rows, strict=True):
        axis.plot((stamp - start) * 1e-9, values, linewidth=0.8, color="C1" if command else "C0")
        for limit in (feature.low, feature.high):
            if limit is not None and len(values) and np.abs(values).max() > 0.5 * abs(limit):
                axis.axhline(limit, color="0.6", linewidth=0.6)
        axis.set_ylabel(f"{feature.name}\n[{feature.units}]", fontsize=8)
    axes[-1].set_xlabel("s")
    figure.suptitle(str(bag.path), fontsize=9)
    try:
        figure.savefig(out)
    except (OSError, ValueError) as error:
        raise UserError(f"{out}: the picture cannot be written: {error}: give another path that ends in .png, .svg or .pdf") from None


def _samples(bag: Bag, contract: Contract, namespace: str) -> dict[str, ChannelColumns]:
    """Channel name → at most `_MAX_POINTS` of its messages and the last one, on the robot's time; of a camera all places of frames."""
    kept = {c.name: _Kept(len(c.features)) for c in (*contract.observation, action_channel(contract))}
    decode(bag, contract, namespace, on_columns=lambda name, decoder: kept[name].add(decoder.columns()))
    offset = offset_ns(contract, {name: samples.clocks for name, samples in kept.items()})
    received = receive_channels(contract)
    columns = {name: samples.columns() for name, samples in kept.items()}
    return {n: replace(c, stamp=c.received - offset) if n in received else c for n, c in columns.items()}


class _Kept:
    """Every message of a channel, or every 2nd, 4th, … where there are many."""

    def __init__(self, features: int) -> None:
        self._features = features
        self.clocks = Clocks()
        self._pieces: list[ChannelColumns] = []
        self._last: ChannelColumns | None = None
        self._seen = self._held = 0
        self._step = 1

    def add(self, columns: ChannelColumns) -> None:
        self.clocks.add(columns.stamp, columns.received)
        if columns.images is not None:
            self._pieces.append(columns)
            return
        if not len(columns):
            return
        # Copies: a slice would keep the whole block.
        self._pieces.append(columns.take(np.arange(-self._seen % self._step, len(columns), self._step)))
        self._last = columns.take(np.array([len(columns) - 1]))
        self._seen += len(columns)
        self._held += len(self._pieces[-1])
        while self._held > _MAX_POINTS:
            whole = _joined(self._pieces)
            self._pieces = [whole.take(np.arange(0, len(whole), 2))]
            self._held, self._step = len(self._pieces[0]), 2 * self._step

    def columns(self) -> ChannelColumns:
        """What was kept, in the order of reception."""
        pieces = self._pieces + ([self._last] if self._last is not None and (self._seen - 1) % self._step else [])
        if not pieces:
            return ChannelColumns(np.zeros((0, self._features)), np.zeros(0, np.int64), np.zeros(0, np.int64), {})
        whole = _joined(pieces)
        return whole.take(np.argsort(whole.received, kind="stable"))


def _joined(pieces: list[ChannelColumns]) -> ChannelColumns:
    images = pieces[-1].images
    if images is not None:
        images = Images(images.store, np.concatenate([p.images.where for p in pieces if p.images is not None]), images.seen)
    raw, stamp, received = (np.concatenate([getattr(p, name) for p in pieces]) for name in ("raw", "stamp", "received"))
    return replace(pieces[-1], raw=raw, stamp=stamp, received=received, images=images)


def _strip(axis: Any, columns: ChannelColumns, start: int, seconds: float) -> None:
    """Frames at equal times, each from the moment it was taken on; damaged ones are left out."""
    axis.set_yticks([])
    axis.set_ylim(0.0, 1.0)
    if columns.images is None or not len(columns):
        return
    width = seconds / _FRAMES
    due = start + (np.arange(_FRAMES) * width * 1e9).astype(np.int64)
    # The last frame at or before each time, or the first one there is.
    stamp = np.maximum.accumulate(columns.stamp)
    shown = np.unique((np.searchsorted(stamp, due, side="right") - 1).clip(0))
    for at, frame in zip(columns.stamp[shown].tolist(), columns.images.store.decode_all(columns.images.where[shown]), strict=True):
        if not isinstance(frame, BadMessage):
            left = (at - start) * 1e-9
            axis.imshow(frame, extent=(left, left + 0.96 * width, 0.0, 1.0), aspect="auto", cmap="gray", vmin=0, vmax=255)
    axis.set_xlim(0.0, seconds)
