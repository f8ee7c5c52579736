"""Images of a bag, decoded when they are asked for: in parallel, and as the live assembler decodes them."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wm_ros.contract.assembler import BadMessage, ChannelReader
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Channel
from wm_ros.data import storage
from wm_ros.data.block import Block, Connection, Damage, Limits
from wm_ros.data.ros_types import SerdeError, Typestore, bag_store, deserialize

_KEPT_BYTES = 64 << 20
"""Of decompressed chunks, for each channel: neighbouring frames stand in one chunk."""
_AHEAD = 4
"""Messages per thread that wait to be decoded, so that a long slice holds few of them."""
_TOGETHER = 64
"""Frames that an iteration decodes at once."""
UNDECODABLE = (SerdeError, AttributeError, TypeError, ValueError, LookupError)
"""What a message gives whose definition in the bag is not that of its type's name."""


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads(), thread_name_prefix="decode")


def _threads() -> int:
    return min(len(os.sched_getaffinity(0)), 8)


# A forked process has none of its parent's threads.
os.register_at_fork(after_in_child=_pool.cache_clear)


def as_png(frames: NDArray[np.uint8]) -> list[bytes]:
    """Each of the frames [n, H, W, C] as a PNG file, compressed in parallel."""
    return list(_pool().map(_png, frames))


def _png(frame: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).save(file, "png", compress_level=1)
    return file.getvalue()


