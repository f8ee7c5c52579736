"""A run directory as plain data: what `viz.report` tells and draws."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data import ros_types
from wm_ros.data.align import read_episodes
from wm_ros.data.bag_reader import Bag
from wm_ros.data.columns import ChannelColumns, ColumnDecoder
from wm_ros.data.episode import Episode
from wm_ros.data.recording import action_channel
from wm_ros.runtime import artifact

Array = NDArray[np.float64]

COMMAND_TOPICS, PLAN_TOPIC = ("mpc/command", "policy/command"), "mpc/plan"


@dataclass(frozen=True, eq=False)
class ImaginedPlan:
    """What the controller imagined at one tick."""

    tick: int
    """Index into the episode's columns."""
    rows: Array
    """`[H, O+A]`, or `[H, O]`; row i is one plan period after row i-1, the first one plan period after the tick."""


@dataclass(frozen=True, eq=False)
class EpisodeRecord:
    """One recorded episode."""

    number: int
    purpose: str
    """`train`, `evaluate` or empty."""
    version: int
    """Controller that drove; -1 where nobody noted it."""
    bag: str
    total: float
    """Return, over all its parts."""
    observation: Array
    """`[T+1, O]`, of its longest part."""
    action: Array
    """`[T, A]`."""
    reward: Array
    """`[T]`."""
    time: Array
    """`[T+1]`, seconds since its first observation."""
    latency_ms: Array
    """`[N]`, from an observation's reception to the reception of the command computed from it."""
    period_ms: Array
    """`[N-1]`, between receptions of commands."""
    plans: list[ImaginedPlan]


@dataclass
class RunRecord:
    """Everything that the report needs; what was missing or unreadable stands in `remarks`."""

    directory: Path
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """One record for each model version, oldest first."""
    contract: Contract | None = None
    episodes: list[EpisodeRecord] = field(default_factory=list)
    plan_period_s: float = 0.0
    remarks: list[str] = field(default_factory=list)

    def of(self, purpose: str) -> list[EpisodeRecord]:
        """The episodes of one purpose, oldest first."""
        return [e for e in self.episodes if e.purpose == purpose]

    @property
    def shown(self) -> EpisodeRecord | None:
        """The episode worth watching: the best evaluation, or else the last one."""
        evaluated = [e for e in self.of("evaluate") if len(e.time) > 1]
        if evaluated:
            return max(evaluated, key=lambda e: e.total)
        return next((e for e in reversed(self.episodes) if len(e.time) > 1), None)

    def returns(self, purpose: str) -> list[float]:
        """Returns by the bags, or by summary.json where there are no bags."""
        from_bags = [e.total for e in self.of(purpose)]
        key = {"train": "training_returns", "evaluate": "evaluation_returns"}[purpose]
        noted = self.summary.get(key)
        return from_bags or ([float(v) for v in noted if isinstance(v, int | float)] if isinstance(noted, list) else [])


