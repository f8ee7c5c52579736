"""Writes a rosbag2 directory: raw CDR into MCAP files, metadata.yaml at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from wm_ros.contract.errors import UserError
from wm_ros.data import bag_metadata, ros_types
from wm_ros.data.mcap_writer import MESSAGE_BYTES, Compression, McapWriter
from wm_ros.data.qos import Qos

RECORD = "wm_ros"
"""Name of the MCAP metadata record that repeats the custom data, for a bag whose metadata.yaml was never written."""


@dataclass(frozen=True)
class BagOptions:
    """How a bag is written."""

    chunk_seconds: float = 1.0
    """A chunk is closed at least this often, so a killed recorder loses at most that much."""
    chunk_bytes: int = 1 << 20
    """A chunk is closed at this size, uncompressed."""
    compression: Compression = "zstd"
    split_bytes: int = 0
    """A new file is begun past this size; 0 never."""
    split_seconds: float = 0.0
    """A new file is begun after this time; 0 never."""


@dataclass(frozen=True)
class BagSummary:
    """A bag that was closed."""

    path: Path
    messages: int
    bytes: int


def free_directory(parent: Path, stem: str, number: int, taken: Collection[Path] = ()) -> Path:
    """The first of `stem_0000`, `stem_0001`, … from `number` on that neither exists nor is taken, so that nothing is overwritten."""
    while (path := parent / f"{stem}_{number:04d}").exists() or path in taken:
        number += 1
    return path


def _library() -> str:
    try:
        return f"wm_ros {version('wm_ros')}"
    except PackageNotFoundError:
        return "wm_ros"


class BagWriter:
    """One open bag. Not thread-safe: one thread writes."""

    def __init__(self, path: Path, custom_data: dict[str, str], options: BagOptions | None = None) -> None:
        """Creates the directory.

        Args:
            path: the directory; must not exist.
            custom_data: goes to metadata.yaml, and to the MCAP at once for the case that metadata.yaml is never written.
            options: chunks and splits.

        Raises:
            UserError: the directory exists or cannot be made.
        """
        self.path = path
        self.custom_data = dict(custom_data)
        self.options = options or BagOptions()
        self._topics: list[tuple[str, str, Qos]] = []
        self._files: list[bag_metadata.File] = []
        self._counts: Counter[int] = Counter()
        self._closed_bytes = 0
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise UserError(f"{path}: exists already and is not overwritten: choose another directory") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be made: {error.strerror}: choose another directory") from None
        try:
            self._file = self._open()
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}: choose another directory") from None

    @property
    def messages(self) -> int:
        """Messages given to the bag so far."""
        return sum(self._counts.values())

    @property
    def bytes_written(self) -> int:
        """Bytes on the disk so far."""
        return self._closed_bytes + self._file.bytes_written

    def add_topic(self, name: str, message_type: str, qos: Qos) -> int:
        """Registers a topic and gives the id to write with.

        Raises:
            UserError: the type is not known.
        """
        ros_types.schema_text(message_type)
        self._topics.append((name, message_type, qos))
        self._counts[len(self._topics)] = 0
        self._register(self._file, name, message_type, qos)
        return len(self._topics)

    def write(self, topic: int, data: bytes, log_time: int, publish_time: int) -> None:
        """Appends one message.

        Args:
            topic: from `add_topic`.
            data: CDR with its encapsulation header.
            log_time: system time of reception, ns.
            publish_time: header stamp where there is one, ns; the time of reception otherwise.

        Raises:
            OSError: the disk is full or gone; call `abandon`.
        """
        self._file.add_messages((topic,), (log_time,), (publish_time,), (data,))
        self._counts[topic] += 1
        if self._file.bytes_open >= self.options.chunk_bytes:
            self._close_chunk()

    def write_all(self, topics: Sequence[int], data: Sequence[bytes], log_times: Sequence[int], publish_times: Sequence[int]) -> None:
        """Appends many messages, one of each sequence; see `write`.

        Raises:
            OSError: the disk is full or gone; call `abandon`.
        """
        ends = np.cumsum(np.fromiter(map(len, data), np.int64, len(data)) + MESSAGE_BYTES)
        begin, before = 0, 0
        while begin < len(data):
            room = self.options.chunk_bytes - self._file.bytes_open
            # With the message that fills the chunk, as when they come one by one.
            here = slice(begin, int(np.searchsorted(ends, before + room)) + 1)
            self._file.add_messages(topics[here], log_times[here], publish_times[here], data[here])
            self._counts.update(topics[here])
            if self._file.bytes_open >= self.options.chunk_bytes:
                self._close_chunk()
            begin = min(here.stop, len(data))
            before = int(ends[begin - 1])

    def poll(self) -> None:
        """Closes a chunk that has been open for `chunk_seconds`, and splits. To be called several times in that time.

        Raises:
            OSError: the disk is full or gone; call `abandon`.
        """
        now = time.monotonic()
        if now - self._chunk_opened >= self.options.chunk_seconds:
            self._close_chunk()
        if self.options.split_seconds and now - self._file_opened >= self.options.split_seconds:
            self._split()

    def close(self, custom_data: dict[str, str] | None = None) -> BagSummary:
        """Finishes the file and writes metadata.yaml.

        Args:
            custom_data: replaces what was given at the start.

        Raises:
            OSError: the disk is full or gone; call `abandon`.
        """
        self._file.close_chunk()
        self.custom_data = dict(self.custom_data if custom_data is None else custom_data)
        metadata = self._metadata_with(self._file)
        self._file.add_metadata("rosbag2", {"serialized_metadata": bag_metadata.to_yaml(metadata)})
        self._file.close()
        bag_metadata.write(self.path, metadata)
        return BagSummary(self.path, self.messages, self.bytes_written)

    def abandon(self) -> None:
        """Leaves the bag as a killed recorder would: readable to the last chunk. Raises nothing."""
        self._file.abandon()

    def _open(self) -> McapWriter:
        file = McapWriter(self.path / f"{self.path.name}_{len(self._files)}.mcap", _library(), self.options.compression)
        file.add_metadata(RECORD, self.custom_data)
        for name, message_type, qos in self._topics:
            self._register(file, name, message_type, qos)
        self._chunk_opened = self._file_opened = time.monotonic()
        return file

    def _register(self, file: McapWriter, name: str, message_type: str, qos: Qos) -> None:
        # One schema per channel costs some hundred bytes and keeps channel and topic numbers equal.
        schema = file.add_schema(message_type, "ros2msg", ros_types.schema_text(message_type))
        file.add_channel(name, schema, {"offered_qos_profiles": qos.as_yaml(), "topic_type_hash": ros_types.type_hash(message_type)})

    def _close_chunk(self) -> None:
        self._file.close_chunk()
        self._chunk_opened = time.monotonic()
        if self.options.split_bytes and self._file.bytes_written >= self.options.split_bytes:
            self._split()

    def _split(self) -> None:
        self._file.close_chunk()
        self._files.append(self._noted(self._file))
        self._file.close()
        self._closed_bytes += self._file.bytes_written
        self._file = self._open()

    def _noted(self, file: McapWriter) -> bag_metadata.File:
        return bag_metadata.File(file.path.name, file.start_time, file.end_time - file.start_time, file.messages)

    def _metadata_with(self, file: McapWriter) -> bag_metadata.Metadata:
        topics = tuple(
            bag_metadata.Topic(name, message_type, self._counts[i], (qos.as_dict(),), ros_types.type_hash(message_type))
            for i, (name, message_type, qos) in enumerate(self._topics, 1)
        )
        return bag_metadata.Metadata((*self._files, self._noted(file)), topics, self.custom_data)