class ImageStore:
    """Finds the messages of one image channel in a bag's files again. May be pickled; the files must stay where they are."""

    def __init__(self, channel: Channel, limits: Limits | None = None) -> None:
        self.channel = channel
        self.limits = limits or Limits()
        self.files: list[Path] = []
        self._connection: Connection | None = None
        self._open_up()

    def _open_up(self) -> None:
        self._lock = threading.Lock()
        self._buffers: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._scans: dict[int, storage.Scan] = {}
        self._opened = contextlib.ExitStack()
        self._reader = ChannelReader(self.channel)
        self._types: Typestore | None = None
        weakref.finalize(self, self._opened.close)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("channel", "limits", "files", "_connection")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open_up()

    def note(self, block: Block, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where messages stand: [K, 4], number of the file, place of the block, offset and length.

        Args:
            block: as the bag gave it.
            rows: [K], messages in it.
        """
        path = block.path or Path()
        if not self.files or self.files[-1] != path:
            self.files.append(path)
        if self._connection is None and len(rows):
            self._connection = block.connections.get(int(block.channel[rows[0]]))
        where = np.empty((len(rows), 4), np.int64)
        where[:, 0], where[:, 1] = len(self.files) - 1, block.place
        where[:, 2:] = np.stack([block.offset, block.length], axis=1)[rows] if block.stored is None else block.stored[rows]
        return where

    def read(self, where: NDArray[np.int64]) -> bytes:
        """The CDR of one message.

        Args:
            where: [4], see `note`.

        Raises:
            UserError: the file has gone or was changed.
        """
        file, place, offset, length = where.tolist()
        path = self.files[file]
        try:
            with self._lock:
                buffer = self._buffer(file, place, offset + length)
            raw = buffer[offset : offset + length]
            if len(raw) != length:
                raise Damage("it is shorter than it was")
            return storage.plain_message(raw, self.limits, path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read again: {error.strerror}: leave the bag there while its images are used") from None
        except Damage as error:
            raise UserError(f"{path}: was changed while its images were used: {error}: start anew") from None

    def _buffer(self, file: int, place: int, reach: int) -> bytes:
        key = (file, place)
        buffer = self._buffers.pop(key, None)
        if buffer is None or len(buffer) < reach:
            if file not in self._scans:
                self._scans[file] = self._opened.enter_context(storage.opened(self.files[file], self.limits))
            buffer = self._scans[file].buffer(place, reach)
        self._buffers[key] = buffer  # the newest is last
        while len(self._buffers) > 1 and sum(map(len, self._buffers.values())) > _KEPT_BYTES:
            self._buffers.popitem(last=False)
        return buffer

    def decode(self, raw: bytes) -> NDArray[np.uint8]:
        """The picture [H, W, C] in a message.

        Raises:
            BadMessage: the picture is damaged.
        """
        if self._types is None:
            known = self._connection
            self._types = bag_store({known.type: (known.schema_encoding, known.schema)} if known else {})
        try:
            return self._reader.image(deserialize(self._types, raw, self.channel.type))
        except BadMessage:
            raise
        except UNDECODABLE as error:
            raise BadMessage("undecodable", f"{self.channel.topic}: {error}") from None

    def decode_all(self, where: NDArray[np.int64]) -> Iterator[NDArray[np.uint8] | BadMessage]:
        """The pictures at `where` [K, 4], one after the other, decoded in parallel; the fault in place of a damaged one."""
        pending: deque[Future[NDArray[np.uint8] | BadMessage]] = deque()
        for row in where:
            pending.append(_pool().submit(self._try, self.read(row)))
            if len(pending) >= _AHEAD * _threads():
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _try(self, raw: bytes) -> NDArray[np.uint8] | BadMessage:
        try:
            return self.decode(raw)
        except BadMessage as bad:
            return bad


class Images:
    """The N messages of an image channel, or some of them, in the order of their samples."""

    def __init__(self, store: ImageStore, where: NDArray[np.int64], seen: dict[str, int]) -> None:
        """
        Args:
            store: reads them.
            where: [N, 4], see `ImageStore.note`.
            seen: size and encoding, such as `640x480 bgr8` → how many messages of the channel.
        """
        self.store = store
        self.where = where
        self.seen = seen

    def take(self, rows: slice | NDArray[np.int64]) -> Images:
        """Some of them."""
        return Images(self.store, self.where[rows], self.seen)


class Frames:
    """What an image channel showed at K ticks, as the contract wants it. Nothing is decoded before it is asked for.

    `frames[k]` is one frame [H, W, C], `frames[a:b]` and `frames[[1, 5, 7]]` are several [n, H, W, C], decoded in parallel, and
    `numpy.asarray(frames)` is all of them. A frame that turns out to be damaged is replaced by the one before it, as it is live, while that
    is not older than the channel allows. May be used by several threads and pickled.
    """

    def __init__(self, images: Images, chosen: NDArray[np.int64], oldest: NDArray[np.int64]) -> None:
        """
        Args:
            images: the channel's messages.
            chosen: [K], which of them is shown at each tick.
            oldest: [K], the oldest one that is fresh enough to stand in for it.
        """
        self._images = images
        self._chosen = chosen
        self._oldest = oldest
        form = images.store.channel.image
        if form is None:
            raise ValueError(f"channel {images.store.channel.name} has no images")
        self._frame_shape = form.shape

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[K, H, W, C]."""
        return (len(self), *self._frame_shape)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Always uint8."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self._chosen)

    def part(self, begin: int, stop: int) -> Frames:
        """The frames from `begin` to before `stop`, not decoded."""
        return Frames(self._images, self._chosen[begin:stop], self._oldest[begin:stop])

    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[Any], /) -> NDArray[np.uint8]:
        ticks = np.arange(len(self))[index]
        shown: NDArray[np.uint8] = self._decoded(np.atleast_1d(ticks))
        return shown if ticks.ndim else shown[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for begin in range(0, len(self), _TOGETHER):
            yield from self[begin : begin + _TOGETHER]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def _decoded(self, ticks: NDArray[np.int64]) -> NDArray[np.uint8]:
        """[n, H, W, C]. A frame that is held over several ticks is decoded once."""
        unique, places = np.unique(self._chosen[ticks], return_inverse=True)
        out = np.empty((len(ticks), *self._frame_shape), np.uint8)
        groups = np.split(np.argsort(places, kind="stable"), np.cumsum(np.bincount(places))[:-1])
        for group, frame in zip(groups, self._images.store.decode_all(self._images.where[unique]), strict=False):
            for place in group:
                out[place] = frame if not isinstance(frame, BadMessage) else self._before(int(ticks[place]), frame)
        return out

    def _before(self, tick: int, fault: BadMessage) -> NDArray[np.uint8]:
        """The newest whole frame before the damaged one of a tick."""
        store, where = self._images.store, self._images.where
        for i in range(int(self._chosen[tick]) - 1, int(self._oldest[tick]) - 1, -1):
            with contextlib.suppress(BadMessage):
                return store.decode(store.read(where[i]))
        file = store.files[int(where[self._chosen[tick], 0])]
        raise UserError(f"{file}: {fault}; no frame before it is fresh enough: see `wm-ros bag check`, leave the bag out") from None
