"""Damages bags at random and reads them: `python test/fault/fuzz_bags.py --inputs 100000`.

Whatever was done to a file, reading it must end soon, within bounded memory, and give what the whole file gives or the beginning of it, or
one clear error. Files without checksums (sqlite3, MCAP without chunks) may give wrong numbers, but nothing else. Every fourth file is
also read as a long bag is, which must give the same episodes bit for bit, whatever is in it.
"""

from __future__ import annotations

import argparse
import resource
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mcap.writer import Writer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cartpole_bags import contract, write_cartpole

from wm_ros.contract.errors import UserError
from wm_ros.data import thin
from wm_ros.data.align import episodes_of, spans_of
from wm_ros.data.bag_reader import Bag, Message
from wm_ros.data.bag_writer import BagOptions
from wm_ros.data.block import Limits
from wm_ros.data.episode import Episode
from wm_ros.data.recording import Recording, read_recording

LIMITS = Limits(chunk_bytes=8 << 20, file_bytes=64 << 20)
MEMORY = 4 << 30
TICKS = 16
"""Of the bags that are damaged: several chunks of several messages, and no more, for each input is read four times."""
Mutation = Callable[[np.random.Generator, bytearray], None]


def flip(rng: np.random.Generator, data: bytearray) -> None:
    """One to eight bits."""
    for _ in range(rng.integers(1, 9)):
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)


def overwrite(rng: np.random.Generator, data: bytearray) -> None:
    """A run of up to 64 bytes: zeros, ones, or noise."""
    at, count = rng.integers(len(data)), int(rng.integers(1, 65))
    run = [bytes(count), b"\xff" * count, rng.bytes(count)][rng.integers(3)]
    data[at : at + count] = run[: len(data) - at]


