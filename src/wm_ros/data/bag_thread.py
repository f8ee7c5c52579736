"""One open bag with the thread that writes it, so that no control or executor thread ever waits for a disk."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from wm_ros.contract.errors import UserError
from wm_ros.data.bag_writer import BagSummary, BagWriter


class Received(NamedTuple):
    """A message as it came from the subscription. A tuple: to make a dataclass takes twice as long, and one is made per message."""

    topic: int
    """Number of the topic in the recorder's list."""
    data: bytes
    """CDR with its encapsulation header."""
    log_time: int
    """System time of reception, ns."""
    stamp: int | None
    """Header stamp, ns; None where the type has none."""


_BATCH = 4096
"""Messages that leave the queue at once, so that a chunk is closed in time while more come."""
_BATCH_BYTES = 8 << 20
"""About as many bytes leave it at once: what is being written waits in memory as well, and pictures are large."""

_WORTHWHILE = 1 << 18
"""Bytes in the queue for which the thread is woken."""


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
        self.messages = 0
        self.bytes_written = 0
        self.summary: BagSummary | None = None
        self.error = ""
        """Why the recording stopped; empty while all is well."""
        self._make = make
        self._max = max_queue_bytes
        self._poll_seconds = poll_seconds
        self._on_end = on_end
        self._custom_data: dict[str, str] | None = None
        # No lock per message: the queue's ends are one thread's each, and so is every number here. It was a third of `receive`.
        self._queue: deque[Received] = deque()
        self._refused = 0
        self._lost = 0
        self._bytes_in = 0
        self._bytes_out = 0
        self._ending = False
        self._idle = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bag", daemon=True)
        self._thread.start()

    @property
    def drops(self) -> int:
        """Messages that are not in the bag and never will be."""
        return self._refused + self._lost + (len(self._queue) if self.error else 0)

    @property
    def alive(self) -> bool:
        """Whether the thread still works on the bag."""
        return self._thread.is_alive()

    def put(self, message: Received) -> None:
        """Queues a message, or drops it where the queue is full or the recording has stopped; from one thread only."""
        size = len(message.data)
        if self.error or self._ending or self._bytes_in - self._bytes_out + size > self._max:
            self._refused += 1
            return
        self._bytes_in += size
        self._queue.append(message)
        # Nobody is woken for a single message: it would wait in the open chunk all the same, and the thread looks every `poll_seconds`.
        if self._idle and self._bytes_in - self._bytes_out >= _WORTHWHILE:
            self._wake.set()

    def finish(self, custom_data: dict[str, str] | None = None) -> None:
        """Lets the thread write what is queued and close the bag; returns at once. From the thread of `put`."""
        self._custom_data = custom_data
        self._ending = True
        self._wake.set()

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
        self._idle = True
        # Idle is said before the queue is looked at, and `put` looks after the message is in: one of the two sees the other.
        if not self._ending and self._bytes_in - self._bytes_out < _WORTHWHILE:
            self._wake.wait(self._poll_seconds)
            self._wake.clear()
        self._idle = False
        last = self._ending  # before the queue is looked at: nothing comes after the end
        queue = self._queue
        while waiting := len(queue):
            # By the usual size of those that wait: none is looked at twice.
            fitting = waiting * _BATCH_BYTES // max(self._bytes_in - self._bytes_out, 1)
            count = max(1, min(waiting, _BATCH, fitting))
            topics, data, log_times, stamps = zip(*[queue.popleft() for _ in range(count)], strict=True)
            self._bytes_out += sum(map(len, data))
            self._lost = count  # until they are written
            publish_times = [log if stamp is None else max(stamp, 0) for log, stamp in zip(log_times, stamps, strict=True)]
            writer.write_all([topic + 1 for topic in topics], data, log_times, publish_times)
            self.messages, self._lost = self.messages + count, 0
            self.bytes_written = writer.bytes_written
            writer.poll()
        writer.poll()
        return not last

    def _stop(self, error: str) -> None:
        self.error = error
        # What comes in between is not taken out, and counts as well.
        while self._queue:
            self._queue.popleft()
            self._lost += 1
