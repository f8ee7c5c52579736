"""Reads one sqlite3 storage file of rosbag2, in blocks."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np

from wm_ros.contract.errors import UserError
from wm_ros.data.block import Block, Connection, Damage, Limits, Survey, refuse_bomb

_ROWS = 4096
_BYTES = 1 << 20
_FAULTS = (sqlite3.Error, OverflowError, UnicodeDecodeError, MemoryError)
"""What a damaged database raises; sqlite3 runs out of memory where a record claims an absurd size."""
_MAX_TIME = 2**62  # the year 2116; differences of two times still fit


class SqliteScan:
    """One pass over a file.

    After `blocks()` is exhausted, `lost_bytes` and `fault` say what could not be read.
    """

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self.path = path
        self.limits = limits or Limits()
        self.metadata: dict[str, dict[str, str]] = {}
        """sqlite3 storage has no place for it."""
        self.lost_bytes = 0
        self.fault = ""
        """Empty, or why reading ended before the last message."""
        self.unguarded = 0
        """Messages without a checksum: all."""

    def blocks(self) -> Iterator[Block]:
        """The file's messages in the order in which they were written.

        Raises:
            UserError: no rosbag2 database, or a message beyond the limits.
        """
        database = self._open()
        try:
            connections = self._connections(database)
            size = self.path.stat().st_size
            pieces: list[bytes] = []
            table: list[tuple[int, int, int, int]] = []
            at = done = place = 0
            try:
                rows = database.execute(
                    "SELECT id, topic_id, timestamp, length(data), CASE WHEN length(data) <= ? THEN data END FROM messages ORDER BY id",
                    (self.limits.chunk_bytes,),
                )
                for row, topic, stamp, length, data in rows:
                    if data is None and isinstance(length, int) and length > self.limits.chunk_bytes:
                        raise refuse_bomb(self.path, length, self.limits.chunk_bytes)
                    if topic not in connections or not isinstance(data, bytes) or not isinstance(stamp, int) or not 0 <= stamp <= _MAX_TIME:
                        raise sqlite3.DatabaseError("a message without topic, time or data")
                    if not table:
                        place = row
                    table.append((at, len(data), topic, stamp))
                    self.unguarded += 1
                    pieces.append(data)
                    at += len(data)
                    if len(table) >= _ROWS or at >= _BYTES:
                        yield _block(pieces, table, connections, place)
                        done += at
                        pieces, table, at = [], [], 0
                if table:
                    yield _block(pieces, table, connections, place)
            except _FAULTS as error:
                if table:
                    yield _block(pieces, table, connections, place)
                self.fault = str(error)
                self.lost_bytes = max(size - done - at, 0)
        finally:
            database.close()

    def buffer(self, place: int, reach: int) -> bytes:
        """The buffer of a block that was read before, at least its first `reach` bytes.

        Raises:
            Damage: it is not there any more.
        """
        database = self._open()
        pieces: list[bytes] = []
        size = 0
        try:
            for (data,) in database.execute("SELECT data FROM messages WHERE id >= ? ORDER BY id", (place,)):
                pieces.append(data)
                size += len(data)
                if size >= reach:
                    return b"".join(pieces)
        except (*_FAULTS, TypeError) as error:
            raise Damage(str(error)) from None
        finally:
            database.close()
        raise Damage(f"the messages from row {place} on are gone")

    def survey(self) -> Survey | None:
        """Topics and counts from the tables; None where they cannot be read."""
        database = self._open()
        try:
            connections = self._connections(database)
            counts = dict(database.execute("SELECT topic_id, count(*) FROM messages GROUP BY topic_id"))
        except _FAULTS:
            return None
        finally:
            database.close()
        return Survey(connections, {key: int(counts.get(key, 0)) for key in connections}, {})

    def _open(self) -> sqlite3.Connection:
        # Immutable: nothing beside the file is made or needed, so a bag on a read-only disk can be read.
        database = sqlite3.connect(f"file:{quote(str(self.path))}?mode=ro&immutable=1", uri=True)
        if sys.version_info >= (3, 11):
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, self.limits.chunk_bytes + _BYTES)
        return database

    def _connections(self, database: sqlite3.Connection) -> dict[int, Connection]:
        try:
            topics = database.execute("SELECT id, name, type, serialization_format FROM topics").fetchall()
        except _FAULTS as error:
            raise UserError(f"{self.path}: not a rosbag2 database: {error}: check the path") from None
        try:
            rows = database.execute("SELECT topic_type, encoding, encoded_message_definition FROM message_definitions").fetchall()
            definitions = {str(kind): (str(encoding), str(text)) for kind, encoding, text in rows}
        except _FAULTS:
            definitions = {}  # Humble and older have none
        try:
            return {
                int(key): Connection(str(name), str(kind), str(encoding), *definitions.get(str(kind), ("", "")))
                for key, name, kind, encoding in topics
            }
        except (TypeError, ValueError):
            raise UserError(f"{self.path}: its table of topics is damaged: leave the file out") from None


def _block(pieces: list[bytes], rows: list[tuple[int, int, int, int]], connections: dict[int, Connection], place: int) -> Block:
    table = np.array(rows, dtype=np.int64)
    return Block(b"".join(pieces), table[:, 0], table[:, 1], table[:, 2], table[:, 3], connections, place)
