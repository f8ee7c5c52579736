"""The process that draws: poses in, pictures out. Run by `sim.render` and `sim.camera` with MUJOCO_GL set."""

from __future__ import annotations

import signal
import sys
from typing import Any

import mujoco
import numpy as np


def _load(mjcf: str, width: int, height: int) -> Any:
    model = mujoco.MjModel.from_xml_path(mjcf)
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
    model.vis.global_.offheight = max(model.vis.global_.offheight, height)
    return model


def draw(mjcf: str, width: int, height: int, camera: str, poses: str, pictures: str) -> None:
    """Draws the poses in a file (.npz: names [J], positions [J, T]) and writes the pictures (.npy, [T, height, width, 3])."""
    model = _load(mjcf, width, height)
    data = mujoco.MjData(model)
    with np.load(poses, allow_pickle=False) as file:
        addresses, positions = [model.joint(str(name)).qposadr[0] for name in file["names"]], file["positions"]
    frames = np.empty((positions.shape[1], height, width, 3), dtype=np.uint8)
    with mujoco.Renderer(model, height, width) as renderer:
        for i in range(len(frames)):
            data.qpos[addresses] = positions[:, i]
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera=camera or -1)
            renderer.render(out=frames[i])
    np.save(pictures, frames)


def stream(mjcf: str, width: int, height: int, camera: str) -> None:
    """Answers each pose on stdin (float64 [nq]) with a picture on stdout (uint8 [height, width, 3]), until stdin ends."""
    # Ctrl-C is for the parent; its end, of whatever kind, closes stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    model = _load(mjcf, width, height)
    data = mujoco.MjData(model)
    with mujoco.Renderer(model, height, width) as renderer:
        while len(pose := sys.stdin.buffer.read(8 * model.nq)) == 8 * model.nq:
            data.qpos[:] = np.frombuffer(pose)
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera=camera or -1)
            sys.stdout.buffer.write(renderer.render().tobytes())
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    source, wide, high, eye, *files = sys.argv[1:]
    if files:
        draw(source, int(wide), int(high), eye, *files)
    else:
        stream(source, int(wide), int(high), eye)
