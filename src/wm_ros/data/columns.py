"""A contract channel's messages as columns: in bulk where the messages are alike, one by one where they are not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.assembler import BadMessage, ChannelReader
from wm_ros.contract.schema import Channel
from wm_ros.data.block import Block, Limits
from wm_ros.data.cdr_layout import Layout, Leaf, NoLayout, layout_of
from wm_ros.data.images import UNDECODABLE, Images, ImageStore
from wm_ros.data.ros_types import SerdeError, Typestore, deserialize

_MAX_SHAPES = 64
_FEW = 4


@dataclass(frozen=True, eq=False)
class ChannelColumns:
    """The N usable messages of a channel, in the order of reception."""

    raw: NDArray[np.float64]
    """[N, F], the features in the contract's order."""
    stamp: NDArray[np.int64]
    """[N], ns on the robot's clock (or of reception, as the channel says)."""
    received: NDArray[np.int64]
    """[N], ns."""
    refused: dict[str, int]
    """Reason → messages that were not used; the reasons are those of BadMessage, and `undecodable`."""
    example: str = ""
    """What was wrong with the first message that was refused."""
    images: Images | None = None
    """[N], of an image channel; they are not decoded yet."""

    def __len__(self) -> int:
        return len(self.stamp)

    def take(self, rows: slice | NDArray[np.int64]) -> ChannelColumns:
        """Some of the messages; without a copy where `rows` is a slice."""
        images = self.images.take(rows) if self.images is not None else None
        return replace(self, raw=self.raw[rows], stamp=self.stamp[rows], received=self.received[rows], images=images)


@dataclass(frozen=True)
class _Shape:
    """A layout, and where in it the channel's features and stamp stand."""

    layout: Layout
    places: tuple[tuple[Leaf, int], ...]
    """(leaf, index) of each feature."""
    seconds: Leaf | None
    nanoseconds: Leaf | None
    refused: BadMessage | None
    """Why no message of this shape can be used."""


