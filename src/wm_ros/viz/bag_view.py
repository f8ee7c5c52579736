"""Draws what a bag holds of a contract's channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data.bag_reader import Bag
from wm_ros.data.recording import action_channel, read_recording

_MAX_POINTS = 20_000


def draw(bag: Bag, contract: Contract, out: Path, namespace: str = "") -> None:
    """Writes one picture: a row per feature, commands last, over the robot's time in seconds.

    Raises:
        UserError: a channel is not in the bag, or the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    recording = read_recording(bag, contract, namespace)
    action = action_channel(contract)
    rows = [
        (feature, columns.stamp, columns.raw[:, i], channel is action)
        for channel in (*contract.observation, action)
        for columns in [recording.command if channel is action else recording.channels[channel.name]]
        for i, feature in enumerate(channel.features)
    ]
    start = min((int(stamp[0]) for _, stamp, _, _ in rows if len(stamp)), default=0)
    figure = Figure(figsize=(10, 1.2 + 1.3 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (feature, stamp, values, command) in zip(axes, rows, strict=True):
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