def number(rng: np.random.Generator, data: bytearray) -> None:
    """An extreme number where a length might be."""
    at = int(rng.integers(len(data) - 8))
    value = int(rng.choice(np.array([0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)))
    data[at : at + 8] = value.to_bytes(8, "little")


def cut(rng: np.random.Generator, data: bytearray) -> None:
    """The end is missing."""
    del data[rng.integers(len(data)) :]


def remove(rng: np.random.Generator, data: bytearray) -> None:
    """A piece is missing."""
    at = rng.integers(len(data))
    del data[at : at + rng.integers(1, 200)]


def repeat(rng: np.random.Generator, data: bytearray) -> None:
    """A piece stands there twice."""
    at = int(rng.integers(len(data)))
    piece = data[at : at + int(rng.integers(1, 2000))]
    data[at:at] = piece


MUTATIONS: tuple[Mutation, ...] = (flip, overwrite, number, cut, remove, repeat)


@dataclass(frozen=True)
class Original:
    """A sound file and what it holds."""

    content: bytes
    suffix: str
    messages: list[Message]
    recording: Recording | None
    """None for files without checksums."""


def loose_mcap(bag: Path, target: Path) -> bytes:
    """The bag as an MCAP without chunks."""
    with open(target, "wb") as file:
        writer = Writer(file, use_chunking=False)
        writer.start(profile="ros2")
        channels = {
            name: writer.register_channel(name, "cdr", writer.register_schema(c.type, "ros2msg", c.schema.encode()))
            for name, c in Bag(bag).connections.items()
        }
        for message in Bag(bag).messages():
            writer.add_message(channels[message.topic], message.log_time, message.data, message.log_time)
        writer.finish()
    return target.read_bytes()


def sqlite(bag: Path, target: Path) -> bytes:
    """The bag as a rosbag2 database."""
    database = sqlite3.connect(target)
    database.execute("CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT)")
    database.execute("CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB)")
    numbers = {name: i for i, name in enumerate(Bag(bag).connections, 1)}
    for name, connection in Bag(bag).connections.items():
        database.execute("INSERT INTO topics VALUES (?, ?, ?, 'cdr')", (numbers[name], name, connection.type))
    for message in Bag(bag).messages():
        row = (numbers[message.topic], message.log_time, message.data)
        database.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", row)
    database.commit()
    database.close()
    return target.read_bytes()


def same(some: list[Episode], others: list[Episode]) -> bool:
    """Whether two readings gave the same."""
    columns = ("observation", "action", "reward", "terminated", "stamp")
    bits = [[(e.provenance, e.truncated, *(getattr(e, c).tobytes() for c in columns)) for e in es] for es in (some, others)]
    return bits[0] == bits[1]


class Fuzz:
    """Bags to damage, and what they hold when they are whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.originals = []
        for name in ("zstd", "lz4", "none"):
            options = BagOptions(chunk_bytes=1500, compression=name)  # type: ignore[arg-type]
            path = write_cartpole(folder / name, TICKS, options=options) / f"{name}_0.mcap"
            bag = Bag(path)
            self.originals.append(Original(path.read_bytes(), ".mcap", list(bag.messages()), read_recording(bag, contract())))
        for suffix, make in (("loose.mcap", loose_mcap), (".db3", sqlite)):
            content = make(folder / "zstd", folder / f"copy{suffix}")
            self.originals.append(Original(content, suffix, self.originals[0].messages, None))

    def one(self, seed: int) -> str:
        """Damages one bag and reads it; gives how that ended.

        Raises:
            AssertionError: something was read that is not in the original.
        """
        rng = np.random.default_rng(seed)
        original = self.originals[rng.integers(len(self.originals))]
        whole, messages = original.content, original.messages
        data = bytearray(whole)
        for _ in range(rng.integers(1, 3)):
            if len(data) > 16:
                MUTATIONS[rng.integers(len(MUTATIONS))](rng, data)
        file = self._write(data, original.suffix)
        try:
            bag = Bag(file, LIMITS)
            got = list(bag.messages())
            if original.recording is None:
                self._episodes(bag, read_recording(bag, contract()), seed)
                return "whole" if len(got) == len(messages) else "beginning"
            if got != messages[: len(got)]:
                # A chunk that stands there twice is read twice: each message is still one of the recording.
                assert {(m.topic, m.log_time, m.data) for m in got} <= {(m.topic, m.log_time, m.data) for m in messages}, f"seed {seed}"
            if len(got) < len(messages) and data[:8] == whole[:8]:
                assert bag.losses, f"seed {seed}: {len(messages) - len(got)} messages were lost without a word"
            decoded = read_recording(bag, contract())
            known = {r.tobytes() for r in original.recording.channels["joints"].raw}
            assert all(r.tobytes() in known for r in decoded.channels["joints"].raw), f"seed {seed}"
            self._episodes(bag, decoded, seed)
        except UserError as error:
            assert str(error), f"seed {seed}"
            return "error"
        return "whole" if len(got) == len(messages) else "beginning"

    def _episodes(self, bag: Bag, recording: Recording, seed: int) -> None:
        episodes = episodes_of(recording, contract())
        if seed % 4 == 0:
            thinned = thin.read(bag, contract(), "", spans_of, 0)
            assert same(episodes_of(thinned, contract()), episodes), f"seed {seed}: a long bag would give other episodes"

    def _write(self, data: bytearray, suffix: str) -> Path:
        # In place: to empty a file and fill it anew makes some file systems wait for the disk, and takes longer than the reading.
        path = self.folder / f"damaged{suffix}"
        with open(path, "r+b" if path.exists() else "x+b", buffering=0) as file:
            file.write(data)
            file.truncate(len(data))
        return path


def main() -> None:
    """Runs as many inputs as asked for and prints how they ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    began, outcomes, slowest = time.monotonic(), Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(Path(folder))
        for seed in range(arguments.seed, arguments.seed + arguments.inputs):
            start = time.monotonic()
            try:
                outcomes[fuzz.one(seed)] += 1
            except Exception as error:
                raise AssertionError(f"--seed {seed} --inputs 1 shows it: {error!r}") from error
            slowest = max(slowest, time.monotonic() - start)
    print(f"{arguments.inputs} inputs in {time.monotonic() - began:.0f} s, slowest {slowest:.2f} s: {dict(outcomes)}")


if __name__ == "__main__":
    main()
