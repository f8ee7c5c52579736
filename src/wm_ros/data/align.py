"""Bags to episodes: messages on the control period, with reward and termination computed anew, or as recorded where they are learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract import functions
from wm_ros.contract.announcements import EpisodeState
from wm_ros.contract.assembler import encode
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data import recorded_steps, thin
from wm_ros.data.bag_reader import Bag, Loss
from wm_ros.data.columns import ChannelColumns
from wm_ros.data.episode import Episode, Provenance
from wm_ros.data.images import Frames
from wm_ros.data.policy import choose, sample
from wm_ros.data.recorded_steps import RecordedSteps
from wm_ros.data.recording import CLOCK_JUMP_NS, Recording, check_contract

_NS = 1_000_000_000
_LIMIT_NS = 1 << 62
"""Half of what fits, so that sums and differences of times do as well."""
_MOST_LIVES = 1000
"""More often no clock is set back during a recording: two clocks take turns."""
_SLAB = 1 << 14
"""Ticks that are sampled at once: in float64 they take eight times what is kept of them."""


@dataclass(frozen=True)
class Span:
    """A stretch of the robot's time that is cut into episodes."""

    start_ns: int
    end_ns: int
    state: EpisodeState | None = None


def episode_spans(states: tuple[EpisodeState, ...], last_ns: int) -> list[Span]:
    """The spans that the episode manager announced.

    An episode that never ended lasts as long as its data; a discarded one gives nothing.
    """
    running: dict[int, EpisodeState] = {}
    spans: dict[int, Span] = {}
    discarded: set[int] = set()
    for state in states:
        # Keyed by start, so that a second episode of one number after a restart is another one. A killed recorder's
        # note still says `running` where the topic already said `ended`.
        if state.start_stamp_ns and (state.state != "running" or state.start_stamp_ns not in running):
            running[state.start_stamp_ns] = state
        if state.state == "discarded" or state.outcome == "discarded":
            discarded.add(state.start_stamp_ns)
    for start, state in running.items():
        if start in discarded:
            continue
        end = min(state.end_stamp_ns, _LIMIT_NS) if state.state == "ended" and state.end_stamp_ns else last_ns
        if -_LIMIT_NS < start < end:
            spans[start] = Span(start, end, state)
    return [spans[start] for start in sorted(spans)]


def _ordered(columns: ChannelColumns) -> list[ChannelColumns]:
    """The columns with rising stamps, cut where the robot's clock was set back.

    A message older than its predecessor is left out, as the live assembler does.

    Raises:
        UserError: the clock is set back over and over.
    """
    pieces: list[ChannelColumns] = []
    begin = 0
    while begin < len(columns):
        if len(pieces) == _MOST_LIVES:
            raise UserError(
                f"the stamps of a channel run back by more than a second over {_MOST_LIVES} times: "
                "there are two publishers with different clocks on one topic: record with one of them"
            )
        stamp = columns.stamp[begin:]
        newest = np.maximum.accumulate(stamp)
        jumps = np.flatnonzero(newest - stamp > CLOCK_JUMP_NS)
        count = int(jumps[0]) if len(jumps) else len(stamp)
        rising = stamp[:count] == newest[:count]
        # A slice is no copy, and nearly every recording is in order.
        keep = slice(begin, begin + count) if rising.all() else np.flatnonzero(rising) + begin
        pieces.append(columns.take(keep))
        begin += count
    return pieces


def _between(pieces: list[ChannelColumns], start_ns: int, end_ns: int, margin_ns: int) -> ChannelColumns | None:
    """The last piece that has samples in the span: after a clock was set back, the newer times count."""
    for piece in reversed(pieces):
        first, last = np.searchsorted(piece.stamp, (start_ns, end_ns + margin_ns), side="left")
        if first < last or (first and start_ns - piece.stamp[first - 1] <= margin_ns):
            return piece
    return None


def _free_spans(pieces: dict[str, list[ChannelColumns]], command: list[ChannelColumns]) -> list[Span]:
    """Where every channel and the command have data, for a bag without announcements: one span for each life of the clock."""
    lives = [p for p in next(iter(pieces.values())) if len(p)]
    spans = []
    for life in lives:
        inside = []
        for other in (*pieces.values(), command):
            touching = [p for p in other if len(p) and p.received[0] <= life.received[-1] and p.received[-1] >= life.received[0]]
            if not touching:
                break
            inside.append(touching[0])
        else:
            sensors, commands = inside[:-1], inside[-1]
            ready = max(int(p.stamp[0]) for p in sensors)
            # Ticks stand where the commands stand: their stamps are those of the observations they were computed from.
            first = np.searchsorted(commands.stamp, ready, side="left")
            if first < len(commands):
                spans.append(Span(int(commands.stamp[first]), min(int(p.stamp[-1]) for p in sensors)))
    return spans


