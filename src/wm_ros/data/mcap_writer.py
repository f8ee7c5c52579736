"""Writes one MCAP file whose chunks are closed in time, so that a killed recorder loses at most the open one."""

from __future__ import annotations

import os
import struct
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import lz4.frame
import numpy as np
import zstandard
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import Channel, ChunkIndex, DataEnd, Footer, Header, Metadata, MetadataIndex, Schema, Statistics, SummaryOffset

MAGIC = b"\x89MCAP0\r\n"
_MESSAGE = np.dtype(
    [("opcode", "u1"), ("length", "<u8"), ("channel", "<u2"), ("sequence", "<u4"), ("log_time", "<u8"), ("publish_time", "<u8")]
)
"""What stands before a message's data."""
MESSAGE_BYTES = _MESSAGE.itemsize
_CHUNK = struct.Struct("<QQQI")

Compression = Literal["zstd", "lz4", "none"]


@dataclass
class _Chunk:
    """The chunk that is being filled, as columns: its records are made at once when it is closed, in half the time."""

    definitions: bytearray = field(default_factory=bytearray)
    """Records of schemas and channels; they stand before the messages."""
    channel: list[int] = field(default_factory=list)
    log_time: list[int] = field(default_factory=list)
    publish_time: list[int] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)
    data_bytes: int = 0


