"""An episode as a film: rendered by MuJoCo, packed into one animated WebP."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.sim.render import render_frames
from wm_ros.viz.kinematics import Kinematics
from wm_ros.viz.run_record import EpisodeRecord

WIDTH, HEIGHT = 560, 320
FRAMES_PER_S = 25
MAX_FRAMES = 400
"""16 s; longer episodes are shown faster."""
MAX_BYTES = 3_000_000
TIMEOUT_S = 90.0

Render = Callable[..., NDArray[np.uint8]]


def film(contract: Contract, episode: EpisodeRecord, render: Render = render_frames) -> tuple[bytes, str, float]:
    """Renders an episode.

    Args:
        contract: names the MJCF and its camera.
        episode: what to show.
        render: draws the pictures; as `sim.render.render_frames`.

    Returns:
        the file, its MIME type, and how many times faster than in truth it plays.

    Raises:
        UserError: there is no GL here, or no MJCF.
    """
    kinematics = Kinematics(contract)
    duration = float(episode.time[-1])
    count = int(min(MAX_FRAMES, max(2, round(duration * FRAMES_PER_S))))
    # The nearest tick for each frame: joint angles must not be averaged over a full turn.
    rows = np.searchsorted(episode.time, np.linspace(0.0, duration, count)).clip(0, len(episode.time) - 1)
    observation = episode.observation[rows]
    pictures = render(
        contract,
        {joint.joint: joint.position(observation) for joint in kinematics.joints},
        width=WIDTH,
        height=HEIGHT,
        timeout_s=TIMEOUT_S,
    )
    data, mime = pack(pictures, round(1000 / FRAMES_PER_S))
    return data, mime, max(1.0, duration * FRAMES_PER_S / count)


def pack(pictures: NDArray[np.uint8], milliseconds: int) -> tuple[bytes, str]:
    """Pictures `[T, height, width, 3]` as one animated file below `MAX_BYTES`, in the best quality that fits.

    Raises:
        UserError: even the lowest quality is too large.
    """
    images = [Image.fromarray(picture) for picture in pictures]
    webp = features.check("webp")
    for quality in (70, 45, 20):
        out = io.BytesIO()
        if webp:
            images[0].save(out, "WEBP", save_all=True, append_images=images[1:], duration=milliseconds, loop=0, quality=quality, method=2)
        else:
            few = [image.quantize(max(16, quality)) for image in images]
            few[0].save(out, "GIF", save_all=True, append_images=few[1:], duration=milliseconds, loop=0, optimize=True)
        if out.tell() <= MAX_BYTES:
            return out.getvalue(), "image/webp" if webp else "image/gif"
    raise UserError(f"the film is larger than {MAX_BYTES >> 20} MB in its lowest quality: show a shorter episode")
