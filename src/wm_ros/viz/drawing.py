"""An episode as a line drawing that a browser plays: the robot's shapes seen from the side, and the plans ahead of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.schema import Contract
from wm_ros.viz.kinematics import Geometry, Kinematics
from wm_ros.viz.run_record import EpisodeRecord

Array = NDArray[np.float64]

MAX_FRAMES = 600
PLAN_POINTS = 16
DECIMALS = 3
MARGIN = 0.12
"""Free space around the robot, as a share of its reach."""


def drawing(contract: Contract, episode: EpisodeRecord) -> str:
    """A `<canvas>` with its data and its player, for a page with the theme's CSS variables.

    Args:
        contract: names the MJCF.
        episode: what to show; its plans are drawn where it has some.

    Raises:
        UserError: the contract has no MJCF.
    """
    kinematics = Kinematics(contract)
    rows = np.unique(np.linspace(0, len(episode.time) - 1, min(MAX_FRAMES, len(episode.time))).round().astype(int))
    poses = [kinematics.poses(episode.observation[row]) for row in rows]
    tips = kinematics.tracked(episode.observation[rows])
    across = across_axis(np.array([p for p, _ in poses]), tips)
    axes = (across, 2)

    still, moving = [], []
    for i, geometry in enumerate(kinematics.geometry):
        if geometry.moves:
            moving.append([side_shape(geometry, position[i], rotation[i], axes) for position, rotation in poses])
        else:
            still.append(side_shape(geometry, poses[0][0][i], poses[0][1][i], axes))
    by_tick = {plan.tick: plan.rows[:, : contract.observation_size] for plan in episode.plans}
    plans: list[list[float]] = []
    for row in rows:
        imagined = by_tick.get(int(row))
        if imagined is None:
            plans.append([])
            continue
        chosen = imagined[np.unique(np.linspace(0, len(imagined) - 1, PLAN_POINTS).round().astype(int))]
        points = kinematics.tracked(np.concatenate([episode.observation[row : row + 1], chosen]))
        plans.append(_flat(points[:, axes]) if np.isfinite(points).all() else [])
    scene = {
        "times": _flat(episode.time[rows]),
        "returns": _flat(np.concatenate([[0.0], np.cumsum(episode.reward)])[rows]),
        "view": _view(moving, tips[:, axes]),
        "still": [s for s in still if s is not None],
        "frames": [[shapes[t] for shapes in moving if shapes[t] is not None] for t in range(len(rows))],
        "tips": _flat(tips[:, axes]),
        "plans": plans,
    }
    # "</" would end the script element early.
    data = json.dumps(scene, separators=(",", ":")).replace("</", "<\\/")
    return f'<div class="player"><canvas></canvas><div class="controls"><button type="button">pause</button>\
<input type="range" min="0" max="{len(rows) - 1}" value="0" aria-label="time"><output></output></div>\
<script type="application/json">{data}</script></div><script>{PLAYER}</script>'


def across_axis(positions: Array, tips: Array) -> int:
    """The horizontal axis of the world (0 or 1) along which more happens; positions `[T, G, 3]`, tips `[T, 3]`."""
    spread = np.ptp(positions, axis=0).max(axis=0) + np.ptp(tips, axis=0)
    return 0 if spread[0] >= spread[1] else 1


def _view(moving: list[list[Any]], tips: Array) -> list[float]:
    """What must be seen: left, bottom, right, top in metres."""
    points = [tips]
    for shapes in moving:
        for shape in shapes:
            if shape is not None:
                points.append(np.array(shape["p"], dtype=float).reshape(-1, 2))
    every = np.concatenate(points)
    low, high = every.min(axis=0), every.max(axis=0)
    margin = MARGIN * float((high - low).max()) + 0.05
    return [round(float(v), DECIMALS) for v in (*(low - margin), *(high + margin))]


def side_shape(geometry: Geometry, position: Array, rotation: Array, axes: tuple[int, int]) -> dict[str, Any] | None:
    """One geom in the plane of the picture: {"k": kind, "p": flat coordinates, "r": radius, "c": color}."""
    color = "#" + "".join(f"{round(255 * min(1.0, max(0.0, c))):02x}" for c in geometry.color[:3])
    a, b, _ = geometry.size
    plane = list(axes)
    if geometry.kind == "plane":
        level = abs(rotation[2, 2]) > 0.99
        return {"k": "floor", "p": _flat(position[plane]), "r": 0, "c": color} if level else None
    if geometry.kind in ("capsule", "cylinder"):
        reach = rotation[:, 2] * b
        ends = np.array([position + reach, position - reach])[:, plane]
        if np.linalg.norm(ends[0] - ends[1]) < 1e-6:
            return {"k": "disc", "p": _flat(position[plane]), "r": round(a, DECIMALS), "c": color}
        kind = "rod" if geometry.kind == "capsule" else "bar"
        return {"k": kind, "p": _flat(ends), "r": round(a, DECIMALS), "c": color}
    if geometry.kind == "sphere":
        return {"k": "disc", "p": _flat(position[plane]), "r": round(a, DECIMALS), "c": color}
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * geometry.size
    outline = _hull((position + corners @ rotation.T)[:, plane])
    return {"k": "oval" if geometry.kind == "ellipsoid" else "block", "p": _flat(outline), "r": 0, "c": color}


def _hull(points: Array) -> Array:
    """Convex hull `[N, 2]` of points in the plane, counter-clockwise (Andrew's monotone chain)."""
    ordered = sorted({(round(float(x), 6), round(float(y), 6)) for x, y in points})

    def half(sequence: list[tuple[float, float]]) -> list[tuple[float, float]]:
        chain: list[tuple[float, float]] = []
        for point in sequence:
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-2], chain[-1]
                if (bx - ax) * (point[1] - ay) - (by - ay) * (point[0] - ax) > 0:
                    break
                chain.pop()
            chain.append(point)
        return chain[:-1]

    return np.array(half(ordered) + half(ordered[::-1]) or ordered)


