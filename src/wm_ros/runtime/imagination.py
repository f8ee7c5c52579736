"""What a controller imagines, for people: computed beside the control loop, in a thread that never holds it up."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.runtime import artifact, realtime
from wm_ros.runtime.answer import Answer
from wm_ros.runtime.controller import ControllerSession

NICE = 10
"""It yields to the control loop."""


@dataclass(frozen=True, eq=False)
class Imagined:
    """The future as a controller saw it at one tick."""

    stamp_ns: int
    """Of the observation that it was imagined from."""
    controller: str
    frames: dict[str, NDArray[np.uint8]]
    """Image channel → [H, h, w, C], the first one plan period after the observation."""
    plan_action: NDArray[np.float32] | None
    """[H, A]."""
    plan_observation: NDArray[np.float32] | None
    """[H, O]."""


@dataclass(frozen=True)
class _Request:
    session: ControllerSession
    stamp_ns: int
    inputs: dict[str, NDArray[Any]]


class Imagination:
    """Imagines one tick at a time; those that come meanwhile are left out.

    Args:
        show: publishes the result; called in a thread of its own.
        failed: told why there is none; called in the same thread.
    """

    def __init__(self, show: Callable[[Imagined], None], failed: Callable[[str], None]) -> None:
        self._show, self._failed = show, failed
        self._condition = threading.Condition()
        self._request: _Request | None = None
        self._busy = self._closed = False
        self._thread = threading.Thread(target=self._work, name="imagination", daemon=True)
        self._thread.start()

    def offer(self, answer: Answer) -> None:
        """A tick to imagine from; called between its `act` and the next `prepare`. Returns at once."""
        if not answer.session.imagines:
            return
        with self._condition:
            if self._busy or self._closed:
                return
            self._busy = True
            self._request = _Request(answer.session, answer.tick.observation.stamp_ns, answer.session.inputs())
            self._condition.notify_all()

    def close(self) -> None:
        """Ends the thread; what is under way is finished first."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join()

    def _work(self) -> None:
        realtime.leave()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._closed or self._request is not None)
                if self._closed:
                    return
                request, self._request = self._request, None
            assert request is not None
            self._imagine(request)
            with self._condition:
                self._busy = False

    def _imagine(self, request: _Request) -> None:
        try:
            outputs = request.session.imagine(request.inputs)
        except Exception as error:  # onnxruntime's exceptions share no base; the robot does not depend on this thread
            self._failed(f"{request.session.name} cannot imagine: {str(error).splitlines()[0]}")
            return
        prefix = artifact.IMAGINED_PREFIX
        self._show(
            Imagined(
                request.stamp_ns,
                request.session.name,
                {name.removeprefix(prefix): frames for name, frames in outputs.items() if name.startswith(prefix)},
                outputs.get(artifact.PLAN_ACTION),
                outputs.get(artifact.PLAN_OBSERVATION),
            )
        )
