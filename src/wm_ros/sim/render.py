"""Pictures of a simulated robot without a screen, drawn by a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.sim.mjcf import find_mjcf, load_model

BACKENDS = ("egl", "osmesa")
"""Ways to OpenGL without a screen, best first: a GPU's or Mesa's EGL, then Mesa's software renderer."""


def environment(backend: str) -> dict[str, str]:
    """Environment variables for a child process that draws with `backend`."""
    # PYOPENGL_PLATFORM would win over MUJOCO_GL.
    return {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"} | {"MUJOCO_GL": backend}


def remedy(mjcf: Path, reasons: list[str]) -> UserError:
    """What to say where no backend draws."""
    return UserError(f"no pictures of {mjcf.name}: {'; '.join(reasons)}: install libegl1 with Mesa (or a GPU driver), or libosmesa6")


def check_camera(contract: Contract, beside: Path | None = None, channel: str | None = None) -> tuple[Path, Any, str]:
    """The contract's MJCF, its model, and a camera of it (empty for MuJoCo's free camera).

    Args:
        contract: names the MJCF and its cameras.
        beside: the contract's folder.
        channel: the image channel that the camera stands in for; None for the camera whose pictures are for people.

    Raises:
        UserError: there is no such file, or no such camera in it.
    """
    mjcf = find_mjcf(contract, beside)
    settings, model = load_model(contract, beside)
    cameras = [model.camera(i).name for i in range(model.ncam)]
    there = ", ".join(cameras) or "none"
    if channel is not None and channel not in settings.cameras:
        raise UserError(
            f"contract {contract.name}: simulator.cameras: nothing stands in for the camera observation.{channel}: "
            f"add {channel}: {{camera: NAME}} with a camera of {mjcf.name}; it has {there}"
        )
    field = "camera" if channel is None else f"cameras.{channel}.camera"
    name = settings.camera if channel is None else settings.cameras[channel].camera
    if name is not None and name not in cameras:
        raise UserError(f"contract {contract.name}: simulator.{field}: {mjcf} has no camera {name!r}; it has {there}")
    return mjcf, model, name or ""


def render_frames(
    contract: Contract,
    positions: Mapping[str, NDArray[Any]],
    *,
    beside: Path | None = None,
    width: int = 480,
    height: int = 320,
    timeout_s: float = 120.0,
) -> NDArray[np.uint8]:
    """Draws one picture per pose, seen by the contract's camera.

    A GL driver can end the whole process, and MuJoCo chooses its GL library once at import; so a child process draws.

    Args:
        contract: names the MJCF and the camera.
        positions: MuJoCo joint name → [T] positions, m or rad; joints not named stay at the model's default.
        beside: the contract's folder.
        width: of a picture, in pixels.
        height: of a picture, in pixels.
        timeout_s: for all pictures together.

    Returns:
        [T, height, width, 3], RGB.

    Raises:
        UserError: no GL library works here, or the model cannot be drawn; callers go on without pictures.
    """
    mjcf, model, camera = check_camera(contract, beside)
    joints = [model.joint(i).name for i in range(model.njnt)]
    unknown = sorted(set(positions) - set(joints))
    if unknown:
        raise UserError(f"{mjcf}: no joint {', '.join(unknown)} to draw; it has {', '.join(joints)}")
    reasons: list[str] = []
    with tempfile.TemporaryDirectory(prefix="wm_ros_render_") as folder:
        poses, pictures = Path(folder) / "poses.npz", Path(folder) / "pictures.npy"
        np.savez(poses, names=np.array(list(positions)), positions=np.stack([np.asarray(v, dtype=np.float64) for v in positions.values()]))
        arguments = [str(mjcf), str(width), str(height), camera, str(poses), str(pictures)]
        command = [sys.executable, "-m", "wm_ros.sim.render_worker", *arguments]
        for backend in BACKENDS:
            try:
                done = subprocess.run(command, env=environment(backend), capture_output=True, text=True, timeout=timeout_s, check=False)
            except subprocess.TimeoutExpired:
                reasons.append(f"{backend}: not done after {timeout_s:g} s")
                continue
            if done.returncode == 0:
                return np.load(pictures, allow_pickle=False)  # type: ignore[no-any-return]
            lines = done.stderr.strip().splitlines()
            reasons.append(f"{backend}: {lines[-1].strip() if lines else f'status {done.returncode}'}")
    raise remedy(mjcf, reasons)
