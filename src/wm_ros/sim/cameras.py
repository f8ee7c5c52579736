"""The contract's cameras on a simulated robot: pictures of the size that the controller sees, each on its own ticks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.sim import render
from wm_ros.sim.camera import Camera


class Cameras:
    """A process draws for each image channel; none is started before the first picture."""

    def __init__(self, contract: Contract, beside: Path | None = None) -> None:
        """
        Raises:
            UserError: nothing stands in for a camera of the contract, or the MJCF lacks it.
        """
        settings = contract.simulator
        self._every = {name: settings.cameras[name].every for name in contract.images if settings and name in settings.cameras}
        self._cameras = {name: _camera(contract, beside, name) for name in contract.images}

    def __bool__(self) -> bool:
        return bool(self._cameras)

    def due(self, tick: int) -> tuple[str, ...]:
        """Channels that have a picture at this tick, counted from a reset."""
        return tuple(name for name, every in self._every.items() if tick % every == 0)

    def draw(self, position: NDArray[np.float64], channels: tuple[str, ...]) -> dict[str, NDArray[np.uint8]]:
        """Channel → the picture [height, width, 3], RGB, of the generalized position [nq].

        Raises:
            UserError: no GL library works here; the text names the channel and the remedy.
        """
        pictures = {}
        for name in channels:
            try:
                picture = self._cameras[name].draw(position)
            except UserError as error:
                raise UserError(f"observation.{name}: {error}") from None
            if picture is not None:
                pictures[name] = picture
        return pictures

    def warm_up(self, position: NDArray[np.float64]) -> None:
        """Draws a first picture with every camera, all at once: a process takes about a second to start.

        Raises:
            UserError: as `draw`.
        """
        with ThreadPoolExecutor(max(1, len(self._cameras))) as pool:
            started = [pool.submit(self.draw, position, (name,)) for name in self._cameras]
        for one in started:
            one.result()


_shared: WeakValueDictionary[tuple[str, str, int, int], Camera] = WeakValueDictionary()


def _camera(contract: Contract, beside: Path | None, channel: str) -> Camera:
    """One process draws for all worlds of a kind: it is told the whole pose each time. It ends with the last of them."""
    mjcf, _, name = render.check_camera(contract, beside, channel)
    form = contract.images[channel]
    key = str(mjcf), name, form.width, form.height
    camera = _shared.get(key)
    if camera is None:
        camera = _shared[key] = Camera(contract, beside, channel=channel, width=form.width, height=form.height)
    return camera
