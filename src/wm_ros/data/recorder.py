"""Decides which message goes into which bag: one bag per episode, begun with what came just before. No ROS in it."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wm_ros.contract.announcements import EpisodeState
from wm_ros.contract.schema import Contract
from wm_ros.data import bag_metadata, ros_types
from wm_ros.data.bag_thread import BagThread, Received
from wm_ros.data.bag_writer import BagOptions, BagSummary, BagWriter, free_directory
from wm_ros.data.qos import Qos

_NS = 1_000_000_000
_LITTLE, _BIG = struct.Struct("<iI").unpack_from, struct.Struct(">iI").unpack_from


@dataclass(frozen=True)
class RecordedTopic:
    """A topic that is recorded."""

    name: str
    """Absolute, as it stands in the bag."""
    type: str
    qos: Qos = field(default_factory=Qos)
    awaited: bool = False
    """The last sample of an episode must have come before its bag is closed."""


@dataclass(frozen=True)
class RecorderOptions:
    """How a recorder behaves."""

    directory: Path
    """Where the bags go."""
    bag: BagOptions = field(default_factory=BagOptions)
    preroll_s: float = 2.0
    """How much is kept of what came last, so that an episode's bag begins with its first message."""
    preroll_bytes: int = 64 << 20
    """Bound of what is kept."""
    queue_bytes: int = 128 << 20
    """Bound of what waits for the disk, for one bag."""
    linger_s: float = 0.5
    """How long an ended episode's bag waits for its last sample."""


@dataclass(frozen=True)
class ClosedBag:
    """A bag that is closed and readable."""

    summary: BagSummary
    state: EpisodeState | None
    """The episode in it; None for a recording by hand."""
    dropped: int


def custom_data(contract: Contract, state: EpisodeState | None) -> dict[str, str]:
    """What every bag notes, in the form of metadata.yaml."""
    noted = {"wm_ros.contract": contract.canonical_json(), "wm_ros.contract_hash": contract.hash}
    if state is not None:
        noted["wm_ros.controller_sha256"] = state.controller_sha256
        noted["wm_ros.controller_version"] = str(state.controller_version)
        noted["wm_ros.episode"] = state.to_json()
    return noted


class _Stamps:
    """Reads the header stamp from the CDR of types that begin with a header."""

    def __init__(self, message_type: str) -> None:
        fields = ros_types.standard_store().fielddefs[message_type][1]
        self._headed = bool(fields) and fields[0][1] == (ros_types.Nodetype.NAME, "std_msgs/msg/Header")

    def of(self, data: bytes) -> int | None:
        if not self._headed or len(data) < 12:
            return None
        seconds, nanoseconds = (_LITTLE if data[1] & 1 else _BIG)(data, 4)
        stamp: int = seconds * _NS + nanoseconds
        return stamp


@dataclass
class _Open:
    """The bag of now."""

    thread: BagThread
    path: Path
    state: EpisodeState | None
    from_ns: int
    """Stamped messages from before are left out."""
    ended_at: float | None = None
    """Steady time of the end's announcement."""


