"""Opens a recorded bag: a rosbag2 directory with or without metadata.yaml, or one storage file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data import bag_metadata, ros_types, storage
from wm_ros.data.bag_writer import RECORD
from wm_ros.data.block import Block, Connection, Damage, Limits


@dataclass(frozen=True)
class Loss:
    """What of a file could not be read."""

    path: Path
    bytes: int
    reason: str


@dataclass(frozen=True)
class Message:
    """One recorded message."""

    topic: str
    type: str
    log_time: int
    """Time of reception, ns."""
    data: bytes
    """CDR."""


class Bag:
    """A bag on the disk. Nothing of it is kept in memory; every pass reads it again."""

    def __init__(self, path: str | Path, limits: Limits | None = None) -> None:
        """Finds the storage files.

        Args:
            path: a rosbag2 directory or a single file.
            limits: refuses what asks for more memory.

        Raises:
            UserError: there is no bag at `path`.
        """
        self.path = Path(path).expanduser().absolute()
        self.limits = limits or Limits()
        self.metadata: bag_metadata.Metadata | None = None
        self.losses: list[Loss] = []
        """Filled by each complete pass over the messages."""
        self.unguarded = 0
        """Messages that no checksum guards; filled by each complete pass."""
        self._records: dict[str, str] = {}
        self._connections: dict[str, Connection] | None = None
        self._counts: dict[str, int] = {}
        if self.path.is_dir():
            self.files = self._files_of_directory()
        elif self.path.is_file():
            self.files = (self.path,)
        else:
            raise UserError(f"{self.path}: no such bag: give a rosbag2 directory or an .mcap file")

    def _files_of_directory(self) -> tuple[Path, ...]:
        noted = self.path / bag_metadata.NAME
        if noted.is_file():
            self.metadata = bag_metadata.read(noted)
            files = [self.path / f.path for f in self.metadata.files]
            lost = [f.name for f in files if not f.is_file()]
            if lost:
                raise UserError(f"{noted}: names {', '.join(lost)}, which is not there: bring the file back or remove metadata.yaml")
        else:
            files = sorted((p for p in self.path.iterdir() if storage.is_storage(p)), key=_natural)
        if not files:
            raise UserError(f"{self.path}: no bag in it (no metadata.yaml, no .mcap and no .db3 file): give the directory of one recording")
        return tuple(files)

    # ---- messages -------------------------------------------------------------------------------------------------

    def blocks(self) -> Iterator[Block]:
        """All messages, block by block, in the order in which they were written.

        Raises:
            UserError: a file is no storage file, or is beyond the limits.
        """
        losses: list[Loss] = []
        unguarded = 0
        for path in self.files:
            with storage.opened(path, self.limits) as scan:
                try:
                    for block in scan.blocks():
                        yield storage.plain_messages(block, self.limits, path)
                except Damage as damage:
                    losses.append(Loss(path, path.stat().st_size, str(damage)))
                if scan.fault:
                    losses.append(Loss(path, scan.lost_bytes, scan.fault))
                unguarded += scan.unguarded
                self._records = {**scan.metadata.get(RECORD, {}), **self._records}
        self.losses, self.unguarded = losses, unguarded

    def messages(self, topics: set[str] | None = None) -> Iterator[Message]:
        """Single messages, in the order in which they were written; `topics` None for all."""
        for block in self.blocks():
            wanted = {k: c for k, c in block.connections.items() if topics is None or c.topic in topics}
            for i in np.flatnonzero(np.isin(block.channel, list(wanted))):
                connection, at = wanted[int(block.channel[i])], int(block.offset[i])
                yield Message(
                    connection.topic, connection.type, int(block.log_time[i]), block.buffer[at : at + int(block.length[i])]
                )

    # ---- what is in it --------------------------------------------------------------------------------------------

    def _survey(self) -> dict[str, Connection]:
        """Topics, counts and custom data: from the files' own summaries, or else by one pass over them."""
        if self._connections is None:
            connections: dict[str, Connection] = {}
            counts: dict[str, int] = {}

            def note(found: dict[int, Connection], numbers: dict[int, int]) -> None:
                for key, connection in found.items():
                    other = connections.setdefault(connection.topic, connection)
                    if other.type != connection.type:
                        raise UserError(
                            f"{self.path}: topic {connection.topic} is recorded as {other.type} and as {connection.type}: "
                            "split the bag into one with each type"
                        )
                    counts[connection.topic] = counts.get(connection.topic, 0) + numbers.get(key, 0)

            for path in self.files:
                with storage.opened(path, self.limits) as scan:
                    survey = scan.survey()
                    if survey is not None:
                        note(survey.connections, survey.counts)
                        records = survey.metadata
                    else:
                        for block in scan.blocks():
                            channels, numbers = np.unique(block.channel, return_counts=True)
                            note(block.connections, dict(zip(channels.tolist(), numbers.tolist(), strict=True)))
                        records = scan.metadata
                self._records = {**records.get(RECORD, {}), **self._records}
            self._connections, self._counts = connections, counts
        return self._connections

    @property
    def connections(self) -> dict[str, Connection]:
        """Topic → its type and definition, of topics that have messages or stand in the files."""
        return dict(self._survey())

    @property
    def counts(self) -> dict[str, int]:
        """Topic → messages, as the files say of themselves where they were closed, as can be read where they were not."""
        self._survey()
        return dict(self._counts)

    @property
    def custom_data(self) -> dict[str, str]:
        """What the recorder noted; from metadata.yaml, or from the storage file of a recorder that was killed."""
        if self.metadata is not None and self.metadata.custom_data:
            return dict(self.metadata.custom_data)
        self._survey()
        return dict(self._records)

    @property
    def contract(self) -> Contract | None:
        """The contract that the bag was recorded under; None for a bag of somebody else.

        Raises:
            UserError: the bag has a contract that is not valid.
        """
        text = self.custom_data.get("wm_ros.contract")
        return schema.from_json(text, str(self.path)) if text else None

    def store(self) -> ros_types.Typestore:
        """Message definitions, the bag's own first."""
        return ros_types.bag_store({c.type: (c.schema_encoding, c.schema) for c in self._survey().values() if c.type})

    def resolve(self, topic: str, namespace: str = "") -> str | None:
        """The bag's name of a contract's topic.

        Args:
            topic: as the contract has it, usually relative.
            namespace: where the robot's topics are; empty looks everywhere.

        Returns:
            The recorded name, or None where the bag has no such topic.

        Raises:
            UserError: several robots' topics fit, and no namespace was given.
        """
        names = self._survey()
        if topic.startswith("/"):
            return topic if topic in names else None
        relative = topic.removeprefix("~/")
        exact = "/" + "/".join(p for p in (namespace.strip("/"), relative) if p)
        if exact in names:
            return exact
        if namespace:
            return None
        fitting = sorted((n for n in names if n.endswith("/" + relative) and self._counts.get(n)), key=lambda n: (len(n), n))
        # Of `cell/command` and `cell/mpc/command` the first is the robot's: the others lie below its namespace.
        if len(fitting) > 1 and not all(n.startswith(fitting[0].removesuffix(relative)) for n in fitting):
            raise UserError(f"{self.path}: {topic} could be {' or '.join(fitting)}: give a namespace")
        return fitting[0] if fitting else None

    def sha256(self) -> str:
        """Hash of the storage files' contents, in their order."""
        digest = hashlib.sha256()
        for path in self.files:
            with open(path, "rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
        return digest.hexdigest()


def _natural(path: Path) -> tuple[int, str]:
    """Sorts bag_2 before bag_10."""
    number = path.name.split(".")[0].rpartition("_")[2]
    return (int(number) if number.isdigit() else -1, path.name)
