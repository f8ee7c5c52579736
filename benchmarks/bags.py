"""Bags: reading into columns, converting into episodes, recording; beside rosbags and the mcap package's writer, in one run."""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import CompressionType, Writer
from rosbags.rosbag2 import Reader

from wm_ros.cli.bench import Result
from wm_ros.contract import schema
from wm_ros.contract.schema import Channel, Contract, Feature
from wm_ros.data.bag_reader import Bag
from wm_ros.data.bag_writer import BagOptions, BagWriter
from wm_ros.data.columns import ColumnDecoder
from wm_ros.data.convert import convert
from wm_ros.data.mcap_writer import Compression
from wm_ros.data.qos import Qos
from wm_ros.data.recorder import ClosedBag, RecordedTopic, Recorder, RecorderOptions
from wm_ros.data.ros_types import schema_text, standard_store

JOINT_STATE = "sensor_msgs/msg/JointState"
NAMES = ["slider", "hinge_1", *(f"arm_joint_{i}" for i in range(2, 12))]
FIELDS = ("position", "velocity", "effort")
_PERIOD_NS = 2_000_000


def run(quick: bool) -> list[Result]:
    """All of them; `quick` takes a tenth of the messages and a twentieth of the bag."""
    count = 50_000 if quick else 500_000
    gigabytes = 0.05 if quick else 1.0
    repeats = 3
    with tempfile.TemporaryDirectory(prefix="wm_ros_bench_") as folder:
        read, _ = _write(Path(folder) / "read", lambda messages, size: messages >= count, commands=False)
        results = [_columns(read, count, repeats)]
        shutil.rmtree(read)
        converted, messages = _write(Path(folder) / "convert", lambda messages, size: size >= gigabytes * 1e9, commands=True)
        results += _convert(converted, messages)
        shutil.rmtree(converted)
        results += _record(Path(folder), min(count, 200_000), repeats)
    return results


def contract() -> Contract:
    """The cart-pole, and ten more joints to look at."""
    data = schema.load("cartpole_swingup").model_dump(mode="json")
    data["observation"][0]["features"] += [{"joint": n, "field": f, "units": "rad"} for f in FIELDS[:2] for n in NAMES[2:]]
    return schema.Contract.model_validate(data)


# ---- payloads -------------------------------------------------------------------------------------------------------


