"""Reads one MCAP file front to back: every whole, sound chunk and nothing after the first fault.

No index and no footer is needed, so a killed recorder's file reads like any other.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import lz4.frame
import numpy as np
import zstandard
from numpy.typing import NDArray

from wm_ros.contract.errors import UserError
from wm_ros.data.block import Block, Connection, Damage, Limits, Survey, refuse_bomb
from wm_ros.data.mcap_writer import MAGIC

_HEAD = struct.Struct("<BQ")
_MESSAGE = struct.Struct("<BQHIQQ")
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE_OP, _CHUNK, _METADATA, _DATA_END = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x0F
_MESSAGE_INDEX, _STATISTICS, _METADATA_INDEX = 0x07, 0x0B, 0x0D
_READ = (_SCHEMA, _CHANNEL, _CHUNK, _METADATA, _MESSAGE_INDEX)
_INDEX = struct.Struct("<BQHI")
_END = struct.Struct("<BQQQI8s")
_MAX_SUMMARY = 256 << 20
_KNOWN = range(0x01, 0x10)
_LOOSE = 1 << 20
_RELEASE = 16 << 20
_MAX_TIME = 2**62  # the year 2116; differences of two times still fit


class McapScan:
    """One pass over a file.

    After `blocks()` is exhausted, `lost_bytes` and `fault` say what could not be read.
    """

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self.path = path
        self.limits = limits or Limits()
        self.metadata: dict[str, dict[str, str]] = {}
        """MCAP metadata records by name."""
        self.lost_bytes = 0
        self.fault = ""
        """Empty, or why reading ended before the end of the file."""
        self.unguarded = 0
        """Messages in no chunk, or in one that was written without a checksum."""
        self._guarded = False
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._connections: dict[int, Connection] = {}
        self._unindexed: dict[int, int] = {}
        """Messages of each channel in the newest chunk, until its index confirms them."""
        self._count = 0

    def blocks(self) -> Iterator[Block]:
        """The file's messages, chunk by chunk.

        Raises:
            UserError: not an MCAP, not readable, or a chunk beyond the limits.
        """
        try:
            with open(self.path, "rb") as file:
                size = file.seek(0, 2)
                if size < len(MAGIC):
                    if size == 0:
                        raise UserError(f"{self.path}: empty: the recorder was stopped before it wrote anything; leave the file out")
                    raise UserError(f"{self.path}: not an MCAP file: only {size} bytes: leave the file out")
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    if data[: len(MAGIC)] != MAGIC:
                        raise UserError(f"{self.path}: not an MCAP file (it does not begin with the MCAP magic): check the path")
                    yield from self._records(data, size)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}: check the path and its permissions") from None

    def buffer(self, place: int, reach: int) -> bytes:
        """The buffer of a block that was read before, at least its first `reach` bytes.

        Raises:
            Damage: it is not there any more.
            OSError: the file cannot be read.
        """
        with open(self.path, "rb") as file:
            file.seek(place)
            head = file.read(_HEAD.size)
            if len(head) == _HEAD.size and head[0] == _CHUNK:
                length = _HEAD.unpack(head)[1]
                if length > os.fstat(file.fileno()).st_size - place:
                    raise Damage(f"the chunk at byte {place} is cut off")
                return self._decompress(file.read(length), place)
            found = head + file.read(max(reach - len(head), 0))
        if len(found) < reach:
            raise Damage(f"the file ends before the messages at byte {place}")
        return found

    def survey(self) -> Survey | None:
        """Topics, counts and our metadata from the summary at the end; None where there is none that passes its checksum."""
        try:
            with open(self.path, "rb") as file:
                size = file.seek(0, 2)
                if size < _END.size + len(MAGIC):
                    return None
                file.seek(size - _END.size)
                end = file.read(_END.size)
                opcode, length, start, _, crc, magic = _END.unpack(end)
                length_of_summary = size - _END.size - start
                if opcode != _FOOTER or length != 20 or magic != MAGIC or not start or not 0 < length_of_summary <= _MAX_SUMMARY:
                    return None
                file.seek(start)
                summary = file.read(length_of_summary)
                if not crc or zlib.crc32(end[: _HEAD.size + 16], zlib.crc32(summary)) != crc:
                    return None
                return self._summary(file, summary)
        except (OSError, Damage, struct.error):
            return None

    def _summary(self, file: BinaryIO, summary: bytes) -> Survey | None:
        counts: dict[int, int] | None = None
        records: dict[str, dict[str, str]] = {}
        at = 0
        while at < len(summary):
            opcode, length = _HEAD.unpack_from(summary, at)
            body = summary[at + _HEAD.size : at + _HEAD.size + length]
            at += _HEAD.size + length
            if opcode in (_SCHEMA, _CHANNEL):
                self._define(opcode, body)
            elif opcode == _STATISTICS:
                counts = {int(key): int(n) for key, n in struct.iter_unpack("<HQ", body[46:])}
            elif opcode == _METADATA_INDEX:
                offset, size = struct.unpack_from("<QQ", body)
                if _Fields(body[16:]).text() == "wm_ros" and size <= _MAX_SUMMARY:
                    file.seek(offset)
                    fields = _Fields(file.read(size)[_HEAD.size :])
                    name = fields.text()
                    records[name] = fields.mapping()
        if counts is None or not set(counts) <= set(self._connections):
            self._connections.clear()
            return None
        return Survey(dict(self._connections), {key: counts.get(key, 0) for key in self._connections}, records)

    def _records(self, data: mmap.mmap, size: int) -> Iterator[Block]:
        at, loose, released = len(MAGIC), -1, 0
        ended = False
        chunked: bool | None = None
        try:
            while not ended:
                if at + _HEAD.size > size:
                    raise Damage("ends without a footer")
                opcode, length = _HEAD.unpack_from(data, at)
                end = at + _HEAD.size + length
                if opcode == 0 or (opcode not in _KNOWN and opcode < 0x80):
                    raise Damage(f"no record at byte {at}")
                if end > size:
                    raise Damage(f"the record at byte {at} is cut off")
                if opcode in (_MESSAGE_OP, _CHUNK):
                    # No recorder mixes the two, and outside of chunks no checksum tells a message from a damaged record.
                    if chunked not in (None, opcode == _CHUNK):
                        raise Damage(f"a message outside of the chunks at byte {at}" if chunked else f"a chunk among messages at byte {at}")
                    chunked = opcode == _CHUNK
                if opcode == _MESSAGE_OP:
                    # Messages outside of chunks: gathered into blocks of about a mebibyte.
                    if loose < 0:
                        loose = at
                    elif end - loose > _LOOSE:
                        yield from self._block(data[loose:at], loose)
                        loose = at
                else:
                    if loose >= 0:
                        yield from self._block(data[loose:at], loose)
                        loose = -1
                    body = data[at + _HEAD.size : end] if opcode in _READ else b""
                    if opcode == _CHUNK:
                        yield from self._block(self._decompress(body, at), at, _index_after(data, end, size))
                    elif opcode == _MESSAGE_INDEX:
                        self._check_index(body, at)
                    elif opcode == _METADATA:
                        self._read_metadata(body)
                    elif opcode in (_SCHEMA, _CHANNEL):
                        self._define(opcode, body)
                    ended = opcode in (_DATA_END, _FOOTER)
                    if ended and length != (4 if opcode == _DATA_END else 20):
                        raise Damage(f"no end of data at byte {at}")
                at = end
                if at - released > _RELEASE and loose < 0:
                    # What was read is not read again in this pass; without this the whole file would count as our memory.
                    part = (at - released) // mmap.PAGESIZE * mmap.PAGESIZE
                    data.madvise(mmap.MADV_DONTNEED, released, part)
                    released += part
            self._check_count()
        except Damage as fault:
            self.fault = str(fault)
            self.lost_bytes = size - at
            if loose >= 0:
                try:
                    yield from self._block(data[loose:at], loose)
                except Damage:
                    self.lost_bytes = size - loose

    def _check_index(self, body: bytes, at: int) -> None:
        """An index that does not fit the chunk before it tells of a chunk that was lost between the two."""
        fields = _Fields(body)
        channel, entries = fields.number("<H", 2), fields.number("<I", 4) // 16
        if entries and self._unindexed.pop(channel, 0) != entries:
            raise Damage(f"the index at byte {at} is not that of the chunk before it")

    def _check_count(self) -> None:
        """The summary, where there is one, knows how many messages there must be."""
        announced = McapScan(self.path, self.limits).survey()
        if announced is not None and sum(announced.counts.values()) != self._count:
            raise Damage(f"{self._count} messages were found, {sum(announced.counts.values())} were recorded")

    def _decompress(self, body: bytes, at: int) -> bytes:
        try:
            _, _, size, crc, name_length = struct.unpack_from("<QQQII", body)
            name = body[32 : 32 + name_length]
            (data_length,) = struct.unpack_from("<Q", body, 32 + name_length)
        except struct.error:
            raise Damage(f"the chunk at byte {at} is too short") from None
        data = memoryview(body)[40 + name_length :]
        if len(data) != data_length:
            raise Damage(f"the chunk at byte {at} does not fill its record")
        if size > self.limits.chunk_bytes:
            raise refuse_bomb(self.path, size, self.limits.chunk_bytes)
        raw = _inflate(bytes(name), data, size, at)
        if len(raw) != size:
            raise Damage(f"the chunk at byte {at} has {len(raw)} bytes, {size} were announced")
        if crc and zlib.crc32(raw) != crc:
            raise Damage(f"the chunk at byte {at} fails its checksum")
        self._guarded = bool(crc)
        return raw

    def _block(self, buffer: bytes, place: int, index: NDArray[np.int64] | None = None) -> Iterator[Block]:
        """The messages in a chunk's records; definitions on the way are taken in.

        Args:
            buffer: the records.
            place: byte of the file where they begin, or their chunk.
            index: where messages are said to begin; used only if that proves true to the last byte.
        """
        tables: list[NDArray[np.int64]] = []
        rows: list[tuple[int, int, int, int]] = []
        at, size, previous = 0, len(buffer), -1
        single, patience = 0, 32
        indexed = _indexed(buffer, index) if index is not None and len(index) else None
        if indexed is not None:
            size = int(indexed[0, 0]) - _MESSAGE.size
        unpack = _MESSAGE.unpack_from
        while at < size:
            if at + _HEAD.size > size:
                raise Damage("a chunk ends within a record")
            if buffer[at] != _MESSAGE_OP:
                opcode, length = _HEAD.unpack_from(buffer, at)
                if at + _HEAD.size + length > size:
                    raise Damage("a chunk ends within a record")
                if opcode in (_SCHEMA, _CHANNEL):
                    self._define(opcode, buffer[at + _HEAD.size : at + _HEAD.size + length])
                at += _HEAD.size + length
                continue
            if at + _MESSAGE.size > size:
                raise Damage("a chunk ends within a message")
            _, length, channel, _, log_time, _ = unpack(buffer, at)
            if length < 22 or at + _HEAD.size + length > size:
                raise Damage("a chunk ends within a message")
            if length == previous and len(rows) >= single:
                # Two of one length: probably many. Their table costs one numpy call instead of a loop.
                run = _run(buffer, at, length)
                if len(run) < 32:
                    # The call costs as much as some dozen single ones: after a short run it is not made again soon.
                    single, patience = len(rows) + patience, 2 * patience
                else:
                    tables += [np.array(rows, dtype=np.int64).reshape(-1, 4), run] if rows else [run]
                    rows.clear()
                    at += len(run) * (_HEAD.size + length)
                    previous, single = -1, 0
                    continue
            rows.append((at + _MESSAGE.size, length - 22, channel, log_time if log_time <= _MAX_TIME else -1))
            previous = length
            at += _HEAD.size + length
        if rows:
            tables.append(np.array(rows, dtype=np.int64))
        if indexed is not None:
            tables.append(indexed)
        if not tables:
            return
        table = tables[0] if len(tables) == 1 else np.concatenate(tables)
        if ((table[:, 3] < 0) | (table[:, 3] > _MAX_TIME)).any():
            raise Damage("a message has a time past the year 2116")
        channels, numbers = np.unique(table[:, 2], return_counts=True)
        unknown = set(channels.tolist()) - set(self._connections)
        if unknown:
            raise Damage(f"messages of an unknown channel {min(unknown)}")
        self._unindexed = dict(zip(channels.tolist(), numbers.tolist(), strict=True))
        self._count += len(table)
        self.unguarded += 0 if self._guarded else len(table)
        yield Block(buffer, table[:, 0], table[:, 1], table[:, 2], table[:, 3], dict(self._connections), place)

    def _define(self, opcode: int, body: bytes) -> None:
        fields = _Fields(body)
        key = fields.number("<H", 2)
        if opcode == _SCHEMA:
            name, encoding, text = fields.text(), fields.text(), fields.text()
            self._schemas[key] = (name, encoding, text)
            return
        schema = fields.number("<H", 2)
        topic, encoding = fields.text(), fields.text()
        name, schema_encoding, text = self._schemas.get(schema, ("", "", ""))
        connection = Connection(topic, name, encoding, schema_encoding, text)
        known = self._connections.setdefault(key, connection)
        if known != connection:
            raise Damage(f"channel {key} is defined twice, as {known.topic} and as {topic}")

    def _read_metadata(self, body: bytes) -> None:
        fields = _Fields(body)
        name = fields.text()
        self.metadata[name] = fields.mapping()


def _index_after(data: mmap.mmap, at: int, size: int) -> NDArray[np.int64]:
    """The offsets in the message indexes that follow a chunk; empty where there are none."""
    entries = []
    while at + _INDEX.size <= size:
        opcode, length, _, count = _INDEX.unpack_from(data, at)
        if opcode != _MESSAGE_INDEX or length != 6 + count or count % 16 or at + _HEAD.size + length > size:
            break
        entries.append(np.frombuffer(data[at + _INDEX.size : at + _HEAD.size + length], "<i8")[1::2])
        at += _HEAD.size + length
    return np.sort(np.concatenate(entries)) if entries else np.zeros(0, np.int64)


def _indexed(buffer: bytes, offsets: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The table [N, 4] of the messages that begin at `offsets`, if each ends where the next begins and the last one the buffer."""
    size = len(buffer)
    if offsets[0] < 0 or offsets[-1] > size - _MESSAGE.size:
        return None
    # Far fewer bytes than the messages have, so one gather is cheaper than a loop over them.
    windows: NDArray[np.uint8] = np.ndarray((size - _MESSAGE.size + 1, _MESSAGE.size), np.uint8, buffer, 0, (1, 1))
    heads = windows[offsets]
    length = np.ascontiguousarray(heads[:, 1:9]).view("<i8")[:, 0]
    if (heads[:, 0] != _MESSAGE_OP).any() or (length < 22).any() or (length > size).any():
        return None
    ends = offsets + _HEAD.size + length
    if (ends[:-1] != offsets[1:]).any() or ends[-1] != size:
        return None
    channel = np.ascontiguousarray(heads[:, 9:11]).view("<u2")[:, 0].astype(np.int64)
    log_time = np.ascontiguousarray(heads[:, 15:23]).view("<i8")[:, 0]
    return np.stack([offsets + _MESSAGE.size, length - 22, channel, log_time], axis=1)


