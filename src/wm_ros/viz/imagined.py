"""What a controller imagined that its cameras would show, beside what they showed then: computed anew from a bag, for the report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.data.episode import Episode
from wm_ros.runtime.artifact import IMAGINED_PREFIX
from wm_ros.runtime.controller import ControllerSession
from wm_ros.viz import charts
from wm_ros.viz.imagined_film import chosen
from wm_ros.viz.theme import Theme

MOMENTS = 3
"""Of an episode, from which the future is shown."""


@dataclass(frozen=True, eq=False)
class Moment:
    """One tick, and the future from there."""

    tick: int
    after_s: NDArray[np.floating[Any]]
    """[N], how long after the tick each frame is."""
    shown: NDArray[np.uint8]
    """[N, h, w, C], what the camera showed then."""
    imagined: NDArray[np.uint8]
    """[N, h, w, C], what the controller expected at the tick."""


def moments(session: ControllerSession, episode: Episode, channel: str, count: int = MOMENTS) -> list[Moment]:
    """Drives a controller along an episode, as it was recorded, and has it imagine on the way.

    Args:
        session: whose controller imagines the channel.
        episode: of the session's contract, with the frames of every camera that the controller looks at.
        channel: the camera.
        count: ticks to imagine at, at equal distances; fewer where the episode is short.

    Returns:
        None of an episode that ends before the first imagined frame.
    """
    period_s = session.contract.control.period_s
    stride = max(1, round((session.metadata.plan_period_s or period_s) / period_s))
    last = len(episode) - stride
    if last < 0:
        return []
    ticks = set(np.linspace(0, last, count + 1).astype(int)[:count].tolist())
    found = []
    frames = {name: iter(episode.images[name]) for name in session.cameras}
    session.reset(0)
    for tick in range(max(ticks) + 1):
        session.act(episode.observation[tick], {name: next(pictures) for name, pictures in frames.items()})
        if tick in ticks:
            imagined = session.imagine(session.inputs())[IMAGINED_PREFIX + channel]
            there = imagined[: (len(episode) - tick) // stride]
            rows = chosen(len(there))
            at = tick + stride * (rows + 1)
            found.append(Moment(tick, (rows + 1) * stride * period_s, np.asarray(episode.images[channel][at]), there[rows]))
        session.prepare()
    return found


def picture(found: Sequence[Moment], period_s: float, theme: Theme, width_in: float) -> bytes:
    """The moments below each other as PNG: what the camera showed, and under it what was imagined.

    Args:
        found: at least one.
        period_s: of control.
        theme: colours of the text.
        width_in: of the picture, in inches.
    """
    columns = max(len(moment.after_s) for moment in found)
    with charts.styled(theme):
        figure = charts.new_figure(width_in, 0.2 + len(found) * (0.35 + 2.0 * (width_in - 0.8) / max(columns, 4)), theme)
        axes: Any = figure.subplots(2 * len(found), columns, squeeze=False)
        for row, moment in enumerate(found):
            for line, frames in enumerate((moment.shown, moment.imagined)):
                for column in range(columns):
                    panel = axes[2 * row + line, column]
                    panel.set_axis_off()
                    if column < len(frames):
                        _draw(panel, frames[column])
                label = (f"{moment.tick * period_s:.2f} s\ncamera", "imagined")[line]
                axes[2 * row + line, 0].text(-0.08, 0.5, label, transform=axes[2 * row + line, 0].transAxes, ha="right", va="center")
            for column, after in enumerate(moment.after_s):
                axes[2 * row, column].set_title(f"+{after:.2f} s", fontsize=8, color=theme.muted, pad=2)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def _draw(panel: Any, frame: NDArray[np.uint8]) -> None:
    grey = frame.shape[-1] == 1
    panel.imshow(frame[..., 0] if grey else frame, cmap="gray" if grey else None, vmin=0, vmax=255, interpolation="nearest")
