"""Says what is wrong with a bag, channel by channel, and whether it can train a contract."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.assembler import BadMessage
from wm_ros.contract.errors import UserError
from wm_ros.contract.images import GREY_ENCODINGS
from wm_ros.contract.schema import Channel, Contract, ImageFormat
from wm_ros.data import recorded_steps
from wm_ros.data.align import episodes_of
from wm_ros.data.bag_reader import Bag
from wm_ros.data.columns import ChannelColumns
from wm_ros.data.episode import Episode
from wm_ros.data.images import Images
from wm_ros.data.recording import CLOCK_JUMP_NS, action_channel, check_contract, find_channels, read_recording

_NS = 1e9
_AT_LIMIT = 1e-3
"""An action this close to a limit, as a fraction of the range, counts as saturated."""
_MUCH_SATURATED = 0.5
_MANY_OUTSIDE = 0.01


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


@dataclass(frozen=True)
class Problem:
    """Something to mend."""

    severity: Literal["error", "warning"]
    """An error keeps the bag from training this contract."""
    channel: str
    text: str


@dataclass(frozen=True)
class CheckReport:
    """A bag seen with a contract's eyes."""

    bag: str
    contract: str
    trainable: bool
    episodes: int
    steps: int
    seconds: float
    """Of whole steps."""
    lost_bytes: int
    unguarded: int
    """Messages of any topic that no checksum guards (sqlite3, MCAP without chunks or with chunks that have none): if damage turned
    one of them into another valid message, nobody would notice."""
    channels: tuple[ChannelReport, ...]
    problems: tuple[Problem, ...]


def check(bag: Bag, contract: Contract, namespace: str = "", *, force: bool = False) -> CheckReport:
    """Examines a bag.

    Args:
        bag: what to examine.
        contract: what it is to train.
        namespace: of the robot's topics in the bag.
        force: do not mind another contract in the bag.

    Raises:
        UserError: the bag cannot be read at all.
    """
    problems: list[Problem] = []
    try:
        check_contract(bag, contract, force=force)
    except UserError as error:
        problems += [Problem("error", "", line) for line in str(error).splitlines()]
    sources = find_channels(bag, contract, namespace)
    problems += [Problem("error", name, fault) for name, fault in sources.faults.items()]
    recording = read_recording(bag, contract, namespace, sources=sources)
    problems += [Problem("warning", "", f"{loss.path}: {loss.reason}: {loss.bytes} bytes are lost") for loss in bag.losses]
    channels = []
    action = action_channel(contract)
    for channel in (*contract.observation, action):
        columns = recording.command if channel is action else recording.channels[channel.name]
        report = _channel(channel, sources.topics.get(channel.name, ""), columns, contract if channel is action else None)
        channels.append(report)
        if channel.name in sources.topics:
            problems += _problems(channel, report, contract)
    episodes: list[Episode] = []
    try:
        episodes = episodes_of(recording, contract, recorded_steps.read(bag, contract, namespace))
    except UserError as error:
        problems.append(Problem("error", "", str(error)))
    steps = sum(len(e) for e in episodes)
    if not steps and not any(p.severity == "error" for p in problems):
        problems.append(Problem("error", "", "no step has fresh observations on both sides and a command between them: see the gaps"))
    return CheckReport(
        bag=str(bag.path),
        contract=contract.name,
        trainable=steps > 0 and not any(p.severity == "error" for p in problems),
        episodes=len(episodes),
        steps=steps,
        seconds=steps * contract.control.period_s,
        lost_bytes=sum(loss.bytes for loss in bag.losses),
        unguarded=bag.unguarded,
        channels=tuple(channels),
        problems=tuple(problems),
    )


def _channel(channel: Channel, topic: str, columns: ChannelColumns, contract: Contract | None) -> ChannelReport:
    step = np.diff(columns.stamp)
    # A pause of the robot moves both clocks; a simulation that is slower than real time moves the stamps in small steps.
    leap = (np.abs(step) > CLOCK_JUMP_NS) & (np.abs(step - np.diff(columns.received)) > CLOCK_JUMP_NS)
    gap = (step > channel.max_age_s * _NS) & ~leap
    regular = step[(step > 0) & ~gap & ~leap]
    return ChannelReport(
        name=channel.name,
        topic=topic,
        type=channel.type,
        messages=len(columns),
        refused=columns.refused,
        example=columns.example,
        rate_hz=float(_NS / regular.mean()) if len(regular) else None,
        jitter_s=float(regular.std() / _NS) if len(regular) else None,
        gaps=int(gap.sum()),
        longest_gap_s=float(step[gap].max() / _NS) if gap.any() else 0.0,
        out_of_order=int(((step < 0) & ~leap).sum()),
        duplicates=int((step == 0).sum()),
        clock_jumps=int(leap.sum()),
        delay_s=float(np.median(columns.received - columns.stamp) / _NS) if len(columns) and channel.clock == "header" else None,
        features=tuple(_feature(channel, i, columns.raw[:, i], contract) for i in range(len(channel.features))),
        image=_image(columns.images) if columns.images is not None else None,
    )


