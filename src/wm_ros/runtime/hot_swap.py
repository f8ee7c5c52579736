"""A new controller beside the serving one: verified, loaded and warmed up in a thread of its own, swapped in between two ticks."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.runtime import realtime
from wm_ros.runtime.controller import ControllerSession
from wm_ros.runtime.engine import Inference
from wm_ros.runtime.signature import TrustedKey

LOADER_NICE = 10
"""The loader yields to the control loop. Not where inference has threads of its own: they would inherit it."""


@dataclass(frozen=True)
class _Request:
    path: str | Path
    sha256: str | None


class HotSwap:
    """Loads controllers in the background. Whatever goes wrong, the one that serves goes on serving.

    Args:
        contract: which controllers must fit.
        inference: how controllers are computed.
        on_result: called in the loader's thread after each request, with None for success (a controller waits for `take`), else the reason.
        trusted: load only what this key has signed; None: also what nobody has.
    """

    def __init__(
        self,
        contract: Contract,
        inference: Inference,
        on_result: Callable[[UserError | None], None] = lambda _: None,
        trusted: TrustedKey | None = None,
    ) -> None:
        self._contract = contract
        self._trusted = trusted
        self._inference = inference
        self._on_result = on_result
        self._condition = threading.Condition()
        self._request: _Request | None = None
        self._staged: ControllerSession | None = None
        self._closed = False
        self.reason = ""
        """Why the last request failed; empty after one that did not."""
        self._thread = threading.Thread(target=self._work, name="controller loader", daemon=True)
        self._thread.start()

    def request(self, path: str | Path, sha256: str | None = None) -> None:
        """Asks for a controller; returns at once. A newer request replaces one that waits."""
        with self._condition:
            self._request = _Request(path, sha256)
            self._condition.notify_all()

    def refuse(self, reason: str) -> None:
        """Notes a controller that was refused before it came to loading."""
        self.reason = reason

    def take(self) -> ControllerSession | None:
        """The controller that became ready since the last call, for the control loop to serve from now on."""
        with self._condition:
            staged, self._staged = self._staged, None
            return staged

    def close(self) -> None:
        """Ends the loader; a load in progress is not waited for longer than its warm-up takes."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._thread.join()

    def _work(self) -> None:
        realtime.leave()
        if self._inference.threads == 1:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOADER_NICE)
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._closed or self._request is not None)
                if self._closed:
                    return
                request, self._request = self._request, None
            assert request is not None
            self._load(request)

    def _load(self, request: _Request) -> None:
        try:
            session = ControllerSession.load(request.path, self._contract, self._inference, request.sha256, self._trusted)
        except UserError as error:
            self.reason = str(error).splitlines()[0]
            self._on_result(error)
            return
        with self._condition:
            self._staged = session
            self.reason = ""
        self._on_result(None)
