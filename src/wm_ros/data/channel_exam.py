"""The figures of one channel of a bag, gathered block by block: none of its messages is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.assembler import BadMessage
from wm_ros.contract.schema import Channel, Contract
from wm_ros.data.columns import ChannelColumns
from wm_ros.data.images import Images
from wm_ros.data.median import Median
from wm_ros.data.recording import CLOCK_JUMP_NS

_NS = 1e9
_AT_LIMIT = 1e-3
"""An action this close to a limit, as a fraction of the range, counts as saturated."""


class Disorder(Exception):
    """Blocks do not come in the order of reception, so their messages must be put in order first."""


@dataclass(frozen=True)
class FeatureReport:
    """The values of one feature."""

    name: str
    units: str
    low: float | None
    """Limit by the contract."""
    high: float | None
    minimum: float | None
    """Seen; None where the channel has no usable message."""
    maximum: float | None
    below: int
    """Values under `low`."""
    above: int
    """Values over `high`."""
    saturated: float | None
    """Fraction of the commands at a limit; None for sensors."""


@dataclass(frozen=True)
class ImageReport:
    """The pictures of an image channel."""

    wanted: str
    """Size and encoding by the contract, such as `84x84 rgb8` (width first)."""
    seen: dict[str, int]
    """Size and encoding in the messages → how many."""
    damaged: int
    """Pictures that cannot be decoded; the one before is shown in their place."""
    example: str
    """What is wrong with the first of them."""


@dataclass(frozen=True)
class ChannelReport:
    """One channel of the contract in one bag. Times in seconds."""

    name: str
    topic: str
    """As recorded; empty where the bag has no such topic."""
    type: str
    messages: int
    """Usable ones."""
    refused: dict[str, int]
    """Reason (non_finite, missing_joint, size, names, frame, field, undecodable) → messages that cannot be used."""
    example: str
    """What was wrong with the first of them."""
    rate_hz: float | None
    jitter_s: float | None
    """Standard deviation of the distance of stamps, gaps left out."""
    gaps: int
    """Distances longer than the channel's limit."""
    longest_gap_s: float
    out_of_order: int
    """Stamps a little older than the one before."""
    duplicates: int
    """Stamps equal to the one before."""
    clock_jumps: int
    """Stamps that leapt by more than a second while the receiver's clock did not."""
    delay_s: float | None
    """Median of reception after stamp; None without header stamps."""
    features: tuple[FeatureReport, ...]
    image: ImageReport | None = None