class Recorder:
    """All methods from one thread. `on_closed` comes from the bag's own thread."""

    def __init__(
        self, contract: Contract, topics: Sequence[RecordedTopic], options: RecorderOptions, on_closed: Callable[[ClosedBag], None]
    ) -> None:
        """
        Args:
            contract: noted in every bag.
            topics: what is recorded; `receive` names them by their place.
            options: where and how.
            on_closed: told about every bag that is closed and readable.
        """
        self.contract = contract
        self.topics = tuple(topics)
        self.options = options
        self.messages = 0
        """Received since the beginning, recorded or not."""
        self._stamps = [_Stamps(t.type) for t in topics]
        self._newest: list[int] = [-1] * len(self.topics)
        self._ring: deque[Received] = deque()
        self._ring_bytes = 0
        self._preroll_ns, self._preroll_bytes = round(options.preroll_s * _NS), options.preroll_bytes
        self._open: _Open | None = None
        self._closing: list[_Open] = []
        self._done: dict[int, Path] = {}
        self._drops = 0
        self._bytes = 0
        self._error = ""
        self._on_closed = on_closed
        # A slower channel's sample from before the first tick is still held there.
        self._lead_ns = round(max(c.max_age_s for c in contract.observation) * _NS)

    # ---- what is going on -----------------------------------------------------------------------------------------

    @property
    def bag(self) -> Path | None:
        """The bag that is open now."""
        return self._open.path if self._open else None

    @property
    def drops(self) -> int:
        """Messages lost because the disk was too slow or full."""
        return self._drops + sum(o.thread.drops for o in self._threads())

    @property
    def bytes_written(self) -> int:
        """Bytes in all bags."""
        return self._bytes + sum(o.thread.bytes_written for o in self._threads())

    @property
    def error(self) -> str:
        """Why the newest recording stopped; empty while all is well."""
        return (self._open.thread.error if self._open else "") or self._error

    def _threads(self) -> list[_Open]:
        return [*self._closing, *([self._open] if self._open else [])]

    # ---- messages -------------------------------------------------------------------------------------------------

    def receive(self, topic: int, data: bytes, log_time: int, now: float) -> None:
        """Takes a message in.

        Args:
            topic: its place in `topics`.
            data: raw CDR.
            log_time: system time of reception, ns.
            now: steady time, s.
        """
        message = Received(topic, data, log_time, self._stamps[topic].of(data))
        self.messages += 1
        if message.stamp is not None:
            self._newest[topic] = message.stamp
        self._keep(message)
        current = self._open
        if current is None:
            return
        if message.stamp is None or message.stamp >= current.from_ns:
            current.thread.put(message)
        if current.ended_at is not None:
            self.poll(now)

    def _keep(self, message: Received) -> None:
        self._ring.append(message)
        self._ring_bytes += len(message.data)
        oldest = message.log_time - self._preroll_ns
        while self._ring and (self._ring[0].log_time < oldest or self._ring_bytes > self._preroll_bytes):
            self._ring_bytes -= len(self._ring.popleft().data)

    # ---- bags -----------------------------------------------------------------------------------------------------

    def announce(self, state: EpisodeState, now: float) -> None:
        """Follows the episode manager: opens a bag on `running`, closes it on `ended` and `discarded`.

        To be called before the announcement itself is given to `receive` where it opens a bag.
        """
        current = self._open
        same = current is not None and current.state is not None and current.state.start_stamp_ns == state.start_stamp_ns
        if state.state == "running":
            if not same:
                self._begin(self._free("episode", state.episode), state)
        elif state.state == "starting":
            if current is not None and current.state is not None:
                self._end()
        elif same and current is not None:
            current.state = state
            if current.ended_at is None:
                current.ended_at = now
        elif state.state == "discarded" and state.start_stamp_ns in self._done:
            self._mark(self._done[state.start_stamp_ns], state)

    def start(self) -> Path:
        """Opens a bag outside of episodes."""
        path = self._free("recording", 0)
        self._begin(path, None)
        return path

    def stop(self) -> Path | None:
        """Closes the bag that is open; None where none is."""
        path = self.bag
        self._end()
        return path

    def poll(self, now: float) -> None:
        """Closes an ended episode's bag when its last sample is in, or did not come for `linger_s`."""
        for done in [o for o in self._closing if not o.thread.alive]:
            self._closing.remove(done)
            self._drops += done.thread.drops
            self._bytes += done.thread.bytes_written
        current = self._open
        if current is None or current.ended_at is None or current.state is None:
            return
        end = current.state.end_stamp_ns
        complete = all(newest >= end for topic, newest in zip(self.topics, self._newest, strict=True) if topic.awaited)
        if complete or now - current.ended_at >= self.options.linger_s:
            self._end()

    def close(self) -> None:
        """Closes every bag and waits until they are readable."""
        self._end()
        for closing in self._closing:
            closing.thread.join()
        self.poll(0.0)

    def _free(self, stem: str, number: int) -> Path:
        # A bag's directory is made on its own thread, perhaps after the next bag is named.
        return free_directory(self.options.directory, stem, number, [o.path for o in self._threads()])

    def _begin(self, path: Path, state: EpisodeState | None) -> None:
        self._end()
        noted = custom_data(self.contract, state)

        def make() -> BagWriter:
            writer = BagWriter(path, noted, self.options.bag)
            for topic in self.topics:
                writer.add_topic(topic.name, topic.type, topic.qos)
            return writer

        self._error = ""
        from_ns = state.start_stamp_ns - self._lead_ns if state else -(1 << 63)
        thread = BagThread(make, self.options.queue_bytes, self.options.bag.chunk_seconds / 4, self._ended)
        self._open = _Open(thread, path, state, from_ns)
        if state is not None:
            begun = False
            for message in self._ring:
                # What has no stamp belongs to the episode if it came after the episode's first sample.
                begun = begun or (message.stamp is not None and message.stamp >= state.start_stamp_ns)
                if message.stamp >= from_ns if message.stamp is not None else begun:
                    thread.put(message)

    def _end(self) -> None:
        current, self._open = self._open, None
        if current is None:
            return
        self._closing.append(current)
        if current.state is not None and current.state.start_stamp_ns:
            self._done[current.state.start_stamp_ns] = current.path
        current.thread.finish(custom_data(self.contract, current.state))

    def _ended(self, thread: BagThread) -> None:
        """On the bag's thread."""
        if thread.error:
            self._error = thread.error
        elif thread.summary is not None:
            # The list is only appended to and shrunk by the other thread after this one has ended.
            state = next((o.state for o in tuple(self._closing) if o.thread is thread), None)
            self._on_closed(ClosedBag(thread.summary, state, thread.drops))

    def _mark(self, path: Path, state: EpisodeState) -> None:
        """Notes in a closed bag that its episode was discarded; nothing is deleted."""
        for closing in self._closing:
            if closing.path == path:
                closing.thread.join()
        bag_metadata.mark(path, custom_data(self.contract, state))