def _flat(values: Array) -> list[float]:
    return [round(float(v), DECIMALS) for v in np.asarray(values).ravel()]


# Plays the scene of the element before it; a fixed step of robot time per picture, whatever the screen's rate.
PLAYER = """
(() => {
  const root = document.currentScript.previousElementSibling, canvas = root.querySelector("canvas");
  const scene = JSON.parse(root.querySelector("script").textContent), draw = canvas.getContext("2d");
  const button = root.querySelector("button"), slider = root.querySelector("input"), output = root.querySelector("output");
  const [left, bottom, right, top] = scene.view, last = scene.times.length - 1;
  let frame = 0, playing = !matchMedia("(prefers-reduced-motion: reduce)").matches, begun = null;
  const paint = () => {
    const ratio = devicePixelRatio || 1, width = canvas.clientWidth;
    const height = Math.min(width * (top - bottom) / (right - left), 420);
    const scale = Math.min(width / (right - left), height / (top - bottom));
    canvas.style.height = height + "px"; canvas.width = width * ratio; canvas.height = height * ratio;
    const X = x => (x - (left + right) / 2) * scale + width / 2, Y = y => ((bottom + top) / 2 - y) * scale + height / 2;
    const style = getComputedStyle(root), color = name => style.getPropertyValue("--" + name).trim();
    const line = (p, from, to) => { draw.beginPath(); for (let i = from; i < to; i += 2) draw.lineTo(X(p[i]), Y(p[i + 1])); };
    const shape = s => {
      draw.fillStyle = draw.strokeStyle = s.c; draw.lineJoin = "round"; draw.lineCap = s.k === "rod" ? "round" : "butt";
      if (s.k === "floor") {
        draw.strokeStyle = color("muted"); draw.lineWidth = 1; line([left - 9, s.p[1], right + 9, s.p[1]], 0, 4); draw.stroke();
      }
      else if (s.k === "rod" || s.k === "bar") { draw.lineWidth = Math.max(1.5, 2 * s.r * scale); line(s.p, 0, 4); draw.stroke(); }
      else if (s.k === "disc") { draw.beginPath(); draw.arc(X(s.p[0]), Y(s.p[1]), s.r * scale, 0, 7); draw.fill(); }
      else { draw.lineWidth = 2; line(s.p, 0, s.p.length); draw.closePath(); draw.fill(); draw.stroke(); }
    };
    draw.setTransform(ratio, 0, 0, ratio, 0, 0); draw.clearRect(0, 0, width, height);
    scene.still.forEach(shape);
    draw.lineWidth = 2; draw.lineCap = "round";
    for (let i = Math.max(1, frame - 40); i <= frame; i++) {
      draw.globalAlpha = 0.5 * (1 - (frame - i) / 40); draw.strokeStyle = color("muted");
      line(scene.tips, 2 * i - 2, 2 * i + 2); draw.stroke();
    }
    draw.globalAlpha = 1;
    scene.frames[frame].forEach(shape);
    let plan = []; for (let i = frame; i > Math.max(-1, frame - 10) && !plan.length; i--) plan = scene.plans[i];
    draw.strokeStyle = color("plan"); draw.fillStyle = color("plan"); draw.lineWidth = 2.5;
    if (plan.length) {
      line(plan, 0, plan.length); draw.stroke();
      for (let i = 0; i < plan.length; i += 2) { draw.beginPath(); draw.arc(X(plan[i]), Y(plan[i + 1]), 2.5, 0, 7); draw.fill(); }
    }
    slider.value = frame; button.textContent = playing ? "pause" : "play";
    output.textContent = scene.times[frame].toFixed(2) + " s, return " + scene.returns[frame].toFixed(1);
  };
  const step = now => {
    if (playing) {
      begun ??= now - scene.times[frame] * 1000;
      const time = (now - begun) / 1000;
      while (frame < last && scene.times[frame + 1] <= time) frame++;
      if (frame === last && time > scene.times[last] + 1.5) { frame = 0; begun = now; }
      paint();
    }
    requestAnimationFrame(step);
  };
  button.onclick = () => { playing = !playing; begun = null; paint(); };
  slider.oninput = () => { frame = +slider.value; playing = false; begun = null; paint(); };
  addEventListener("resize", paint); paint(); requestAnimationFrame(step);
})();
"""