def _run(buffer: bytes, at: int, length: int) -> NDArray[np.int64]:
    """The table [N, 4] of consecutive message records of one length from `at` on."""
    stride = _HEAD.size + length
    count = (len(buffer) - at) // stride

    def column(offset: int, dtype: str) -> NDArray[Any]:
        values: NDArray[Any] = np.ndarray((count,), dtype, buffer, at + offset, (stride,))
        return values

    same = (column(0, "u1") == _MESSAGE_OP) & (column(1, "<u8") == length)
    count = count if same.all() else int(same.argmin())
    table = np.empty((count, 4), np.int64)
    table[:, 0] = np.arange(count, dtype=np.int64) * stride + (at + _MESSAGE.size)
    table[:, 1] = length - 22
    table[:, 2] = column(9, "<u2")
    table[:, 3] = column(15, "<i8")
    return table


def _inflate(compression: bytes, data: memoryview, size: int, at: int) -> bytes:
    """A chunk's records, never more than `size` bytes."""
    try:
        if compression == b"zstd":
            announced = zstandard.frame_content_size(data)
            if announced > size:
                raise Damage(f"the chunk at byte {at} inflates past its announced size")
            return zstandard.ZstdDecompressor().decompress(data, max_output_size=size) if size else b""
        if compression == b"lz4":
            return bytes(lz4.frame.LZ4FrameDecompressor().decompress(bytes(data), max_length=size + 1))
        if compression == b"":
            return bytes(data)
    except (zstandard.ZstdError, RuntimeError, EOFError, ValueError) as error:
        raise Damage(f"the chunk at byte {at} cannot be decompressed: {error}") from None
    raise Damage(f"the chunk at byte {at} has the unknown compression {compression!r}")


class _Fields:
    """Reads the fields of a definition; whatever does not fit is damage."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def number(self, layout: str, size: int) -> int:
        try:
            (value,) = struct.unpack_from(layout, self._body, self._at)
        except struct.error:
            raise Damage("a definition is too short") from None
        self._at += size
        return int(value)

    def text(self) -> str:
        length = self.number("<I", 4)
        raw = self._body[self._at : self._at + length]
        if len(raw) != length:
            raise Damage("a definition is too short")
        self._at += length
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise Damage("a definition is not text") from None

    def mapping(self) -> dict[str, str]:
        end = self.number("<I", 4) + self._at
        if end > len(self._body):
            raise Damage("a definition is too short")
        values = {}
        while self._at < end:
            key = self.text()
            values[key] = self.text()
        return values
