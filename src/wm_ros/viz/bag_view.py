"""Draws what a bag holds of a contract's channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wm_ros.contract.assembler import BadMessage
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data.bag_reader import Bag
from wm_ros.data.columns import ChannelColumns
from wm_ros.data.recording import action_channel, read_recording

_MAX_POINTS = 20_000
_FRAMES = 10
"""In a strip."""


def draw(bag: Bag, contract: Contract, out: Path, namespace: str = "") -> None:
    """Writes one picture: a row per feature, commands last, over the robot's time in seconds; of a camera a strip of frames.

    Raises:
        UserError: a channel is not in the bag, or the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    recording = read_recording(bag, contract, namespace)
    action = action_channel(contract)
    strips = [(c, recording.channels[c.name]) for c in contract.observation if c.image is not None]
    rows = [
        (feature, columns.stamp, columns.raw[:, i], channel is action)
        for channel in (*contract.observation, action)
        for columns in [recording.command if channel is action else recording.channels[channel.name]]
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
        every = max(1, len(stamp) // _MAX_POINTS)
        axis.plot((stamp[::every] - start) * 1e-9, values[::every], linewidth=0.8, color="C1" if command else "C0")
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
