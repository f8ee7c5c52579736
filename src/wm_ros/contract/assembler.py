"""Stamped messages in, observation vector out: the same lines for live nodes and for bags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract import images
from wm_ros.contract.schema import Channel, Contract, Feature


class BadMessage(ValueError):
    """A message that must not be used; the text says which topic and why. `reason` is a short stable word."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Sample:
    """What one message said."""

    raw: NDArray[np.float64]
    """Raw feature values [F] of the channel, in the contract's order."""
    stamp_ns: int
    """Time of the sample on the robot's clock."""
    received_ns: int
    """When it came, on the receiver's steady clock (live) or receive stamp (bag)."""
    image: NDArray[np.uint8] | None = None
    """[H, W, C] of an image channel, where images are decoded."""


@dataclass(frozen=True)
class Observation:
    """An observation vector and its age."""

    vector: NDArray[np.float32]
    """[O], in the order of `Contract.observation_names`."""
    stamp_ns: int
    """Robot time of the oldest sample of the channels that date it; see `Contract.dating_channels`."""
    received_ns: int
    """Steady time at which the oldest sample came."""
    images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    """Image channel → [H, W, C]."""
    image_age_ns: dict[str, int] = field(default_factory=dict)
    """Image channel → how much older its sample is than `stamp_ns`, or, where times of reception count, than the newest sample."""


def stamp_ns(stamp: Any) -> int:
    """A builtin_interfaces/Time as nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def encode(contract: Contract, raw: NDArray[np.float64]) -> NDArray[np.float32]:
    """Raw feature values to observation vectors.

    Args:
        raw: [..., F], the features of all channels in the contract's order.

    Returns:
        [..., O] float32.
    """
    features = [f for c in contract.observation for f in c.features]
    if raw.shape[-1] != len(features):
        raise ValueError(f"raw {raw.shape} has {raw.shape[-1]} features, the contract has {len(features)}")
    columns: list[NDArray[np.float64]] = []
    for i, feature in enumerate(features):
        value = raw[..., i]
        columns += [value] if feature.encoding == "identity" else [np.sin(value), np.cos(value)]
    return np.stack(columns, axis=-1).astype(np.float32)


class ChannelReader:
    """Reads one channel's features from its messages; rclpy's and rosbags' messages alike."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._joint_order: tuple[str, ...] | None = None
        self._joint_index: list[int] = []

    def read(self, message: Any) -> NDArray[np.float64]:
        """The raw feature values [F]; none for an image, of which only what can be checked without decoding is checked.

        Raises:
            BadMessage: missing joint, wrong size, wrong frame, a value that is not finite, or a picture that cannot be used.
        """
        channel = self.channel
        self.check_frame(message)
        if channel.image is not None:
            self.seen(message)
            return np.zeros(0)
        if channel.type == "sensor_msgs/msg/JointState":
            values = self._joints(message)
        else:
            values = np.array([self._value(message, feature) for feature in channel.features], dtype=np.float64)
        if not np.isfinite(values).all():
            bad = [f.name for f, v in zip(channel.features, values, strict=True) if not np.isfinite(v)]
            raise BadMessage("non_finite", f"{channel.topic}: not a finite number: {', '.join(bad)}")
        return values

    def check_frame(self, message: Any) -> None:
        """Refuses a message in another frame than the contract's.

        Raises:
            BadMessage: it is.
        """
        frame = self.channel.frame
        if frame is not None and message.header.frame_id != frame:
            raise BadMessage("frame", f"{self.channel.topic}: frame_id {message.header.frame_id!r}, the contract wants {frame!r}")

    def seen(self, message: Any) -> images.Seen:
        """Size and encoding of an image message.

        Raises:
            BadMessage: a picture that cannot be used.
        """
        try:
            return images.inspect(message)
        except images.BadImage as bad:
            raise BadMessage(bad.reason, f"{self.channel.topic}: {bad}") from None

    def image(self, message: Any) -> NDArray[np.uint8]:
        """The picture [H, W, C] of an image message.

        Raises:
            BadMessage: a picture that cannot be used.
        """
        if self.channel.image is None:
            raise ValueError(f"channel {self.channel.name} has no images")
        try:
            return images.decode(message, self.channel.image)
        except images.BadImage as bad:
            raise BadMessage(bad.reason, f"{self.channel.topic}: {bad}") from None

    def time_ns(self, message: Any, received_ns: int) -> int:
        """The sample's time: its header stamp, or when it was received, as the contract says."""
        return stamp_ns(message.header.stamp) if self.channel.clock == "header" else received_ns

    def _joints(self, message: Any) -> NDArray[np.float64]:
        names = tuple(message.name)
        if names != self._joint_order:
            if len(set(names)) != len(names):
                raise BadMessage("names", f"{self.channel.topic}: a joint is named twice: {list(names)}")
            missing = sorted({str(f.joint) for f in self.channel.features} - set(names))
            if missing:
                raise BadMessage("missing_joint", f"{self.channel.topic}: no joint {', '.join(missing)} among {list(names)}")
            self._joint_index = [names.index(str(f.joint)) for f in self.channel.features]
            self._joint_order = names
        fields = {f.field: getattr(message, f.field) for f in self.channel.features}
        for name, array in fields.items():
            if len(array) != len(names):
                raise BadMessage("size", f"{self.channel.topic}: {name} has {len(array)} values for {len(names)} joints")
        return np.array(
            [fields[f.field][i] for f, i in zip(self.channel.features, self._joint_index, strict=True)], dtype=np.float64
        )

    def _value(self, message: Any, feature: Feature) -> float:
        value = message
        try:
            for part in feature.field.split("."):
                value = getattr(value, part)
            return float(value if feature.index is None else value[feature.index])
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise BadMessage("field", f"{self.channel.topic}: cannot read {feature.name}: {error}") from None


