"""Says what is wrong with a bag, channel by channel, and whether it can train a contract."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from wm_ros.contract.errors import UserError
from wm_ros.contract.images import GREY_ENCODINGS
from wm_ros.contract.schema import Channel, Contract, ImageFormat
from wm_ros.data import recorded_steps, thin
from wm_ros.data.align import cut, spans_of
from wm_ros.data.bag_reader import Bag
from wm_ros.data.channel_exam import ChannelExam, ChannelReport, Disorder, ImageReport
from wm_ros.data.recording import Recording, Sources, action_channel, check_contract, decode, find_channels, read_recording

_MUCH_SATURATED = 0.5
_MANY_OUTSIDE = 0.01


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


def check(
    bag: Bag, contract: Contract, namespace: str = "", *, force: bool = False, whole_bytes: int = thin.WHOLE_BYTES
) -> CheckReport:
    """Examines a bag.

    Args:
        bag: what to examine.
        contract: what it is to train.
        namespace: of the robot's topics in the bag.
        force: do not mind another contract in the bag.
        whole_bytes: columns up to this size are read in one pass and kept; of larger ones no more is in memory than one block and what
            episodes are made of.

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
    exams, recording = _examined(bag, contract, namespace, sources, whole_bytes)
    problems += [Problem("warning", "", f"{loss.path}: {loss.reason}: {loss.bytes} bytes are lost") for loss in bag.losses]
    channels = []
    for name, exam in exams.items():
        report = exam.report(sources.topics.get(name, ""))
        channels.append(report)
        if name in sources.topics:
            problems += _problems(exam.channel, report, contract)
    episodes = steps = 0
    try:
        for episode in cut(recording, contract, recorded_steps.read(bag, contract, namespace)) if recording is not None else ():
            episodes, steps = episodes + 1, steps + len(episode)
    except UserError as error:
        problems.append(Problem("error", "", str(error)))
    if not steps and not any(p.severity == "error" for p in problems):
        problems.append(Problem("error", "", "no step has fresh observations on both sides and a command between them: see the gaps"))
    return CheckReport(
        bag=str(bag.path),
        contract=contract.name,
        trainable=steps > 0 and not any(p.severity == "error" for p in problems),
        episodes=episodes,
        steps=steps,
        seconds=steps * contract.control.period_s,
        lost_bytes=sum(loss.bytes for loss in bag.losses),
        unguarded=bag.unguarded,
        channels=tuple(channels),
        problems=tuple(problems),
    )


def _examined(
    bag: Bag, contract: Contract, namespace: str, sources: Sources, whole_bytes: int
) -> tuple[dict[str, ChannelExam], Recording | None]:
    """Every channel's exam, and what episodes can be cut from; None where a channel of a large bag is missing, so that there are none."""
    channels = (*contract.observation, action_channel(contract))
    exams = {c.name: ChannelExam(c, contract if c is channels[-1] else None) for c in channels}
    if thin.column_bytes(bag, contract, namespace) > whole_bytes:
        try:
            decode(bag, contract, namespace, sources=sources, on_columns=lambda name, decoder: exams[name].add(decoder.columns()))
            return exams, None if sources.faults else thin.read(bag, contract, namespace, spans_of, whole_bytes)
        except Disorder:
            exams = {name: ChannelExam(exam.channel, exam.contract) for name, exam in exams.items()}
    recording = read_recording(bag, contract, namespace, sources=sources)
    for name, exam in exams.items():
        exam.add(recording.channels.get(name, recording.command))
    return exams, recording


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