def _actions(
    contract: Contract, commands: ChannelColumns | None, tick: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The command of every tick: the one stamped there, or the one before for as long as the actuator would hold it.

    Returns:
        [K, A] and which are valid [K].
    """
    size = contract.action_size
    if commands is None or not len(commands):
        return np.zeros((len(tick), size)), np.zeros(len(tick), np.bool_)
    period = contract.control.period_ns
    held = max(round(contract.safety.command_timeout_s * _NS), period)
    newest = np.searchsorted(commands.stamp, tick + (period - 1) // 2, side="right") - 1
    chosen = newest.clip(0)
    valid = (newest >= 0) & (tick - commands.stamp[chosen] <= held)
    return np.where(valid[:, None], commands.raw[chosen], 0.0), valid


def _observations(
    contract: Contract, recording: Recording, pieces: dict[str, list[ChannelColumns]], span: Span, tick: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], dict[str, Frames]] | None:
    """The observations [K, O] at the ticks [K], which are valid [K], and the frames; None where a channel has nothing in the span."""
    chosen = []
    for channel in contract.observation:
        max_age = round(channel.max_age_s * _NS)
        piece = _between(pieces[channel.name], span.start_ns, span.end_ns, max_age)
        if piece is None:
            return None
        chosen.append((channel, piece, max_age, recording.tolerance_ns[channel.name]))
    observation = np.empty((len(tick), contract.observation_size), np.float32)
    valid = np.ones(len(tick), np.bool_)
    frames: dict[str, Frames] = {}
    for channel, piece, max_age, tolerance in chosen:
        if piece.images is not None:
            shown, fresh = choose(_whole(channel.align), piece.stamp, tick, max_age, tolerance)
            frames[channel.name] = Frames(piece.images, shown, np.searchsorted(piece.stamp, tick - max_age, side="left"))
            valid &= fresh
    vectors = [entry for entry in chosen if entry[1].images is None]
    for begin in range(0, len(tick), _SLAB):
        slab = slice(begin, begin + _SLAB)
        raw = []
        for channel, piece, max_age, tolerance in vectors:
            values, fresh = sample(channel.align, piece.stamp, piece.raw, tick[slab], max_age, tolerance)
            raw.append(values)
            valid[slab] &= fresh
        with np.errstate(over="ignore"):
            observation[slab] = encode(contract, np.concatenate(raw, axis=-1))
    return observation, valid, frames


def _whole(align: str) -> Literal["hold", "nearest"]:
    """The policies that take samples as they are; the contract refuses others for images."""
    return "nearest" if align == "nearest" else "hold"


def spans_of(recording: Recording) -> list[Span]:
    """The stretches of time that a recording has episodes in: announced ones, or wherever everything was heard."""
    pieces = {name: _ordered(columns) for name, columns in recording.channels.items()}
    return _spans(recording, pieces, _ordered(recording.command))


def _spans(recording: Recording, pieces: dict[str, list[ChannelColumns]], command: list[ChannelColumns]) -> list[Span]:
    if not recording.states:
        return _free_spans(pieces, command)
    last = max((int(p.stamp[-1]) for parts in pieces.values() for p in parts if len(p)), default=0)
    return episode_spans(recording.states, last)


def episodes_of(recording: Recording, contract: Contract, steps: RecordedSteps | None = None) -> list[Episode]:
    """The episodes in a recording; see `cut`."""
    return list(cut(recording, contract, steps))


def cut(recording: Recording, contract: Contract, steps: RecordedSteps | None = None) -> Iterator[Episode]:
    """Cuts a recording into episodes, one after the other: at announced ends, at gaps, at terminations.

    The result has only whole steps: two observations, each with samples no older than its channel allows, and the command between them; and
    with `steps`, of `recorded_steps.read`, what was recorded of the reward and the termination that the contract calls `learned`.
    """
    period = contract.control.period_ns
    pieces = {name: _ordered(columns) for name, columns in recording.channels.items()}
    command = _ordered(recording.command)
    learned_end = contract.termination is not None and contract.termination.learned
    reward = None if contract.reward.learned else functions.reward_function(contract)
    termination = None if learned_end else functions.termination_function(contract)
    if steps is None and (reward is None or learned_end):
        raise ValueError("a contract with a learned reward or termination needs recorded steps")
    for span in _spans(recording, pieces, command):
        tick = _ticks(contract, span, pieces)
        if len(tick) < 2:
            continue
        observed = _observations(contract, recording, pieces, span, tick)
        if observed is None or not observed[1].any():
            continue
        observation, valid, frames = observed
        with np.errstate(over="ignore"):
            commands, commanded = _actions(contract, _between(command, span.start_ns, span.end_ns, period), tick)
            action = commands.astype(np.float32)
        # Numbers past the range of float32 are finite in the message but not in the vector.
        valid &= np.isfinite(observation).all(axis=1)
        commanded &= np.isfinite(action).all(axis=1)
        whole = valid[:-1] & valid[1:] & commanded[:-1] & (np.diff(tick) == period)
        rewarded, ended = np.zeros(len(tick)), np.zeros(len(tick), np.bool_)
        if steps is not None:
            rewarded, ended, judged = steps.at(tick, period)
            whole &= judged[:-1]
        provenance = _provenance(recording.provenance, span.state)
        part = 0
        for begin, stop in _runs(whole):
            terminated = False
            while begin < stop and not (terminated and span.state is not None):
                # What comes after a final state is no part of an announced episode; elsewhere it is the next one.
                seen, done = observation[begin : stop + 1], action[begin:stop]
                ends = ended[begin:stop] if learned_end else np.zeros(len(done), np.bool_)
                if termination is not None:
                    ends = np.asarray(termination(seen[:-1], done, seen[1:]), np.bool_)
                length = int(np.argmax(ends)) + 1 if ends.any() else len(done)
                terminated = bool(ends[length - 1])
                if reward is None:
                    got = contract.reward.scale * rewarded[begin : begin + length]
                else:
                    got = reward(seen[:length], done[:length], seen[1 : length + 1])
                yield Episode(
                    observation=seen[: length + 1],
                    action=done[:length],
                    reward=_finite_reward(contract, got),
                    terminated=ends[:length],
                    truncated=not terminated,
                    stamp=tick[begin : begin + length + 1],
                    provenance=replace(provenance, part=part),
                    images={name: shown.part(begin, begin + length + 1) for name, shown in frames.items()},
                )
                part += 1
                begin += length
            if terminated and span.state is not None:
                break


def _ticks(contract: Contract, span: Span, pieces: dict[str, list[ChannelColumns]]) -> NDArray[np.int64]:
    """The ticks [K] of a span that have a sample near enough of the first channel that dates observations.

    Never more than the samples can serve: a stamp from 1970 before one of today asks for nothing in between.
    """
    period = contract.control.period_ns
    dating = next(c for c in contract.observation if c.name in contract.dating_channels)
    reach = round(dating.max_age_s * _NS)
    piece = _between(pieces[dating.name], span.start_ns, span.end_ns, reach)
    if piece is None:
        return np.zeros(0, np.int64)
    stamp = piece.stamp[(piece.stamp >= span.start_ns - reach) & (piece.stamp <= span.end_ns + reach)]
    if not len(stamp):
        return np.zeros(0, np.int64)
    cuts = np.flatnonzero(np.diff(stamp) > 2 * reach + period)
    firsts, lasts = stamp[np.concatenate([[0], cuts + 1])], stamp[np.concatenate([cuts, [len(stamp) - 1]])]
    final = (span.end_ns - span.start_ns + period // 2) // period
    numbers = [
        np.arange(max(0, (first - reach - span.start_ns) // period), min(final, (last + reach - span.start_ns) // period + 1) + 1)
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
    ]
    return span.start_ns + period * np.unique(np.concatenate(numbers)).astype(np.int64)


def _runs(whole: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(begin, end) of the stretches of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], whole, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _finite_reward(contract: Contract, reward: Any) -> NDArray[np.float32]:
    rewards = np.asarray(reward, np.float32)
    if not np.isfinite(rewards).all():
        raise UserError(f"contract: reward.function: {contract.reward.function} gives a reward that is not finite: mend the function")
    return rewards


def _provenance(common: Provenance, state: EpisodeState | None) -> Provenance:
    if state is None:
        return common
    return replace(
        common,
        controller_sha256=state.controller_sha256 or common.controller_sha256,
        controller_version=state.controller_version if state.controller_version >= 0 else common.controller_version,
        episode=state.episode,
        seed=state.seed,
        purpose=state.purpose,
    )


def read_episodes(
    path: str | Path,
    contract: Contract,
    *,
    namespace: str = "",
    force: bool = False,
    on_loss: Callable[[Loss], None] = lambda loss: None,
) -> list[Episode]:
    """The episodes in a bag, see `iterate_episodes`; in the order of time, empty where the bag has no whole step."""
    return list(iterate_episodes(path, contract, namespace=namespace, force=force, on_loss=on_loss))


def iterate_episodes(
    path: str | Path,
    contract: Contract,
    *,
    namespace: str = "",
    force: bool = False,
    on_loss: Callable[[Loss], None] = lambda loss: None,
    whole_bytes: int = thin.WHOLE_BYTES,
) -> Iterator[Episode]:
    """The episodes in a bag, one after the other.

    Args:
        path: a rosbag2 directory or one storage file; see `bag_reader`.
        contract: names the channels, the command and the reward.
        namespace: of the robot's topics in the bag, where more than one robot was recorded.
        force: take a bag that was recorded under another contract.
        on_loss: told of every part of the bag that could not be read.
        whole_bytes: columns up to this size are read in one pass and kept, larger ones as `thin` says, with the same result.

    Raises:
        UserError: no readable bag, another contract, or a topic missing; the message names file and remedy.
    """
    bag = Bag(path)
    check_contract(bag, contract, force=force)
    recording = thin.read(bag, contract, namespace, spans_of, whole_bytes)
    for loss in bag.losses:
        on_loss(loss)
    yield from cut(recording, contract, recorded_steps.read(bag, contract, namespace))
