"""An episode at one glance: the robot at a dozen moments side by side, as a film strip."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.patches import Circle, Polygon
from numpy.typing import NDArray

from wm_ros.contract.schema import Contract
from wm_ros.viz.drawing import across_axis, side_shape
from wm_ros.viz.kinematics import Kinematics
from wm_ros.viz.run_record import EpisodeRecord
from wm_ros.viz.theme import Theme

MOMENTS = 12
UP = 2
"""The world's vertical axis."""


def draw_strip(axes: Any, contract: Contract, episode: EpisodeRecord, theme: Theme) -> None:
    """Draws the moving parts of the robot at moments of equal distance, each centered, and the plan of that moment.

    Raises:
        UserError: the contract has no MJCF.
    """
    kinematics = Kinematics(contract)
    rows = np.linspace(0, len(episode.time) - 1, MOMENTS).round().astype(int)
    observation = episode.observation[rows]
    poses = [kinematics.poses(o) for o in observation]
    tips = kinematics.tracked(observation)
    across = across_axis(np.array([p for p, _ in poses]), tips)
    plane = (across, UP)
    shapes = [
        [side_shape(g, p, r, plane) for g, p, r in zip(kinematics.geometry, positions, rotations, strict=True) if g.moves]
        for positions, rotations in poses
    ]
    points = [np.concatenate([np.reshape(s["p"], (-1, 2)) for s in moment if s is not None]) for moment in shapes]
    # Every picture stands on the robot's own base: the first body that moves.
    first = next(i for i, g in enumerate(kinematics.geometry) if g.moves)
    bases = np.array([positions[first][list(plane)] for positions, _ in poses])
    reach = max(float(np.abs(p - base).max()) for p, base in zip(points, bases, strict=True)) * 1.12
    pitch = 2.0 * reach
    plans = {plan.tick: plan.rows[:, : contract.observation_size] for plan in episode.plans}
    for slot, (row, moment, base) in enumerate(zip(rows, shapes, bases, strict=True)):
        origin = base - [slot * pitch, 0.0]
        for shape in moment:
            if shape is not None:
                _draw(axes, shape, origin)
        imagined = next((plans[t] for t in range(int(row), max(-1, int(row) - 10), -1) if t in plans), None)
        if imagined is not None:
            way = kinematics.tracked(np.concatenate([episode.observation[row : row + 1], imagined]))[:, plane] - origin
            inside = np.abs(way - [slot * pitch, 0.0]).max(axis=1) <= reach
            axes.plot(*np.where(inside[:, None], way, np.nan).T, color=theme.plan, lw=1.2, alpha=0.9)
        axes.text(slot * pitch, -reach, f"{episode.time[row]:.1f} s", ha="center", va="top", fontsize=8, color=theme.muted)
    axes.set_aspect("equal")
    axes.set_xlim(-reach, MOMENTS * pitch - reach)
    axes.set_ylim(-1.15 * reach, reach)
    axes.axis("off")


def _draw(axes: Any, shape: dict[str, Any], origin: NDArray[np.float64]) -> None:
    points = np.reshape(shape["p"], (-1, 2)) - origin
    color, radius = shape["c"], shape["r"]
    if shape["k"] in ("rod", "bar"):
        along = points[1] - points[0]
        side = radius * np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-9)
        axes.add_patch(Polygon([points[0] + side, points[1] + side, points[1] - side, points[0] - side], facecolor=color, lw=0))
    if shape["k"] in ("rod", "disc"):
        for point in points:
            axes.add_patch(Circle(point, radius, facecolor=color, lw=0))
    if shape["k"] in ("block", "oval"):
        axes.add_patch(Polygon(points, facecolor=color, lw=0))
