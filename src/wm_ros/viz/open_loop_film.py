"""Recorded pictures beside those that a model imagines open loop: as a film, and as a strip on paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wm_ros.viz import charts
from wm_ros.viz.theme import LIGHT
from wm_ros.viz.video import pack

LEAST_HEIGHT = 96
"""Pixels of one picture of the film; smaller ones are enlarged by a whole factor."""
SLOWEST_MS, FASTEST_MS = 200, 40
"""Between frames of the film, so that eyes can follow."""
GAP = 4
SEEING, IMAGINING = (150, 150, 150), (230, 120, 20)
"""Colours of the gaps while the model sees, and while it imagines."""
MOMENTS = 8
"""Pictures in the strip."""
_DPI = 130
_ROWS = ("recorded", "imagined", "difference")


def write_film(
    recorded: NDArray[np.uint8], imagined: NDArray[np.uint8], seen: int, camera: str, folder: Path, period_s: float
) -> list[Path]:
    """Writes `open_loop_CAMERA.webp` (`.gif` where there is no WebP) and `open_loop_CAMERA.png`.

    Args:
        recorded: [T, N, h, w, C] of N starts, C being 1 (grey) or 3 (RGB).
        imagined: the same shape.
        seen: the first so many of the T are seen, the others imagined.
        camera: its name.
        folder: exists.
        period_s: between two of the T.
    """
    frames = np.stack([_frame(*pair, t < seen) for t, pair in enumerate(zip(recorded, imagined, strict=True))])
    data, mime = pack(frames, int(np.clip(1000 * period_s, FASTEST_MS, SLOWEST_MS)))
    film = folder / f"open_loop_{camera}.{mime.removeprefix('image/')}"
    film.write_bytes(data)
    return [film, _strip(recorded[:, 0], imagined[:, 0], seen, folder / f"open_loop_{camera}.png", period_s)]


def difference(recorded: NDArray[np.uint8], imagined: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey where they are equal."""
    apart = imagined.astype(np.int16) - recorded.astype(np.int16)
    return np.asarray(apart // 2 + 128, np.uint8)


def _frame(recorded: NDArray[np.uint8], imagined: NDArray[np.uint8], sees: bool) -> NDArray[np.uint8]:
    """Starts side by side; recorded, imagined and difference one below the other."""
    scale = -(-LEAST_HEIGHT // recorded.shape[1])
    rows: list[NDArray[np.uint8]] = []
    for pictures in (recorded, imagined, difference(recorded, imagined)):
        side_by_side = np.concatenate(list(np.broadcast_to(pictures, (*pictures.shape[:3], 3))), axis=1)
        shown = side_by_side.repeat(scale, axis=0).repeat(scale, axis=1)
        gap = np.broadcast_to(np.array(SEEING if sees else IMAGINING, np.uint8), (GAP, shown.shape[1], 3))
        rows += [gap, shown]
    return np.concatenate(rows, axis=0)


def _strip(recorded: NDArray[np.uint8], imagined: NDArray[np.uint8], seen: int, path: Path, period_s: float) -> Path:
    """One start: moments from left to right."""
    chosen = np.unique(np.linspace(seen - 1, len(recorded) - 1, MOMENTS).round().astype(int))
    with charts.styled(LIGHT):
        figure = charts.new_figure(1.25 * len(chosen) + 0.4, 4.2, LIGHT)
        panels = figure.subplots(len(_ROWS), len(chosen), squeeze=False)
        for row, (name, pictures) in enumerate(zip(_ROWS, (recorded, imagined, difference(recorded, imagined)), strict=True)):
            for axes, t in zip(panels[row], chosen, strict=True):
                axes.imshow(np.broadcast_to(pictures[t], (*pictures[t].shape[:2], 3)), interpolation="nearest")
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(visible=False)
                if row == 0:
                    axes.set_title("last seen" if t == seen - 1 else f"+{(t - seen + 1) * period_s:.2f} s")
            panels[row, 0].set_ylabel(name)
        figure.savefig(path, dpi=_DPI, facecolor="white")
    return path
