"""Messages of one storage block, as tables over one buffer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.errors import UserError


@dataclass(frozen=True)
class Connection:
    """One topic in one storage file."""

    topic: str
    type: str
    encoding: str
    """Of the messages: `cdr`."""
    schema_encoding: str
    """`ros2msg`, `ros2idl` or empty."""
    schema: str
    """The definition's text, empty where the file has none."""


@dataclass(frozen=True, eq=False)
class Block:
    """N messages that stand in one buffer, in the order in which they were recorded."""

    buffer: bytes
    offset: NDArray[np.int64]
    """[N], where a message's CDR begins."""
    length: NDArray[np.int64]
    """[N], its bytes."""
    channel: NDArray[np.int64]
    """[N], key into `connections`."""
    log_time: NDArray[np.int64]
    """[N], time of reception, ns."""
    connections: dict[int, Connection]
    """Those known so far in this file."""
    place: int = -1
    """Where the scan of the file finds the stored buffer again: a byte of an MCAP, a row of a database."""
    stored: NDArray[np.int64] | None = None
    """[N, 2], offset and length in the stored buffer, where that is another one: messages that were compressed one by one."""
    path: Path | None = None
    """The storage file."""

    def __len__(self) -> int:
        return len(self.offset)


@dataclass(frozen=True)
class Survey:
    """What a file says about itself without being read through."""

    connections: dict[int, Connection]
    counts: dict[int, int]
    """Messages of each connection."""
    metadata: dict[str, dict[str, str]]
    """MCAP metadata records by name; only those that the recorder of this package writes."""


class Damage(Exception):
    """The rest of a file cannot be trusted; what came before is sound."""


@dataclass(frozen=True)
class Limits:
    """How much a file may ask for. A file beyond a limit is refused, so that no input exhausts the memory."""

    chunk_bytes: int = 256 << 20
    """Largest chunk or message, uncompressed."""
    file_bytes: int = 64 << 30
    """Largest storage file after decompression of a file-compressed bag."""


def refuse_bomb(path: object, claimed: int, limit: int) -> UserError:
    """The error for a block that claims more than a limit."""
    return UserError(
        f"{path}: a block claims {claimed} bytes when decompressed, more than the limit of {limit}: "
        "the file is damaged or hostile; if it is neither, record it with smaller chunks"
    )