class ColumnDecoder:
    """Collects the columns of one channel from the blocks of a bag.

    Bulk and single decoding give the same bits: the bulk path takes its rules from the ChannelReader, by letting it read the first
    message of every shape.
    """

    def __init__(self, channel: Channel, message_type: str, store: Typestore, limits: Limits | None = None) -> None:
        """
        Args:
            channel: features and stamp to take.
            message_type: type in the bag; the channel's, or nothing is usable.
            store: definitions, the bag's own first.
            limits: the bag's, for reading images of it later.
        """
        self.channel = channel
        self._type = message_type
        self._store = store
        self._reader = ChannelReader(channel)
        self._shapes: dict[int, list[_Shape]] = {}
        self._shape_count = 0
        self._pieces: list[tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]] = []
        self._images = ImageStore(channel, limits) if channel.image is not None else None
        self._where: list[NDArray[np.int64]] = []
        self._seen: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._example = ""

    def add(self, block: Block, rows: NDArray[np.int64], *, bulk: bool = True) -> None:
        """Takes messages in.

        Args:
            block: where they stand.
            rows: [K], indices of this channel's messages in the block, rising.
            bulk: False decodes one by one; for tests and comparison.
        """
        features = len(self.channel.features)
        raw = np.full((len(rows), features), np.nan)
        received = block.log_time[rows]
        stamp = received.copy()  # what a channel without header stamps keeps
        usable = np.zeros(len(rows), np.bool_)
        pending = np.arange(len(rows))
        if bulk and len(rows) >= _FEW and self._images is None:
            pending = self._in_bulk(block, rows, raw, stamp, usable)
        for i in pending:
            self._single(block, int(rows[i]), int(i), raw, stamp, usable)
        self._pieces.append((raw[usable], stamp[usable], received[usable]))
        if self._images is not None:
            self._where.append(self._images.note(block, rows[usable]))

    def columns(self) -> ChannelColumns:
        """What was collected; the decoder is empty afterwards."""
        count = sum(len(p[1]) for p in self._pieces)
        raw = np.empty((count, len(self.channel.features)))
        stamp, received = np.empty(count, np.int64), np.empty(count, np.int64)
        # From the end, each piece freed when it is copied, so that the whole is in memory only once.
        while self._pieces:
            last = self._pieces.pop()
            here = slice(count - len(last[1]), count)
            raw[here], stamp[here], received[here] = last
            count = here.start
        images = None
        if self._images is not None:
            images = Images(self._images, np.concatenate([np.zeros((0, 4), np.int64), *self._where]), dict(self._seen))
            self._where = []
        found = ChannelColumns(raw, stamp, received, dict(self._refused), self._example, images)
        if (np.diff(received) < 0).any():
            order = np.argsort(received, kind="stable")
            found = found.take(order)
        return found

    # ---- one by one -----------------------------------------------------------------------------------------------

    def _single(
        self, block: Block, row: int, i: int, raw: NDArray[np.float64], stamp: NDArray[np.int64], usable: NDArray[np.bool_]
    ) -> None:
        at = int(block.offset[row])
        try:
            message = deserialize(self._store, block.buffer[at : at + int(block.length[row])], self._type)
            if self._images is None:
                raw[i] = self._reader.read(message)
            else:
                self._reader.check_frame(message)
                self._seen[str(self._reader.seen(message))] += 1
            stamp[i] = self._reader.time_ns(message, int(block.log_time[row]))
            usable[i] = True
        except BadMessage as error:
            self._refuse(error.reason, str(error), 1)
        except UNDECODABLE as error:
            self._refuse("undecodable", f"{self.channel.topic}: {error}", 1)

    def _refuse(self, reason: str, text: str, count: int) -> None:
        self._refused[reason] += count
        self._example = self._example or text

    # ---- in bulk --------------------------------------------------------------------------------------------------

    def _in_bulk(
        self, block: Block, rows: NDArray[np.int64], raw: NDArray[np.float64], stamp: NDArray[np.int64], usable: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Fills what has a known or a learnable shape; gives the indices of the others."""
        single: list[NDArray[np.int64]] = []
        lengths = block.length[rows]
        for length in np.unique(lengths).tolist():
            group = np.flatnonzero(lengths == length)
            bytes_of = _rows(block, rows[group], length)
            for shape in self._shapes_for(length, block, rows, group, bytes_of):
                same = shape.layout.matches(bytes_of)
                if same.all():
                    self._fill(shape, group, bytes_of, raw, stamp, usable)
                    group = group[:0]
                    break
                self._fill(shape, group[same], bytes_of[same], raw, stamp, usable)
                group, bytes_of = group[~same], bytes_of[~same]
                if not len(group):
                    break
            single.append(group)
        return np.sort(np.concatenate(single)) if single else np.zeros(0, np.int64)

    def _shapes_for(self, length: int, block: Block, rows: NDArray[np.int64], group: NDArray[np.int64], bytes_of: NDArray[np.uint8]) -> Any:
        """The shapes of this length, known ones first; new ones are learned from what remains, as long as there are few."""
        known = self._shapes.setdefault(length, [])
        yield from list(known)
        remaining = bytes_of
        for shape in known:
            remaining = remaining[~shape.layout.matches(remaining)]
        while len(remaining) >= _FEW and self._shape_count < _MAX_SHAPES:
            shape_or_none = self._learn(remaining[0].tobytes())
            if shape_or_none is None:
                return
            known.append(shape_or_none)
            self._shape_count += 1
            yield shape_or_none
            remaining = remaining[~shape_or_none.layout.matches(remaining)]

    def _learn(self, first: bytes) -> _Shape | None:
        """The shape of a message; None where it must be read one by one."""
        try:
            layout = layout_of(first, self._type, self._store)
            message = deserialize(self._store, first, self._type)
        except (NoLayout, SerdeError):
            return None
        refused, values = None, None
        try:
            values = self._reader.read(message)
        except BadMessage as error:
            if error.reason != "non_finite":
                refused = error
        except UNDECODABLE:
            return None
        if refused is not None:
            return _Shape(layout, (), None, None, refused)
        try:
            places = tuple(self._place(layout, message, i) for i in range(len(self.channel.features)))
            header = self.channel.clock == "header"
            seconds = layout.leaves["header.stamp.sec"] if header else None
            nanoseconds = layout.leaves["header.stamp.nanosec"] if header else None
        except (KeyError, ValueError):
            return None
        shape = _Shape(layout, places, seconds, nanoseconds, None)
        if values is not None:
            # The proof that the rules were understood: the same message, read both ways.
            own = self._values(shape, np.frombuffer(first, np.uint8)[None, :])[0]
            if own.tobytes() != values.tobytes():
                return None
        return shape

    def _place(self, layout: Layout, message: Any, index: int) -> tuple[Leaf, int]:
        feature = self.channel.features[index]
        if feature.joint is not None:
            leaf = layout.leaves[feature.field]
            return leaf, list(message.name).index(feature.joint)
        leaf = layout.leaves[feature.field]
        if leaf.scalar != (feature.index is None):
            raise KeyError(feature.name)
        place = feature.index or 0
        if place >= leaf.count:
            raise KeyError(feature.name)
        return leaf, place

    def _values(self, shape: _Shape, bytes_of: NDArray[np.uint8]) -> NDArray[np.float64]:
        """[N, F] of messages [N, size] of one shape."""
        values = np.empty((len(bytes_of), len(shape.places)))
        cache: dict[Leaf, NDArray[Any]] = {}
        for i, (leaf, place) in enumerate(shape.places):
            if leaf not in cache:
                cache[leaf] = shape.layout.column(bytes_of, leaf)
            values[:, i] = cache[leaf][:, place]
        return values

    def _fill(
        self,
        shape: _Shape,
        group: NDArray[np.int64],
        bytes_of: NDArray[np.uint8],
        raw: NDArray[np.float64],
        stamp: NDArray[np.int64],
        usable: NDArray[np.bool_],
    ) -> None:
        if not len(group):
            return
        if shape.refused is not None:
            self._refuse(shape.refused.reason, str(shape.refused), len(group))
            return
        values = self._values(shape, bytes_of)
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            first = values[~finite][0]
            names = [f.name for f, v in zip(self.channel.features, first, strict=True) if not np.isfinite(v)]
            self._refuse("non_finite", f"{self.channel.topic}: not a finite number: {', '.join(names)}", int((~finite).sum()))
        raw[group] = values
        if shape.seconds is not None and shape.nanoseconds is not None:
            seconds = shape.layout.column(bytes_of, shape.seconds)[:, 0].astype(np.int64)
            stamp[group] = seconds * 1_000_000_000 + shape.layout.column(bytes_of, shape.nanoseconds)[:, 0]
        usable[group] = finite


def _rows(block: Block, rows: NDArray[np.int64], length: int) -> NDArray[np.uint8]:
    """The bytes [N, length] of messages of one length; a view where they stand at equal distances."""
    offsets = block.offset[rows]
    steps = np.diff(offsets)
    if len(offsets) == 1 or (len(steps) and (steps == steps[0]).all() and steps[0] >= length):
        stride = int(steps[0]) if len(steps) else length
        view: NDArray[np.uint8] = np.ndarray((len(offsets), length), np.uint8, block.buffer, int(offsets[0]), (stride, 1))
        return view
    # Every window of this length, without a copy; picking rows of it copies each row at once.
    windows: NDArray[np.uint8] = np.ndarray((len(block.buffer) - length + 1, length), np.uint8, block.buffer, 0, (1, 1))
    return windows[offsets]
