"""Where the numbers stand in a CDR message, so that thousands of messages of one shape are decoded as one array."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.data.ros_types import TRAILING_BYTES, Nodetype, Typestore

_SIZES = {
    "bool": 1, "byte": 1, "char": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2,
    "int32": 4, "uint32": 4, "int64": 8, "uint64": 8, "float32": 4, "float64": 8,
}  # fmt: skip
_DTYPES = {name: f"{name[0]}{size}" for name, size in _SIZES.items() if name[0] in "iuf"}
_MAX_LEAVES = 4096
_MAX_DEPTH = 32


class NoLayout(Exception):
    """The type or the message is not one that can be read by position; read it field by field."""


@dataclass(frozen=True)
class Leaf:
    """A number, or an array of numbers, at a fixed place."""

    offset: int
    """Byte of the message, encapsulation header included."""
    dtype: str
    """numpy's, with byte order."""
    count: int
    """Values; 1 for a scalar."""
    scalar: bool


@dataclass(frozen=True, eq=False)
class Layout:
    """The shape of one message. Messages with the same structural bytes have their numbers at the same places."""

    size: int
    leaves: dict[str, Leaf]
    """Dotted path → place."""
    structure: tuple[tuple[int, bytes], ...]
    """(offset, bytes): lengths, strings and the encapsulation header; what makes the shape."""

    def matches(self, rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of the messages `rows` [N, size] have this shape: [N]."""
        same = np.ones(len(rows), np.bool_)
        for offset, expected in self.structure:
            # As one opaque value per row: comparing bytes and reducing them costs three times as much.
            part = np.ascontiguousarray(rows[:, offset : offset + len(expected)])
            same &= part.view(f"V{len(expected)}")[:, 0] == np.frombuffer(expected, f"V{len(expected)}")[0]
        return same

    def column(self, rows: NDArray[np.uint8], leaf: Leaf) -> NDArray[Any]:
        """The values [N, count] of a leaf in the messages `rows` [N, size]."""
        size = np.dtype(leaf.dtype).itemsize * leaf.count
        return np.ascontiguousarray(rows[:, leaf.offset : leaf.offset + size]).view(leaf.dtype)


def layout_of(raw: bytes, message_type: str, store: Typestore) -> Layout:
    """The layout of the message `raw` (CDR with its encapsulation header).

    Raises:
        NoLayout: the bytes do not fit the type, or the type holds arrays of messages.
    """
    walk = _Walk(raw, store)
    walk.message(message_type, "", 0)
    if walk.at > len(raw) or walk.at + TRAILING_BYTES <= len(raw):
        raise NoLayout("size")
    return Layout(len(raw), walk.leaves, tuple(_merged(walk.structure)))


def _merged(spans: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    merged: list[tuple[int, bytes]] = []
    for offset, part in spans:
        if merged and merged[-1][0] + len(merged[-1][1]) == offset:
            merged[-1] = (merged[-1][0], merged[-1][1] + part)
        else:
            merged.append((offset, part))
    return merged


class _Walk:
    """One walk through a message, noting places. Padding bytes belong to nobody: writers leave anything in them."""

    def __init__(self, raw: bytes, store: Typestore) -> None:
        if len(raw) < 4 or raw[:2] not in (b"\x00\x00", b"\x00\x01"):
            raise NoLayout("encapsulation")
        self.raw = raw
        self.store = store
        self.order = "<" if raw[1] else ">"
        self.at = 4
        self.leaves: dict[str, Leaf] = {}
        self.structure: list[tuple[int, bytes]] = [(0, raw[:2])]

    def message(self, message_type: str, prefix: str, depth: int) -> None:
        definition = self.store.fielddefs.get(message_type)
        if definition is None or depth > _MAX_DEPTH:
            raise NoLayout(message_type)
        for name, (kind, detail) in definition[1]:
            path = f"{prefix}{name}"
            if kind == Nodetype.NAME:
                self.message(detail, path + ".", depth + 1)
            elif kind == Nodetype.BASE:
                self._base(detail[0], path)
            else:
                self._array(kind, detail, path)

    def _base(self, base: str, path: str) -> None:
        if base == "string":
            self._string()
        else:
            self._numbers(base, 1, path, scalar=True)

    def _array(self, kind: Nodetype, detail: Any, path: str) -> None:
        (element, element_detail), bound = detail
        count = bound if kind == Nodetype.ARRAY else self._count()
        if element != Nodetype.BASE:
            if count:
                raise NoLayout("array of messages")
        elif element_detail[0] == "string":
            if count > len(self.raw):
                raise NoLayout("count")
            for _ in range(count):
                self._string()
        else:
            self._numbers(element_detail[0], count, path, scalar=False)

    def _numbers(self, base: str, count: int, path: str, *, scalar: bool) -> None:
        size = _SIZES.get(base)
        if size is None or len(self.leaves) >= _MAX_LEAVES:
            raise NoLayout(base)
        if count:
            self._align(size)
        if self.at + size * count > len(self.raw):
            raise NoLayout("size")
        if base in _DTYPES:  # bool, byte and char are left to the reading of single messages
            self.leaves[path] = Leaf(self.at, self.order + _DTYPES[base], count, scalar)
        self.at += size * count

    def _count(self) -> int:
        self._align(4)
        if self.at + 4 > len(self.raw):
            raise NoLayout("size")
        self.structure.append((self.at, self.raw[self.at : self.at + 4]))
        (count,) = struct.unpack_from(self.order + "I", self.raw, self.at)
        self.at += 4
        return int(count)

    def _string(self) -> None:
        length = self._count()
        if length < 1 or self.at + length > len(self.raw):
            raise NoLayout("string")
        self.structure.append((self.at, self.raw[self.at : self.at + length]))
        self.at += length

    def _align(self, size: int) -> None:
        self.at = (self.at - 4 + size - 1) // size * size + 4
