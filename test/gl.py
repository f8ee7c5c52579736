"""Where there is no OpenGL library there are no pictures, and tests of them are skipped with the reason."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.sim.camera import Camera


@lru_cache(maxsize=1)
def fault() -> str:
    """Why nothing can be drawn here; empty where it can."""
    camera = Camera(schema.load("cartpole_swingup"), width=32, height=32)
    try:
        camera.draw(np.zeros(2))
    except UserError as error:
        return str(error)
    finally:
        camera.close()
    return ""


def pictures_or_skip() -> None:
    """Skips the test where nothing can be drawn."""
    if fault():
        pytest.skip(fault())
