"""One storage file of any kind: MCAP or sqlite3, plain, compressed as a whole or message by message."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import zstandard

from wm_ros.contract.errors import UserError
from wm_ros.data.block import Block, Damage, Limits, refuse_bomb
from wm_ros.data.mcap_scan import McapScan
from wm_ros.data.sqlite_scan import SqliteScan

SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
_ZSTD = np.frombuffer(b"\x28\xb5\x2f\xfd", np.uint8)
_PIECE = 1 << 20

Scan = McapScan | SqliteScan


def is_storage(path: Path) -> bool:
    """Whether the name is one of a storage file."""
    return path.name.endswith(SUFFIXES)


@contextlib.contextmanager
def opened(path: Path, limits: Limits) -> Iterator[Scan]:
    """The scan of a storage file; one that was compressed as a whole is unpacked into a temporary file for the time being.

    Raises:
        UserError: the name says nothing known, or the file cannot be unpacked within the limits.
    """
    if path.suffix == ".zstd":
        with tempfile.TemporaryDirectory(prefix="wm_ros_bag_") as folder:
            plain = Path(folder) / path.stem
            fault = _unpack(path, plain, limits)
            scan = _scan(plain, limits, path)
            scan.fault = fault
            yield scan
    else:
        yield _scan(path, limits, path)


def _scan(path: Path, limits: Limits, shown: Path) -> Scan:
    if path.suffix == ".mcap":
        return McapScan(path, limits)
    if path.suffix == ".db3":
        return SqliteScan(path, limits)
    raise UserError(f"{shown}: not a bag's file: give a rosbag2 directory or a file that ends in {', '.join(SUFFIXES)}")


def _unpack(path: Path, to: Path, limits: Limits) -> str:
    """Writes the file's contents, as far as they are sound; gives the fault or an empty string."""
    written = 0
    try:
        with open(path, "rb") as packed, open(to, "wb") as plain, zstandard.ZstdDecompressor().stream_reader(packed) as stream:
            while piece := stream.read(_PIECE):
                written += len(piece)
                if written > limits.file_bytes:
                    raise refuse_bomb(path, written, limits.file_bytes)
                plain.write(piece)
    except zstandard.ZstdError as error:
        return f"cannot be decompressed after {written} bytes: {error}"
    except OSError as error:
        raise UserError(f"{path}: cannot be unpacked into {to.parent}: {error.strerror}: free some space there") from None
    return ""


def plain_messages(block: Block, limits: Limits, path: Path) -> Block:
    """The block with every message decompressed and the file noted.

    A message that begins with a zstd frame is compressed: CDR begins with a zero.

    Raises:
        Damage: a message cannot be decompressed.
        UserError: a message is beyond the limits.
    """
    buffer = np.frombuffer(block.buffer, np.uint8)
    long = np.flatnonzero(block.length >= 4)
    if not len(long) or buffer[block.offset[long[0]]] != _ZSTD[0]:
        # Bags are compressed as a whole or not at all, so the first message tells.
        return replace(block, path=path)
    pieces, table, at = [], np.empty((len(block), 2), np.int64), 0
    for i, (offset, length) in enumerate(zip(block.offset.tolist(), block.length.tolist(), strict=True)):
        data = block.buffer[offset : offset + length]
        data = plain_message(data, limits, path)
        pieces.append(data)
        table[i] = at, len(data)
        at += len(data)
    stored = np.stack([block.offset, block.length], axis=1)
    return replace(block, buffer=b"".join(pieces), offset=table[:, 0], length=table[:, 1], stored=stored, path=path)


def plain_message(data: bytes, limits: Limits, path: Path) -> bytes:
    """A message's CDR, decompressed if need be; see `plain_messages`."""
    return _inflate(data, limits, path) if data[:4] == _ZSTD.tobytes() else data


def _inflate(data: bytes, limits: Limits, path: Path) -> bytes:
    try:
        size = zstandard.frame_content_size(data)
        if size > limits.chunk_bytes:
            raise refuse_bomb(path, size, limits.chunk_bytes)
        if size >= 0:
            return zstandard.ZstdDecompressor().decompress(data)
        pieces, total = [], 0
        with zstandard.ZstdDecompressor().stream_reader(data) as stream:
            while piece := stream.read(_PIECE):
                total += len(piece)
                if total > limits.chunk_bytes:
                    raise refuse_bomb(path, total, limits.chunk_bytes)
                pieces.append(piece)
        return b"".join(pieces)
    except zstandard.ZstdError as error:
        raise Damage(f"a message cannot be decompressed: {error}") from None
