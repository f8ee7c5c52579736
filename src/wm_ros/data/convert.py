"""Bags to episode files that other programs read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data.align import iterate_episodes
from wm_ros.data.bag_reader import Bag, Loss
from wm_ros.data.episode import FRAMES_AT_ONCE, Episode, save
from wm_ros.data.images import as_png
from wm_ros.data.lerobot import LeRobotWriter

Format = Literal["npz", "parquet", "lerobot"]


def convert(
    bags: Iterable[Path],
    contract: Contract,
    out: Path,
    kind: Format = "npz",
    *,
    namespace: str = "",
    force: bool = False,
    on_episode: Callable[[Path, Episode], None] = lambda path, episode: None,
    on_loss: Callable[[Loss], None] = lambda loss: None,
) -> int:
    """Writes one file per episode, `episode_000000` and on, or a LeRobotDataset.

    In memory is one bag's share of `data.thin` and one episode, whatever the number and the length of the bags.

    Args:
        bags: see `find_bags`.
        contract: names the channels, the command and the reward.
        out: a folder without episodes in it; made if need be.
        kind: `npz` as `data.episode.load` reads it; `parquet` and `lerobot` (see `data.lerobot`) need pyarrow.
        namespace: of the robot's topics in the bags.
        force: take bags that were recorded under another contract.
        on_episode: told of every episode and its file (`lerobot`: the folder).
        on_loss: told of every part of a bag that could not be read.

    Returns:
        How many episodes there are.

    Raises:
        UserError: a bag cannot be read, or the folder has episodes already.
    """
    dataset = LeRobotWriter(out, contract) if kind == "lerobot" else None
    write = _parquet_writer(contract) if kind == "parquet" else save
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made: {error.strerror}: give another folder") from None
    if any(out.glob("episode_*")):
        raise UserError(f"{out}: has episodes in it, which are not overwritten: give another folder")
    count = 0
    for bag in bags:
        for episode in iterate_episodes(bag, contract, namespace=namespace, force=force, on_loss=on_loss):
            if dataset is None:
                path = out / f"episode_{count:06d}.{kind}"
                write(episode, path)
            else:
                path = out
                dataset.add(episode)
            on_episode(path, episode)
            count += 1
    if dataset is not None:
        dataset.close()
    return count


def find_bags(paths: Iterable[str | Path]) -> list[Path]:
    """The bags in `paths`: bags themselves, storage files, or folders with bags anywhere below; each once, sorted within a folder.

    Raises:
        UserError: one of the paths holds no bag.
    """
    found: list[Path] = []
    for given in paths:
        path = Path(given).expanduser()
        if path.is_dir() and not _is_bag(path):
            below = sorted(p for p in path.rglob("*") if p.is_dir() and _is_bag(p))
            if not below:
                raise UserError(f"{path}: no bag in it or below it: give a rosbag2 directory or a folder of them")
            found += below
        else:
            found.append(Bag(path).path)
    return list(dict.fromkeys(p.absolute() for p in found))


def _is_bag(folder: Path) -> bool:
    return (folder / "metadata.yaml").is_file() or any(folder.glob("*.mcap")) or any(folder.glob("*.db3"))


def _parquet_writer(contract: Contract) -> Callable[[Episode, Path], None]:
    try:
        import pyarrow  # type: ignore[import-not-found,unused-ignore]
        import pyarrow.parquet  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise UserError("format parquet: pyarrow is not installed: pip install pyarrow, or take npz") from None

    def write(episode: Episode, path: Path) -> None:
        # The last observation has no action: its row is there with zeros and `valid` false.
        def padded(values: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([values, np.zeros((1, *values.shape[1:]), values.dtype)])

        columns: dict[str, NDArray[Any]] = {"stamp_ns": episode.stamp}
        columns |= {f"observation.{name}": episode.observation[:, i] for i, name in enumerate(contract.observation_names)}
        columns |= {f"action.{name}": padded(episode.action)[:, i] for i, name in enumerate(contract.action.names)}
        columns |= {"reward": padded(episode.reward), "terminated": padded(episode.terminated)}
        columns["valid"] = np.arange(len(episode) + 1) < len(episode)
        if not episode.images:
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
            return
        # Pictures are PNG files in a column; few of them are in memory at once.
        for begin in range(0, len(episode) + 1, FRAMES_AT_ONCE):
            part = slice(begin, begin + FRAMES_AT_ONCE)
            pictures = {f"images.{name}": as_png(frames[part]) for name, frames in episode.images.items()}
            table = pyarrow.table({**{name: values[part] for name, values in columns.items()}, **pictures})
            if begin == 0:
                writer = pyarrow.parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
        writer.close()

    return write
