"""The columns of a bag that a contract needs: its channels, the commands, the announcements of episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract import announcements, schema
from wm_ros.contract.announcements import EpisodeState
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Channel, Contract, Feature
from wm_ros.data.bag_reader import Bag
from wm_ros.data.columns import ChannelColumns, ColumnDecoder
from wm_ros.data.episode import Provenance
from wm_ros.data.median import Median
from wm_ros.data.ros_types import SerdeError, Typestore, deserialize

CLOCK_JUMP_NS = 1_000_000_000
"""Stamps that fall by more than this are a restarted clock, by less a disorder of messages."""


@dataclass(frozen=True, eq=False)
class Recording:
    """The columns of a bag that an episode needs."""

    channels: dict[str, ChannelColumns]
    """Contract channel name → its columns."""
    command: ChannelColumns
    """The action channel; raw [N, A]."""
    states: tuple[EpisodeState, ...]
    """What the episode manager announced, in order."""
    provenance: Provenance
    tolerance_ns: dict[str, int] = field(default_factory=dict)
    """Contract channel name → how late a sample may be and still count as at the tick; see `tolerances`."""


class Clocks:
    """What stamps and times of reception say about the clocks behind them."""

    def __init__(self) -> None:
        self._distance = Median()
        self._delay = Median()
        self._last: int | None = None

    def add(self, stamp: NDArray[np.int64], received: NDArray[np.int64]) -> None:
        """Takes the next messages [N] of a channel in, in the order of reception."""
        if not len(stamp):
            return
        step = np.diff(stamp, prepend=stamp[0] if self._last is None else self._last)
        self._last = int(stamp[-1])
        self._distance.add(step[step > 0])
        self._delay.add(received - stamp)

    @property
    def tolerance_ns(self) -> int:
        """Half the median distance of rising stamps."""
        return (self._distance.value or 0) // 2

    @property
    def delay_ns(self) -> int | None:
        """Median of reception after stamp; None without messages."""
        return self._delay.value


def action_channel(contract: Contract) -> Channel:
    """The command topic, read like a sensor."""
    action = contract.action
    return Channel(
        name="action",
        topic=action.topic,
        type=action.type,
        max_age_s=max(contract.safety.command_timeout_s, contract.control.period_s),
        features=tuple(Feature(field=action.interface, joint=j.name, units=j.units) for j in action.joints),
    )


def check_contract(bag: Bag, contract: Contract, *, force: bool = False) -> None:
    """Refuses a bag that was recorded under another contract; a bag without one passes.

    Raises:
        UserError: one line for every field that differs.
    """
    recorded_hash = bag.custom_data.get("wm_ros.contract_hash", "")
    recorded = bag.contract
    if recorded is not None:
        if recorded_hash and recorded.hash != recorded_hash:
            raise UserError(
                f"{bag.path}: its contract and its contract's hash do not belong together: the bag is damaged or was changed; leave it out"
            )
        recorded_hash = recorded.hash
    if force or not recorded_hash or recorded_hash == contract.hash:
        return
    lines = [f"{bag.path}: recorded under another contract ({recorded_hash[:8]}, here {contract.hash[:8]}): record again, or force it"]
    if recorded is not None:
        lines += [f"{bag.path}: {line}" for line in schema.difference(contract, recorded)]
    raise UserError("\n".join(lines))


@dataclass(frozen=True)
class Sources:
    """Where a contract's channels stand in a bag."""

    topics: dict[str, str]
    """Channel name (`action` for the command) → the recorded topic, for those that are there with the right type."""
    faults: dict[str, str]
    """Channel name → what is wrong, for the others."""