def read_run(directory: Path) -> RunRecord:
    """Reads what there is of a run; what cannot be read becomes a remark.

    Raises:
        UserError: there is no such directory, or nothing of a run in it.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: no such run directory: run the demo first, or give another")
    record = RunRecord(directory)
    record.summary = _read_json(directory / "summary.json", record.remarks)
    for path in sorted((directory / "models").glob("*/metrics.json")):
        metrics = _read_json(path, record.remarks)
        if metrics:
            record.metrics.append(metrics)
    bags = sorted(p for p in (directory / "bags").glob("*") if p.is_dir())
    for path in bags:
        try:
            _read_bag(path, record)
        except UserError as error:
            record.remarks.append(str(error).splitlines()[0])
    if not (record.summary or record.metrics or record.episodes):
        raise UserError(f"{directory}: no summary.json, no models/ and no bags/ that can be read: not a run directory")
    if not bags:
        record.remarks.append(f"{directory / 'bags'}: no bags, so no trajectories, latencies or periods")
    if not record.metrics:
        record.remarks.append(f"{directory / 'models'}: no metrics.json, so no prediction error")
    record.episodes.sort(key=lambda e: e.number)
    record.plan_period_s = _plan_period(record)
    return record


def _read_json(path: Path, remarks: list[str]) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        remarks.append(f"{path}: not there")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        remarks.append(f"{path}: not readable: {error}")
        return {}
    if not isinstance(data, dict):
        remarks.append(f"{path}: expected a JSON object, found {type(data).__name__}")
        return {}
    return data


def _read_bag(path: Path, record: RunRecord) -> None:
    bag = Bag(path)
    contract = bag.contract
    if contract is None:
        raise UserError(f"{path}: recorded without a contract: left out")
    if record.contract is None:
        record.contract = contract
    if contract.hash != record.contract.hash:
        raise UserError(f"{path}: recorded under another contract than the bags before: left out")
    by_number: dict[int, list[Episode]] = {}
    for episode in read_episodes(path, contract):
        by_number.setdefault(episode.provenance.episode, []).append(episode)
    for number, parts in by_number.items():
        record.episodes.append(_episode(bag, contract, number, parts))


def _episode(bag: Bag, contract: Contract, number: int, parts: list[Episode]) -> EpisodeRecord:
    longest = max(parts, key=len)
    sensors, commands = _receptions(bag, contract)
    inside = (commands.stamp >= parts[0].stamp[0]) & (commands.stamp <= parts[-1].stamp[-1])
    stamp, received = commands.stamp[inside], commands.received[inside]
    answered = [(r - sensors[s]) * 1e-6 for s, r in zip(stamp.tolist(), received.tolist(), strict=True) if s in sensors]
    return EpisodeRecord(
        number=number,
        purpose=longest.provenance.purpose,
        version=longest.provenance.controller_version,
        bag=bag.path.name,
        total=sum(part.total_reward for part in parts),
        observation=longest.observation.astype(np.float64),
        action=longest.action.astype(np.float64),
        reward=longest.reward.astype(np.float64),
        time=(longest.stamp - longest.stamp[0]) * 1e-9,
        latency_ms=np.array(answered),
        period_ms=np.diff(received) * 1e-6,
        plans=_plans(bag, contract, longest, stamp, received),
    )


def _receptions(bag: Bag, contract: Contract) -> tuple[dict[int, int], ChannelColumns]:
    """When observations came (stamp → reception) and when the commands computed from them did."""
    command = action_channel(contract)
    driven = [command.model_copy(update={"topic": topic, "name": topic.replace("/", "_")}) for topic in COMMAND_TOPICS]
    store = bag.store()
    decoders: dict[str, list[ColumnDecoder]] = {}
    for channel in (*contract.observation, *driven):
        name = bag.resolve(channel.topic)
        if name is not None and bag.connections[name].type == channel.type:
            decoders.setdefault(name, []).append(ColumnDecoder(channel, channel.type, store))
    for block in bag.blocks():
        for key, connection in block.connections.items():
            for decoder in decoders.get(connection.topic, []):
                decoder.add(block, np.flatnonzero(block.channel == key))
    sensors: dict[int, int] = {}
    commands = ColumnDecoder(command, command.type, store).columns()
    for decoder in (d for ds in decoders.values() for d in ds):
        columns = decoder.columns()
        if decoder.channel.topic in COMMAND_TOPICS:
            commands = max(commands, columns, key=len)  # where two served, the one that served longer
            continue
        # With several channels an observation is whole when the last of them has come.
        for stamp, received in zip(columns.stamp.tolist(), columns.received.tolist(), strict=True):
            sensors[stamp] = max(received, sensors.get(stamp, 0))
    return sensors, commands


def _plans(bag: Bag, contract: Contract, episode: Episode, stamp: NDArray[np.int64], received: NDArray[np.int64]) -> list[ImaginedPlan]:
    """Plans carry no stamp; each belongs to the command that was received closest to it."""
    name = bag.resolve(PLAN_TOPIC)
    if name is None or not len(received):
        return []
    store, kind = bag.store(), "std_msgs/msg/Float32MultiArray"
    plans: dict[int, ImaginedPlan] = {}
    for message in bag.messages({name}):
        nearest = int(np.abs(received - message.log_time).argmin())
        tick = int(np.searchsorted(episode.stamp, stamp[nearest]))
        if message.type != kind or abs(int(received[nearest]) - message.log_time) > contract.control.period_ns:
            continue
        if tick >= len(episode.stamp) or episode.stamp[tick] != stamp[nearest]:
            continue
        try:
            array = ros_types.deserialize(store, message.data, kind)
        except ros_types.SerdeError:
            continue
        shape = tuple(d.size for d in array.layout.dim)
        if len(shape) == 2 and shape[1] >= contract.observation_size and shape[0] * shape[1] == len(array.data):
            plans[tick] = ImaginedPlan(tick, np.asarray(array.data, dtype=np.float64).reshape(shape))
    return [plans[tick] for tick in sorted(plans)]


def controllers(directory: Path) -> list[Path]:
    """Where the controllers of a run lie, the one that drove the evaluation first, then the newest."""
    return [directory / "controller.onnx", *sorted((directory / "models").glob("*/controller.onnx"), reverse=True)]


def _plan_period(record: RunRecord) -> float:
    """Time between the rows of a plan: from the controller, or as the open-loop figures have it, or the control period."""
    candidates = controllers(record.directory)
    if not candidates[0].is_file():
        record.remarks.append(f"{candidates[0]}: not there")
    for candidate in candidates:
        period = _noted_plan_period(candidate, record.remarks) if candidate.is_file() else None
        if period is not None:
            return period
    for metrics in reversed(record.metrics):
        horizon = numbers(section(metrics, "open_loop").get("horizon_s"))
        if len(horizon) and horizon[0] > 0:
            return float(horizon[0])
    return record.contract.control.period_s if record.contract is not None else 0.0


def _noted_plan_period(path: Path, remarks: list[str]) -> float | None:
    try:
        # Without external data: nothing but the file itself is opened.
        properties = onnx.load(str(path), load_external_data=False).metadata_props
        text = next((p.value for p in properties if p.key == artifact.METADATA_KEY), "")
        return artifact.read_metadata(text, str(path)).plan_period_s
    except UserError as error:
        remarks.append(str(error).splitlines()[0])
    except Exception as error:  # protobuf's DecodeError has no public home that all its implementations share
        remarks.append(f"{path}: not readable as ONNX: {type(error).__name__}")
    return None


def section(data: dict[str, Any], key: str) -> dict[str, Any]:
    """A part of a JSON object that is an object itself; empty where it is not."""
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def numbers(value: Any) -> Array:
    """A JSON array of numbers, of any depth, with NaN for null; empty where it is something else."""
    try:
        return np.array(value, dtype=np.float64) if isinstance(value, list) else np.empty(0)
    except (TypeError, ValueError):
        return np.empty(0)