def _messages(count: int) -> list[bytes]:
    """JointStates at 500 Hz with smooth values, as a robot has them."""
    store = standard_store()
    kind, header, stamp = (store.types[t] for t in (JOINT_STATE, "std_msgs/msg/Header", "builtin_interfaces/msg/Time"))
    empty = kind(header(stamp(0, 0), "base"), NAMES, np.zeros(12), np.zeros(12), np.zeros(12))
    template = np.frombuffer(store.serialize_cdr(empty, JOINT_STATE), np.uint8)
    made = np.repeat(template[None, :], count, axis=0)
    at = np.arange(count, dtype=np.int64) * _PERIOD_NS + 10**9
    made[:, 4:8] = (at // 10**9).astype("<i4").view(np.uint8).reshape(-1, 4)
    made[:, 8:12] = (at % 10**9).astype("<u4").view(np.uint8).reshape(-1, 4)
    phase = at[:, None] * 1e-9 * (1.0 + np.arange(12))
    for i, values in enumerate((np.sin(phase), np.cos(phase), 0.1 * np.sin(3 * phase))):
        end = len(template) - (2 - i) * 104  # each array is a count and its padding, and 96 bytes
        made[:, end - 96 : end] = values.astype("<f8").view(np.uint8).reshape(-1, 96)
    return [row.tobytes() for row in made]


def _write(path: Path, enough: Callable[[int, int], bool], *, commands: bool) -> tuple[Path, int]:
    """A bag, and how many sensor messages are in it: as soon as these and the bytes on the disk are enough."""
    store = standard_store()
    kind, header, stamp = (store.types[t] for t in (JOINT_STATE, "std_msgs/msg/Header", "builtin_interfaces/msg/Time"))
    writer = BagWriter(path, {})
    sensor, command = (writer.add_topic(t, JOINT_STATE, Qos()) for t in ("/joint_states", "/command"))
    done = 0
    while not enough(done, writer.bytes_written):
        # In pieces: the benchmark's own memory must not be mistaken for that of what it measures.
        for data in _messages_from(done, 10_000):
            at = 10**9 + done * _PERIOD_NS
            writer.write(sensor, data, at, at)
            if commands and done % 10 == 0:
                order = kind(header(stamp(at // 10**9, at % 10**9), "x"), NAMES[:1], np.zeros(0), np.zeros(0), np.ones(1))
                writer.write(command, bytes(store.serialize_cdr(order, JOINT_STATE)), at, at)
            done += 1
    writer.close()
    return path, done


def _messages_from(first: int, count: int) -> list[bytes]:
    messages = _messages(count)
    if not first:
        return messages
    shifted = []
    for i, data in enumerate(messages):
        at = 10**9 + (first + i) * _PERIOD_NS
        shifted.append(data[:4] + (at // 10**9).to_bytes(4, "little") + (at % 10**9).to_bytes(4, "little") + data[12:])
    return shifted


def _seconds(work: Callable[[], Any], repeats: int) -> float:
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


# ---- what is measured -----------------------------------------------------------------------------------------------


def _columns(path: Path, count: int, repeats: int) -> Result:
    features = tuple(Feature(joint=n, field=f, units="rad") for f in FIELDS for n in NAMES)
    channel = Channel(name="joints", topic="joint_states", type=JOINT_STATE, max_age_s=1.0, features=features)

    def ours() -> None:
        bag = Bag(path)
        decoder = ColumnDecoder(channel, JOINT_STATE, bag.store())
        for block in bag.blocks():
            decoder.add(block, np.flatnonzero(block.channel == 1))
        assert decoder.columns().raw.shape == (count, 36)

    def peer() -> None:
        with Reader(path) as reader:
            store = standard_store()
            connections = [c for c in reader.connections if c.topic == "/joint_states"]
            raw = np.empty((count, 36))
            for i, (_, _, data) in enumerate(reader.messages(connections)):
                message: Any = store.deserialize_cdr(data, JOINT_STATE)
                raw[i] = np.concatenate((message.position, message.velocity, message.effort))

    settings = {"messages": count, "joints": 12, "storage": "mcap, zstd", "repeats": repeats}
    mine, theirs = count / _seconds(ours, repeats), count / _seconds(peer, 1 if count > 100_000 else repeats)
    return Result("JointState bag into arrays", mine, theirs, f"rosbags {version('rosbags')}", "messages/s", True, settings)


def _convert(path: Path, messages: int) -> list[Result]:
    mine, theirs = (_in_process(kind, path) for kind in ("ours", "peer"))
    gigabytes = sum(f.stat().st_size for f in path.iterdir()) / 1e9
    settings = {
        "GB on disk": round(gigabytes, 3),
        "messages": messages,
        "bytes each": len(_messages(1)[0]),
        "storage": "mcap, zstd",
        "joints": 12,
        "sensor Hz": 500,
        "control Hz": 50,
        "to": "one npz",
        "repeats": 1,
        "a process each": True,
    }
    name = f"rosbags {version('rosbags')}, newest message at each tick"
    return [
        Result("bag to episodes", mine["seconds"] / gigabytes, theirs["seconds"] / gigabytes, name, "s/GB", False, settings),
        Result("bag to episodes, peak memory", mine["megabytes"], theirs["megabytes"], name, "MB above the start", False, settings),
    ]


def _in_process(kind: str, path: Path) -> dict[str, float]:
    """Memory is that of a process of its own."""
    command = [sys.executable, "-c", f"from benchmarks.bags import convert_once; convert_once({kind!r}, {str(path)!r})"]
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def convert_once(kind: str, path: str) -> None:
    """Turns one bag into episodes on the disk and prints seconds and memory."""
    wanted = contract()
    out = Path(path).parent / f"episodes_{kind}"
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024
    start = time.perf_counter()
    if kind == "ours":
        assert convert([Path(path)], wanted, out) == 1
    else:
        # What a user writes with rosbags: every message to arrays, then the newest at each tick.
        store, columns = standard_store(), {"/joint_states": ([], []), "/command": ([], [])}  # type: ignore[var-annotated]
        with Reader(path) as reader:
            for connection, _, data in reader.messages():
                message: Any = store.deserialize_cdr(data, JOINT_STATE)
                stamps, rows = columns[connection.topic]
                stamps.append(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)
                rows.append(message.effort if connection.topic == "/command" else np.concatenate((message.position, message.velocity)))
        (stamps, rows), (_, orders) = ([np.array(c) for c in columns[topic]] for topic in ("/joint_states", "/command"))
        tick = np.arange(stamps[0], stamps[-1], 20_000_000)
        seen = rows[np.searchsorted(stamps, tick, side="right") - 1].astype(np.float32)
        out.mkdir()
        np.savez_compressed(out / "episode.npz", stamp=tick, observation=seen, action=orders.astype(np.float32))
    seconds = time.perf_counter() - start
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"seconds": seconds, "megabytes": megabytes}))


def _record(folder: Path, count: int, repeats: int) -> list[Result]:
    """From the first message to a closed bag on the disk, with the messages as fast as they can be given."""
    messages = _messages(count)
    megabytes = sum(len(m) for m in messages) / 1e6
    numbers = iter(range(1000))

    def ours(compression: Compression) -> int:
        closed: list[ClosedBag] = []
        done = threading.Event()

        def on_closed(bag: ClosedBag) -> None:
            closed.append(bag)
            done.set()

        bag = BagOptions(compression=compression)
        options = RecorderOptions(folder / f"ours_{next(numbers)}", bag=bag, preroll_s=0.0, queue_bytes=1 << 30)
        recorder = Recorder(contract(), [RecordedTopic("/joint_states", JOINT_STATE)], options, on_closed)
        recorder.start()
        for data in messages:
            recorder.receive(0, data, time.time_ns(), time.monotonic())
        recorder.stop()
        recorder.close()
        assert done.wait(60) and closed[0].dropped == 0 and closed[0].summary.messages == len(messages)
        shutil.rmtree(options.directory)
        return closed[0].summary.bytes

    def peer(compression: CompressionType) -> int:
        path = folder / f"peer_{next(numbers)}.mcap"
        with open(path, "wb") as file:
            writer = Writer(file, compression=compression)
            writer.start(profile="ros2")
            channel = writer.register_channel("/joint_states", "cdr", writer.register_schema(JOINT_STATE, "ros2msg", _schema()))
            for data in messages:
                now = time.time_ns()
                writer.add_message(channel, now, data, now)
            writer.finish()
            # The recorder does so too: a closed bag is on the disk.
            os.fsync(file.fileno())
        size = path.stat().st_size
        path.unlink()
        return size

    name = f"mcap {version('mcap')}, its writer alone"
    results = []
    kinds: tuple[tuple[Compression, CompressionType, str], ...] = (
        ("zstd", CompressionType.ZSTD, "zstd, ours level 1, the peer's default"),
        ("none", CompressionType.NONE, "none"),
    )
    for compression, theirs_is, shown in kinds:
        mine, theirs = [], []
        for _ in range(repeats):  # in turns, so that both see the same machine
            start = time.perf_counter()
            size = ours(compression)
            middle = time.perf_counter()
            peers_size = peer(theirs_is)
            mine.append(middle - start)
            theirs.append(time.perf_counter() - middle)
        taken, taken_by_peer = statistics.median(mine), statistics.median(theirs)
        settings = {
            "messages": count,
            "bytes each": len(messages[0]),
            "compression": shown,
            "chunk": "1 MiB",
            "MB on disk": f"{size / 1e6:.0f} and {peers_size / 1e6:.0f}",
            "fsync": "both, at the end",
            "repeats": repeats,
            "dropped": 0,
        }
        what = f"recorder to a closed bag, {compression if compression != 'none' else 'uncompressed'}"
        results += [
            Result(what, count / taken, count / taken_by_peer, name, "messages/s", True, settings),
            Result(what, megabytes / taken, megabytes / taken_by_peer, name, "MB/s", True, settings),
        ]
    return results


def _schema() -> bytes:
    return schema_text(JOINT_STATE).encode()
