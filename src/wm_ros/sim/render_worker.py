"""The process that draws: poses in, pictures out. Run by `wm_ros.sim.render` with MUJOCO_GL set."""

from __future__ import annotations

import sys

import mujoco
import numpy as np


def draw(mjcf: str, poses: str, pictures: str, width: int, height: int, camera: str) -> None:
    """Draws every pose in `poses` (.npz: joint name → [T]) and writes `pictures` (.npy, [T, height, width, 3])."""
    model = mujoco.MjModel.from_xml_path(mjcf)
    data = mujoco.MjData(model)
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
    model.vis.global_.offheight = max(model.vis.global_.offheight, height)
    with np.load(poses, allow_pickle=False) as file:
        positions = {model.joint(name).qposadr[0]: file[name] for name in file.files}
    count = min(len(values) for values in positions.values())
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    with mujoco.Renderer(model, height, width) as renderer:
        for i in range(count):
            for address, values in positions.items():
                data.qpos[address] = values[i]
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera=camera or -1)
            frames[i] = renderer.render()
    np.save(pictures, frames)


if __name__ == "__main__":
    draw(*sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