class Assembler:
    """Holds the newest sample of every channel and makes observations of them."""

    def __init__(self, contract: Contract, *, images: bool = True) -> None:
        """
        Args:
            contract: names the channels.
            images: see `images`.
        """
        self.contract = contract
        self.images = images
        """False only checks the messages of image channels, for who needs no more than to know that they come. May be changed."""
        self._dating = contract.dating_channels
        self._cameras = [(c.name, c.clock) for c in contract.observation if c.image is not None]
        self._readers = {c.name: ChannelReader(c) for c in contract.observation}
        self._newest: dict[str, Sample] = {}

    def update(self, channel: str, message: Any, received_ns: int) -> Sample:
        """Takes a message in.

        Args:
            channel: name of the contract's channel.
            message: any object with the fields of the channel's type.
            received_ns: steady time of reception (live) or receive stamp (bag).

        Raises:
            BadMessage: the message is unusable or older than the newest one; the newest sample stays as it was.
        """
        reader = self._readers[channel]
        raw, stamp = reader.read(message), reader.time_ns(message, received_ns)
        newest = self._newest.get(channel)
        if newest is not None and stamp < newest.stamp_ns:
            raise BadMessage(
                "backwards", f"{reader.channel.topic}: time runs backwards, by {(newest.stamp_ns - stamp) * 1e-9:.3f} s"
            )
        image = reader.image(message) if self.images and reader.channel.image is not None else None
        sample = Sample(raw, stamp, received_ns, image)
        self._newest[channel] = sample
        return sample

    def reset(self) -> None:
        """Forgets every sample, for instance at the start of an episode or after a jump of time."""
        self._newest.clear()

    @property
    def missing(self) -> list[str]:
        """Names of the channels that have no sample yet."""
        return [name for name in self._readers if name not in self._newest]

    def raw(self) -> NDArray[np.float64]:
        """Raw values [F] of all channels, newest samples. Only when nothing is `missing`."""
        return np.concatenate([self._newest[c.name].raw for c in self.contract.observation])

    def observe(self) -> Observation | None:
        """The newest observation, or None while a channel is missing. Freshness is the caller's to check."""
        if self.missing:
            return None
        stamp = min(self._newest[name].stamp_ns for name in self._dating)
        received = [s.received_ns for s in self._newest.values()]
        return Observation(
            encode(self.contract, self.raw()),
            stamp,
            min(received),
            {name: s.image for name, s in self._newest.items() if s.image is not None},
            {name: (stamp if clock == "header" else max(received)) - self._newest[name].stamp_ns for name, clock in self._cameras},
        )