class ChannelExam:
    """Takes a channel's messages in the order of reception."""

    def __init__(self, channel: Channel, contract: Contract | None = None) -> None:
        """
        Args:
            channel: what is examined.
            contract: whose action the channel is; None for a sensor.
        """
        self.channel, self.contract = channel, contract
        self._features = [_FeatureExam(channel, i, contract) for i in range(len(channel.features))]
        self._steps = _Spread()
        """Of the distances of stamps, gaps left out."""
        self._delay = Median()
        self._messages = self._gaps = self._out_of_order = self._duplicates = self._leaps = self._longest = 0
        self._last: tuple[int, int] | None = None
        self._refused: dict[str, int] = {}
        self._example = ""
        self._images: list[Images] = []

    def add(self, columns: ChannelColumns) -> None:
        """The next messages, with the refusals of all so far.

        Raises:
            Disorder: they came before those that were added last.
        """
        self._refused, self._example = columns.refused, columns.example
        if columns.images is not None:
            self._images.append(columns.images)
        if not len(columns):
            return
        stamp, received = columns.stamp, columns.received
        if self._last is not None:
            if received[0] < self._last[1]:
                raise Disorder
            stamp, received = (np.concatenate([[last], new]) for last, new in zip(self._last, (stamp, received), strict=True))
        self._last = int(stamp[-1]), int(received[-1])
        self._messages += len(columns)
        step = np.diff(stamp)
        # A pause of the robot moves both clocks; a simulation that is slower than real time moves the stamps in small steps.
        leap = (np.abs(step) > CLOCK_JUMP_NS) & (np.abs(step - np.diff(received)) > CLOCK_JUMP_NS)
        gap = (step > self.channel.max_age_s * _NS) & ~leap
        self._steps.add(step[(step > 0) & ~gap & ~leap])
        self._gaps += int(gap.sum())
        self._longest = max(self._longest, int(step[gap].max(initial=0)))
        self._out_of_order += int(((step < 0) & ~leap).sum())
        self._duplicates += int((step == 0).sum())
        self._leaps += int(leap.sum())
        self._delay.add(columns.received - columns.stamp)
        for i, feature in enumerate(self._features):
            feature.add(columns.raw[:, i])

    def report(self, topic: str) -> ChannelReport:
        """The figures; pictures are decoded now."""
        delay = self._delay.value if self.channel.clock == "header" else None
        return ChannelReport(
            name=self.channel.name,
            topic=topic,
            type=self.channel.type,
            messages=self._messages,
            refused=self._refused,
            example=self._example,
            rate_hz=_NS / self._steps.mean if self._steps.count else None,
            jitter_s=self._steps.deviation / _NS if self._steps.count else None,
            gaps=self._gaps,
            longest_gap_s=self._longest / _NS,
            out_of_order=self._out_of_order,
            duplicates=self._duplicates,
            clock_jumps=self._leaps,
            delay_s=delay / _NS if delay is not None else None,
            features=tuple(feature.report() for feature in self._features),
            image=self._image(),
        )

    def _image(self) -> ImageReport | None:
        """Decodes every picture: nothing less finds the damaged ones."""
        form = self.channel.image
        if form is None:
            return None
        faults, example = 0, ""
        for images in self._images:
            for shown in images.store.decode_all(images.where):
                if isinstance(shown, BadMessage):
                    faults, example = faults + 1, example or str(shown)
        seen = self._images[-1].seen if self._images else {}
        return ImageReport(f"{form.width}x{form.height} {form.encoding}", seen, faults, example)


class _Spread:
    """Mean and standard deviation of very many numbers, by Chan, Golub and LeVeque's update for blocks."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, values: NDArray[np.int64]) -> None:
        if not len(values):
            return
        mean, count = float(values.mean()), len(values)
        apart, total = mean - self.mean, self.count + count
        self._squares += float(((values - mean) ** 2).sum()) + apart**2 * self.count * count / total
        self.mean += apart * count / total
        self.count = total

    @property
    def deviation(self) -> float:
        return float(np.sqrt(self._squares / self.count))


class _FeatureExam:
    """The values of one feature."""

    def __init__(self, channel: Channel, index: int, contract: Contract | None) -> None:
        self._feature = channel.features[index]
        self._low, self._high, self._margin = self._feature.low, self._feature.high, 0.0
        self._is_action = contract is not None
        if contract is not None:
            joint = contract.action.joints[index]
            self._low, self._high, self._margin = joint.low, joint.high, _AT_LIMIT * (joint.high - joint.low)
        self._minimum = self._maximum = 0.0
        self._count = self._below = self._above = self._saturated = 0

    def add(self, values: NDArray[np.float64]) -> None:
        least, most = float(values.min()), float(values.max())
        self._minimum, self._maximum = (min(least, self._minimum), max(most, self._maximum)) if self._count else (least, most)
        self._count += len(values)
        if self._low is not None:
            self._below += int((values < self._low).sum())
        if self._high is not None:
            self._above += int((values > self._high).sum())
        if self._is_action and self._low is not None and self._high is not None:
            self._saturated += int(((values <= self._low + self._margin) | (values >= self._high - self._margin)).sum())

    def report(self) -> FeatureReport:
        seen = self._count > 0
        return FeatureReport(
            name=self._feature.name,
            units=self._feature.units,
            low=self._low,
            high=self._high,
            minimum=self._minimum if seen else None,
            maximum=self._maximum if seen else None,
            below=self._below,
            above=self._above,
            saturated=self._saturated / self._count if self._is_action and seen else None,
        )
