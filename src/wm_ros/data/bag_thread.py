"""One open bag with the thread that writes it, so that no control or executor thread ever waits for a disk."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from wm_ros.contract.errors import UserError
from wm_ros.data.bag_writer import BagSummary, BagWriter


@dataclass(frozen=True)
class Received:
    """A message as it came from the subscription."""

    topic: int
    """Number of the topic in the recorder's list."""
    data: bytes
    """CDR with its encapsulation header."""
    log_time: int
    """System time of reception, ns."""
    stamp: int | None
    """Header stamp, ns; None where the type has none."""


class BagThread:
    """Takes messages without waiting; beyond `max_queue_bytes` it drops and counts them."""

    def __init__(
        self,
        make: Callable[[], BagWriter],
        max_queue_bytes: int,
        poll_seconds: float,
        on_end: Callable[[BagThread], None],
    ) -> None:
        """
        Args:
            make: opens the bag with its topics registered in the recorder's order, on the new thread.
            max_queue_bytes: bound of the messages waiting to be written.
            poll_seconds: how often the bag is asked whether its chunk is due.
            on_end: called on the new thread when the bag is closed, or could not be; see `summary` and `error`.
        """
        self.drops = 0
        self.messages = 0
        self.bytes_written = 0
        self.summary: BagSummary | None = None
        self.error = ""
        """Why the recording stopped; empty while all is well."""
        self._make = make
        self._max = max_queue_bytes
        self._poll_seconds = poll_seconds
        self._on_end = on_end
        self._queue: deque[Received] = deque()
        self._waiting = 0
        self._custom_data: dict[str, str] | None = None
        self._ending = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="bag", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still works on the bag."""
        return self._thread.is_alive()

    def put(self, message: Received) -> None:
        """Queues a message, or drops it where the queue is full or the recording has stopped."""
        with self._wake:
            if self.error or self._ending or self._waiting + len(message.data) > self._max:
                self.drops += 1
                return
            self._queue.append(message)
            self._waiting += len(message.data)
            # One notification per batch: the thread takes all there is.
            if len(self._queue) == 1:
                self._wake.notify()

    def finish(self, custom_data: dict[str, str] | None = None) -> None:
        """Lets the thread write what is queued and close the bag; returns at once."""
        with self._wake:
            self._custom_data = custom_data
            self._ending = True
            self._wake.notify()

    def join(self) -> None:
        """Waits until the bag is closed; `finish` first."""
        self._thread.join()

    def _run(self) -> None:
        try:
            writer = self._make()
        except (UserError, OSError) as error:
            self._stop(f"cannot record: {error}")
            self._on_end(self)
            return
        try:
            while self._write_batch(writer):
                pass
            self.summary = writer.close(self._custom_data)
        except OSError as error:
            writer.abandon()
            self._stop(f"{writer.path}: recording stopped: {error.strerror}: free some space; what was written is readable")
        self.bytes_written = writer.bytes_written
        self._on_end(self)

    def _write_batch(self, writer: BagWriter) -> bool:
        """Writes what is queued; False when that was the last."""
        with self._wake:
            if not self._queue and not self._ending:
                self._wake.wait(self._poll_seconds)
            batch, self._queue = self._queue, deque()
            self._waiting = 0
            last = self._ending
        for message in batch:
            publish_time = message.log_time if message.stamp is None else message.stamp
            writer.write(message.topic + 1, message.data, message.log_time, max(publish_time, 0))
        writer.poll()
        self.messages += len(batch)
        self.bytes_written = writer.bytes_written
        return not last

    def _stop(self, error: str) -> None:
        with self._wake:
            self.drops += len(self._queue)
            self._queue.clear()
            self.error = error