def _image(images: Images) -> ImageReport:
    """Decodes every picture: nothing less finds the damaged ones."""
    form = images.store.channel.image
    assert form is not None
    faults = [str(shown) for shown in images.store.decode_all(images.where) if isinstance(shown, BadMessage)]
    return ImageReport(f"{form.width}x{form.height} {form.encoding}", images.seen, len(faults), faults[0] if faults else "")


def _feature(channel: Channel, index: int, values: NDArray[np.float64], contract: Contract | None) -> FeatureReport:
    feature = channel.features[index]
    low, high, saturated = feature.low, feature.high, None
    if contract is not None:
        joint = contract.action.joints[index]
        low, high = joint.low, joint.high
        margin = _AT_LIMIT * (high - low)
        saturated = float(((values <= low + margin) | (values >= high - margin)).mean()) if len(values) else None
    return FeatureReport(
        name=feature.name,
        units=feature.units,
        low=low,
        high=high,
        minimum=float(values.min()) if len(values) else None,
        maximum=float(values.max()) if len(values) else None,
        below=int((values < low).sum()) if low is not None else 0,
        above=int((values > high).sum()) if high is not None else 0,
        saturated=saturated,
    )


_REASONS = {
    "non_finite": "hold a value that is not finite",
    "missing_joint": "lack a joint",
    "names": "name a joint twice",
    "size": "have arrays of another size than their names",
    "frame": "are in another frame",
    "field": "lack a field",
    "undecodable": "cannot be decoded",
    "encoding": "have an encoding that is not read",
    "image_size": "say another size than their data have",
    "too_large": "have more pixels than the limit",
    "damaged": "are no whole picture",
}


def _image_problems(
    report: ImageReport, wanted: ImageFormat, messages: int
) -> Iterator[tuple[Literal["error", "warning"], str]]:
    if report.damaged == messages:
        yield "error", f"no picture can be decoded; the first: {report.example}"
    elif report.damaged:
        yield "warning", f"{report.damaged} pictures cannot be decoded, the one before is shown; the first: {report.example}"
    if len(report.seen) > 1:
        yield "warning", f"pictures change between {', '.join(report.seen)}: fix the camera's settings before recording"
    for seen in report.seen:
        size, encoding = seen.split()
        width, height = (int(part) for part in size.split("x"))
        if width < wanted.width or height < wanted.height:
            yield "warning", f"{seen} is enlarged to {report.wanted}: lower height and width in the contract"
        if wanted.encoding == "rgb8" and encoding in GREY_ENCODINGS:
            yield "warning", f"{seen} has no colours: encoding: mono8 in the contract is a third of the data"


def _problems(channel: Channel, report: ChannelReport, contract: Contract) -> list[Problem]:
    found: list[Problem] = []

    def add(severity: Literal["error", "warning"], text: str) -> None:
        found.append(Problem(severity, channel.name, f"{report.topic}: {text}"))

    for reason, count in report.refused.items():
        severity: Literal["error", "warning"] = "warning" if report.messages else "error"
        add(severity, f"{count} messages {_REASONS.get(reason, reason)} and are left out; the first: {report.example}")
    if not report.messages:
        if not report.refused:
            add("error", "no messages: was its publisher running?")
        return found
    if report.gaps:
        longest = f"{channel.max_age_s:g} s (the longest {report.longest_gap_s:.3g} s)"
        add("warning", f"{report.gaps} gaps longer than {longest} split the recording")
    if report.out_of_order:
        add("warning", f"{report.out_of_order} stamps run backwards and are left out")
    if report.clock_jumps:
        add("warning", f"the clock jumps {report.clock_jumps} times: set the robot's clock before recording, not during it")
    if report.image is not None and channel.image is not None:
        for severity, text in _image_problems(report.image, channel.image, report.messages):
            add(severity, text)
    rate = contract.control.rate_hz
    # A camera may be slower than the control loop: its pictures are held.
    if channel.image is None and report.rate_hz is not None and report.rate_hz < 0.9 * rate:
        add("warning", f"{report.rate_hz:.4g} Hz is slower than the control rate of {rate:g} Hz: old values are held")
    for feature in report.features:
        outside = feature.below + feature.above
        if outside > _MANY_OUTSIDE * report.messages:
            add(
                "warning",
                f"{feature.name}: {outside} of {report.messages} values are outside [{feature.low}, {feature.high}] {feature.units}, "
                f"seen [{feature.minimum:.4g}, {feature.maximum:.4g}]: check the units",
            )
        if feature.saturated is not None and feature.saturated > _MUCH_SATURATED:
            share = f"{100 * feature.saturated:.0f} %"
            add("warning", f"{feature.name}: {share} of the commands are at a limit: little can be learned of what is between")
        if feature.minimum == feature.maximum and report.messages > 1:
            add("warning", f"{feature.name}: never changes from {feature.minimum:.4g}")
    return found