def find_channels(bag: Bag, contract: Contract, namespace: str = "") -> Sources:
    """Looks for the contract's channels in a bag.

    Raises:
        UserError: several robots' topics fit.
    """
    topics, faults = {}, {}
    for channel in (*contract.observation, action_channel(contract)):
        name = bag.resolve(channel.topic, namespace)
        if name is None:
            there = ", ".join(sorted(bag.connections)) or "no topics"
            faults[channel.name] = f"no topic {channel.topic} (channel {channel.name!r}), but {there}: correct the contract's topic"
        elif bag.connections[name].type != channel.type:
            found = bag.connections[name].type
            faults[channel.name] = f"{name} has type {found}, channel {channel.name!r} wants {channel.type}: correct the contract's type"
        else:
            topics[channel.name] = name
    return Sources(topics, faults)


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass over a bag gives beside the columns."""

    decoders: dict[str, ColumnDecoder]
    """Of every channel, `action` for the command; with what `on_columns` left in them."""
    states: tuple[EpisodeState, ...]
    provenance: Provenance


def decode(
    bag: Bag,
    contract: Contract,
    namespace: str = "",
    *,
    sources: Sources | None = None,
    bulk: bool = True,
    on_columns: Callable[[str, ColumnDecoder], None] = lambda name, decoder: None,
) -> Pass:
    """Decodes the contract's channels, the commands and the episode announcements in one pass; arguments as for `read_recording`.

    Args:
        on_columns: called after every block with a channel's name and decoder, to take out what is in it.
    """
    if sources is None:
        sources = find_channels(bag, contract, namespace)
        if sources.faults:
            raise UserError("\n".join(f"{bag.path}: {fault}" for fault in sources.faults.values()))
    store = bag.store()
    decoders: dict[str, ColumnDecoder] = {}
    topics: dict[str, list[str]] = {}
    for channel in (*contract.observation, action_channel(contract)):
        decoders[channel.name] = ColumnDecoder(channel, channel.type, store, bag.limits)
        if channel.name in sources.topics:
            topics.setdefault(sources.topics[channel.name], []).append(channel.name)
    episode_topic = bag.resolve("episode", namespace)
    if episode_topic is not None and bag.connections[episode_topic].type != "std_msgs/msg/String":
        episode_topic = None
    states: list[EpisodeState] = []
    for block in bag.blocks():
        for key, connection in block.connections.items():
            if connection.topic not in topics and connection.topic != episode_topic:
                continue
            rows = np.flatnonzero(block.channel == key)
            for name in topics.get(connection.topic, []):
                decoders[name].add(block, rows, bulk=bulk)
                on_columns(name, decoders[name])
            if connection.topic == episode_topic:
                for row in rows:
                    at = int(block.offset[row])
                    states.append(_state(bag, store, block.buffer[at : at + int(block.length[row])]))
    custom = bag.custom_data
    if noted := custom.get("wm_ros.episode"):
        # The newest word: an episode can be discarded after its bag was closed.
        states.append(announcements.read(EpisodeState, noted, f"{bag.path}: wm_ros.episode"))
    provenance = Provenance(
        bag=str(bag.path),
        contract_hash=contract.hash,
        controller_sha256=custom.get("wm_ros.controller_sha256", ""),
        controller_version=_integer(custom.get("wm_ros.controller_version", "")),
    )
    return Pass(decoders, tuple(states), provenance)


def read_recording(
    bag: Bag, contract: Contract, namespace: str = "", *, sources: Sources | None = None, bulk: bool = True
) -> Recording:
    """All of the contract's columns in a bag, in memory; `thin.read` keeps only what episodes are made of.

    Args:
        bag: what to read.
        contract: names the channels.
        namespace: of the robot's topics in the bag.
        sources: from `find_channels`, to read what there is; channels that are not in it come out empty.
        bulk: False decodes message by message; for tests and comparison.

    Raises:
        UserError: a topic is not in the bag or has another type.
    """
    found = decode(bag, contract, namespace, sources=sources, bulk=bulk)
    columns = {name: decoder.columns() for name, decoder in found.decoders.items()}
    clocks = {name: Clocks() for name in columns}
    for name, clock in clocks.items():
        clock.add(columns[name].stamp, columns[name].received)
    offset = offset_ns(contract, clocks)
    for name in receive_channels(contract):
        columns[name] = replace(columns[name], stamp=columns[name].received - offset)
    command = columns.pop("action")
    return Recording(columns, command, found.states, found.provenance, tolerances(contract, clocks))


def tolerances(contract: Contract, clocks: dict[str, Clocks]) -> dict[str, int]:
    """Half the usual distance of each channel's stamps, but of a sensor that is slower than the control loop only half a control period.

    It makes up for jitter; more would show a slow sensor's future to the model.
    """
    return {c.name: min(clocks[c.name].tolerance_ns, contract.control.period_ns // 2) for c in contract.observation}


def receive_channels(contract: Contract) -> tuple[str, ...]:
    """The channels that are timed by reception."""
    return tuple(c.name for c in contract.observation if c.clock == "receive")


def offset_ns(contract: Contract, clocks: dict[str, Clocks]) -> int:
    """By how much the recorder's clock is ahead of the header stamps' where the two are different clocks, else zero.

    In a simulation robot time begins anew, and a robot's clock can be hours off; commands and stamped channels know, as they are both
    stamped and received: the middle one of their delays counts.
    """
    stamped = ["action", *(c.name for c in contract.observation if c.clock == "header")]
    delays = sorted(d for d in (clocks[name].delay_ns for name in stamped) if d is not None)
    # Of two the smaller: it has less of the time in it that a message was under way.
    offset = delays[(len(delays) - 1) // 2] if delays else 0
    return offset if abs(offset) > CLOCK_JUMP_NS else 0


def _state(bag: Bag, store: Typestore, raw: bytes) -> EpisodeState:
    try:
        text = str(deserialize(store, raw, "std_msgs/msg/String").data)
    except (SerdeError, AttributeError) as error:  # the latter where the bag's own definition is another
        raise UserError(f"{bag.path}: topic episode: {error}: leave the bag out") from None
    return announcements.read(EpisodeState, text, f"{bag.path}: topic episode")


def _integer(text: str) -> int:
    return int(text) if text.lstrip("-").isdigit() and len(text) < 12 else -1
