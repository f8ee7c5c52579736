"""An episode: what a robot saw, did and got, as columns."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.errors import UserError


@dataclass(frozen=True)
class Provenance:
    """Where an episode comes from."""

    bag: str = ""
    """Path of the bag."""
    contract_hash: str = ""
    """Hash of the contract that the columns were made with."""
    controller_sha256: str = ""
    """The controller that drove; empty where nobody noted it."""
    controller_version: int = -1
    episode: int = -1
    """Number of the episode in its run; -1 where the bag does not say."""
    seed: int = -1
    purpose: str = ""
    """`train`, `evaluate`, or empty."""
    part: int = 0
    """Counts the pieces that a recording was split into at gaps."""


class ImageColumn(Protocol):
    """The frames of an image channel: an array [T+1, H, W, C] uint8, or `data.images.Frames`, which decodes what is asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, eq=False)
class Episode:
    """T steps of one robot, without a gap. T >= 1."""

    observation: NDArray[np.float32]
    """[T+1, O]."""
    action: NDArray[np.float32]
    """[T, A], in the contract's units."""
    reward: NDArray[np.float32]
    """[T]."""
    terminated: NDArray[np.bool_]
    """[T]; true only in the last place, where the task's final state was reached."""
    truncated: bool
    """Cut by time or a gap: targets bootstrap through the last observation."""
    stamp: NDArray[np.int64]
    """[T+1], robot time of the ticks in nanoseconds, rising."""
    provenance: Provenance = Provenance()
    images: Mapping[str, ImageColumn] = field(default_factory=dict)
    """Image channel → its frames [T+1, H, W, C] uint8."""

    def __post_init__(self) -> None:
        steps = self.action.shape[0]
        expected: dict[str, tuple[tuple[int, ...], Any]] = {
            "observation": ((steps + 1, self.observation.shape[-1]), np.float32),
            "action": ((steps, self.action.shape[-1]), np.float32),
            "reward": ((steps,), np.float32),
            "terminated": ((steps,), np.bool_),
            "stamp": ((steps + 1,), np.int64),
        }
        if steps < 1:
            raise ValueError("an episode needs at least one step")
        for name, (shape, dtype) in expected.items():
            column = getattr(self, name)
            if column.shape != shape or column.dtype != dtype:
                raise ValueError(f"{name} is {column.dtype}{list(column.shape)}, expected {np.dtype(dtype)}{list(shape)} for {steps} steps")
        for name, frames in self.images.items():
            if len(frames.shape) != 4 or len(frames) != steps + 1:
                raise ValueError(f"images {name} are {list(frames.shape)}, expected [{steps + 1}, H, W, C] for {steps} steps")
        for name in ("observation", "action", "reward"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} holds a value that is not finite")
        if self.terminated[:-1].any():
            raise ValueError("terminated before the last step")
        if self.terminated[-1] and self.truncated:
            raise ValueError("terminated and truncated exclude each other")
        if (np.diff(self.stamp) <= 0).any():
            raise ValueError("stamp must rise")

    def __len__(self) -> int:
        """T, the number of steps."""
        return int(self.action.shape[0])

    @property
    def total_reward(self) -> float:
        """The return, not discounted."""
        return float(self.reward.sum(dtype=np.float64))


_IMAGES = "images."
FRAMES_AT_ONCE = 64
"""Frames of a channel that are in memory while an episode is written."""
_COLUMNS = ("observation", "action", "reward", "terminated", "stamp")


def save(episode: Episode, path: Path) -> None:
    """Writes one episode as `.npz`; the file appears whole or not at all."""
    scratch = path.with_name(path.name + ".part")
    record = json.dumps({"truncated": episode.truncated, **asdict(episode.provenance)})
    with scratch.open("wb") as file:
        np.savez_compressed(file, record=np.array(record), **{name: getattr(episode, name) for name in _COLUMNS})
    # Images are added frame by frame, so that those of a long episode are never in memory together.
    with zipfile.ZipFile(scratch, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, frames in episode.images.items():
            with archive.open(f"{_IMAGES}{name}.npy", "w", force_zip64=True) as member:
                head = {"descr": "|u1", "fortran_order": False, "shape": tuple(frames.shape)}
                np.lib.format.write_array_header_1_0(member, head)
                for begin in range(0, len(frames), FRAMES_AT_ONCE):
                    member.write(np.ascontiguousarray(frames[begin : begin + FRAMES_AT_ONCE]).tobytes())
    scratch.replace(path)


def load(path: Path) -> Episode:
    """Reads what `save` wrote; no pickle.

    Raises:
        UserError: the file is no episode.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            record = json.loads(str(file["record"]))
            columns = {name: file[name] for name in _COLUMNS}
            images = {name.removeprefix(_IMAGES): file[name] for name in file.files if name.startswith(_IMAGES)}
        if any(frames.dtype != np.uint8 for frames in images.values()):
            raise ValueError("its images are not uint8")
        truncated = bool(record.pop("truncated"))
        known = {f.name for f in fields(Provenance)}
        if set(record) != known:
            raise ValueError(f"its record has the fields {sorted(record)}")
        return Episode(**columns, truncated=truncated, provenance=Provenance(**record), images=images)
    except (OSError, ValueError, KeyError, IndexError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not an episode file: {error}: convert the bag again") from None