class McapWriter:
    """Chunked MCAP, records as the specification says. After an OSError only `abandon` may be called.

    mcap's own Writer closes chunks by size only. As there, schemas and channels stand in the first chunk, where its checksum guards them.
    """

    def __init__(self, path: Path, library: str, compression: Compression = "zstd") -> None:
        """Creates `path`.

        Raises:
            FileExistsError: there is such a file; nothing is overwritten.
        """
        self.path = path
        self.messages = 0
        self.start_time = 0
        self.end_time = 0
        self._compression = compression
        self._zstd = zstandard.ZstdCompressor(level=1, write_checksum=True)
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._counts: dict[int, int] = defaultdict(int)
        self._chunks: list[ChunkIndex] = []
        self._metadata: list[MetadataIndex] = []
        self._chunk = _Chunk()
        # Unbuffered: what was written has left the process, whatever happens to it.
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115
        self._good = 0
        builder = RecordBuilder()
        builder.write(MAGIC)
        Header(profile="ros2", library=library).write(builder)
        self._write(builder.end())

    @property
    def bytes_written(self) -> int:
        """Size of the file so far."""
        return self._good

    @property
    def bytes_open(self) -> int:
        """Uncompressed size of the open chunk."""
        chunk = self._chunk
        return len(chunk.definitions) + chunk.data_bytes + MESSAGE_BYTES * len(chunk.data)

    def add_metadata(self, name: str, values: dict[str, str]) -> None:
        """Writes named key-value pairs, at once."""
        builder = RecordBuilder()
        Metadata(name=name, metadata=values).write(builder)
        record = builder.end()
        self._metadata.append(MetadataIndex(offset=self._good, length=len(record), name=name))
        self._write(record)

    def add_schema(self, name: str, encoding: str, text: str) -> int:
        """Puts a schema into the open chunk and gives its id."""
        schema = Schema(id=len(self._schemas) + 1, name=name, encoding=encoding, data=text.encode())
        self._schemas[schema.id] = schema
        builder = RecordBuilder()
        schema.write(builder)
        self._chunk.definitions += builder.end()
        return len(self._schemas)

    def add_channel(self, topic: str, schema_id: int, metadata: dict[str, str]) -> int:
        """Puts a channel of CDR messages into the open chunk and gives its id."""
        channel = Channel(id=len(self._channels) + 1, topic=topic, message_encoding="cdr", metadata=metadata, schema_id=schema_id)
        self._channels[channel.id] = channel
        self._counts[channel.id] = 0
        builder = RecordBuilder()
        channel.write(builder)
        self._chunk.definitions += builder.end()
        return len(self._channels)

    def add_messages(
        self, channel_ids: Sequence[int], log_times: Sequence[int], publish_times: Sequence[int], data: Sequence[bytes]
    ) -> None:
        """Puts messages into the open chunk, one of each sequence; times in nanoseconds."""
        chunk = self._chunk
        chunk.channel += channel_ids
        chunk.log_time += log_times
        chunk.publish_time += publish_times
        chunk.data += data
        chunk.data_bytes += sum(map(len, data))

    def close_chunk(self) -> None:
        """Compresses the open chunk and writes it with its index."""
        chunk = self._chunk
        count = len(chunk.data)
        if not count:
            return
        self._chunk = _Chunk()
        heads = np.empty(count, _MESSAGE)
        length = np.fromiter(map(len, chunk.data), np.int64, count) + MESSAGE_BYTES
        heads["opcode"], heads["length"] = Opcode.MESSAGE, length - 9  # opcode and length do not count themselves
        heads["channel"], heads["log_time"], heads["publish_time"] = chunk.channel, chunk.log_time, chunk.publish_time
        entries = np.empty((count, 2), "<u8")
        entries[:, 0], entries[:, 1] = heads["log_time"], len(chunk.definitions) + np.cumsum(length) - length
        index: dict[int, bytes] = {}
        for channel_id in np.unique(heads["channel"]).tolist():
            rows = np.flatnonzero(heads["channel"] == channel_id)
            heads["sequence"][rows] = (self._counts[channel_id] + np.arange(len(rows))) & 0xFFFFFFFF
            self._counts[channel_id] += len(rows)
            index[channel_id] = entries[rows].tobytes()
        parts = [b""] * (2 * count)
        parts[::2], parts[1::2] = heads.view(f"V{MESSAGE_BYTES}").tolist(), chunk.data
        raw = bytes(chunk.definitions) + b"".join(parts)
        start_time, end_time = min(chunk.log_time), max(chunk.log_time)
        self.start_time = min(self.start_time, start_time) if self.messages else start_time
        self.end_time = max(self.end_time, end_time)
        self.messages += count
        name = "" if self._compression == "none" else self._compression
        data = {"zstd": self._zstd.compress, "lz4": lz4.frame.compress, "none": bytes}[self._compression](raw)
        encoded = name.encode()
        body = _CHUNK.pack(start_time, end_time, len(raw), zlib.crc32(raw))
        body += struct.pack("<I", len(encoded)) + encoded + struct.pack("<Q", len(data))
        head = struct.pack("<BQ", Opcode.CHUNK, len(body) + len(data)) + body
        start = self._good
        offset = start + len(head) + len(data)
        indexes, offsets = bytearray(), {}
        for channel_id, listed in index.items():
            offsets[channel_id] = offset + len(indexes)
            indexes += struct.pack("<BQHI", Opcode.MESSAGE_INDEX, 6 + len(listed), channel_id, len(listed)) + listed
        self._write(b"".join((head, data, indexes)))
        self._chunks.append(
            ChunkIndex(
                chunk_length=len(head) + len(data),
                chunk_start_offset=start,
                compression=name,
                compressed_size=len(data),
                message_end_time=end_time,
                message_index_length=len(indexes),
                message_index_offsets=offsets,
                message_start_time=start_time,
                uncompressed_size=len(raw),
            )
        )

    def close(self) -> None:
        """Closes the chunk, writes the summary and the footer and gives the file to the disk."""
        self.close_chunk()
        builder = RecordBuilder()
        DataEnd(0).write(builder)
        self._write(builder.end())
        summary_start = self._good
        groups: list[tuple[Opcode, list[Schema] | list[Channel] | list[Statistics] | list[ChunkIndex] | list[MetadataIndex]]] = [
            (Opcode.SCHEMA, list(self._schemas.values())),
            (Opcode.CHANNEL, list(self._channels.values())),
            (Opcode.STATISTICS, [self._statistics()]),
            (Opcode.CHUNK_INDEX, self._chunks),
            (Opcode.METADATA_INDEX, self._metadata),
        ]
        offsets = []
        for opcode, records in groups:
            begin = builder.count
            for record in records:
                record.write(builder)
            if builder.count > begin:
                offsets.append(SummaryOffset(opcode, summary_start + begin, builder.count - begin))
        offset_start = summary_start + builder.count
        for offset in offsets:
            offset.write(builder)
        summary = builder.end()
        head = struct.pack("<BQQQ", Opcode.FOOTER, 20, summary_start, offset_start)
        Footer(summary_start, offset_start, zlib.crc32(head, zlib.crc32(summary))).write(builder)
        self._write(summary + builder.end() + MAGIC)
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Leaves the file as a killed recorder would, cut after its last whole record. For a full disk; raises nothing."""
        if self._file.closed:
            return
        try:
            self._file.truncate(self._good)
        except OSError:
            pass  # The torn record at the end is what readers expect of a killed recorder anyway.
        finally:
            self._file.close()

    def _statistics(self) -> Statistics:
        return Statistics(
            attachment_count=0,
            channel_count=len(self._channels),
            channel_message_counts=dict(self._counts),
            chunk_count=len(self._chunks),
            message_count=self.messages,
            metadata_count=len(self._metadata),
            message_start_time=self.start_time,
            message_end_time=self.end_time,
            schema_count=len(self._schemas),
        )

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while len(view):
            view = view[self._file.write(view) :]
        self._good += len(data)
