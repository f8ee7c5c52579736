"""A simulated robot's camera: pictures one by one, drawn by a process that outlives no owner."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.schema import Contract
from wm_ros.sim import render


class Camera:
    """Draws one pose after the other, for one thread at a time; `close` may come from another."""

    def __init__(
        self, contract: Contract, beside: Path | None = None, *, channel: str | None = None, width: int = 320, height: int = 240
    ) -> None:
        """Nothing is started before the first picture.

        Args:
            contract: names the MJCF and the camera.
            beside: the contract's folder.
            channel: the image channel that it stands in for; None for pictures that are for people.
            width: of a picture, in pixels.
            height: of a picture, in pixels.

        Raises:
            UserError: the MJCF or the camera is not there.
        """
        self._mjcf, _, self._camera = render.check_camera(contract, beside, channel)
        self.width, self.height = width, height
        self._backends = list(render.BACKENDS)
        self._reasons: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: Any = None
        self._closed = False
        self._turn = threading.Lock()

    def draw(self, position: NDArray[np.float64]) -> NDArray[np.uint8] | None:
        """A picture [height, width, 3], RGB, of the generalized position [nq]; None once the camera is closed.

        Raises:
            UserError: no GL library works here.
        """
        with self._turn:
            while not self._closed:
                if self._process is None:
                    if not self._backends:
                        raise render.remedy(self._mjcf, self._reasons)
                    self._start(self._backends[0])
                picture = self._ask(position)
                if picture is not None:
                    return picture
                if not self._closed:
                    self._give_up(self._backends.pop(0))
            return None

    def close(self) -> None:
        """Ends the process; a picture under way is lost."""
        self._closed = True
        if self._process is not None:
            _end(self._process)

    def _start(self, backend: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  read in _give_up, gone with its last reference
        command = [sys.executable, "-m", "wm_ros.sim.render_worker", str(self._mjcf), str(self.width), str(self.height), self._camera]
        self._process = subprocess.Popen(
            command, env=render.environment(backend), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        weakref.finalize(self, _end, self._process)

    def _ask(self, position: NDArray[np.float64]) -> NDArray[np.uint8] | None:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        size = self.height * self.width * 3
        try:
            process.stdin.write(np.asarray(position, dtype=np.float64).tobytes())
            process.stdin.flush()
            picture = process.stdout.read(size)
        except OSError:
            return None
        return np.frombuffer(picture, dtype=np.uint8).reshape(self.height, self.width, 3) if len(picture) == size else None

    def _give_up(self, backend: str) -> None:
        assert self._process is not None
        _end(self._process)
        status = self._process.returncode
        self._process = None
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        self._reasons.append(f"{backend}: {lines[-1].strip() if lines else f'status {status}'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
