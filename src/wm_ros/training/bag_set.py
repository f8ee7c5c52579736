"""The bags of an offline training: which can train a contract, and why the others cannot."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data import bag_check
from wm_ros.data.align import iterate_episodes
from wm_ros.data.bag_hash import bag_hash
from wm_ros.data.bag_reader import Bag, Loss
from wm_ros.data.convert import find_bags
from wm_ros.data.episode import Episode
from wm_ros.runtime.artifact import TrainingBag


@dataclass
class BagSet:
    """What was read: of each bag only its episodes are kept."""

    bags: list[TrainingBag] = field(default_factory=list)
    episodes: list[list[Episode]] = field(default_factory=list)
    """Of each bag, in the same order."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """(bag, reason and remedy) of those that cannot train the contract."""


def find(patterns: Iterable[str]) -> tuple[list[Path], list[tuple[str, str]]]:
    """The bags that paths, folders and globs name, each once, and what was named but holds no bag, with the reason.

    Raises:
        UserError: a path is not there, or a glob fits nothing.
    """
    found: list[Path] = []
    refused: list[tuple[str, str]] = []
    for pattern in patterns:
        given = Path(pattern).expanduser()
        paths = [given] if given.exists() else sorted(map(Path, glob.glob(str(given), recursive=True)))
        if not paths:
            raise UserError(f"bag: {pattern}: no such file or folder: give rosbag2 directories, folders of them, or a glob in quotes")
        for path in paths:
            try:
                found += find_bags([path])
            except UserError as error:
                refused.append((str(path), str(error)))
    return list(dict.fromkeys(found)), refused


def read(
    paths: Iterable[Path],
    contract: Contract,
    shortest: int,
    *,
    namespace: str = "",
    force: bool = False,
    on_bag: Callable[[Path], None] = lambda path: None,
    on_loss: Callable[[Loss], None] = lambda loss: None,
) -> BagSet:
    """Reads bags one after the other.

    Args:
        paths: see `find`.
        contract: what they are to train.
        shortest: ticks of a model step; a bag without an episode that long teaches nothing.
        namespace: of the robot's topics in the bags.
        force: take bags that were recorded under another contract.
        on_bag: told of every bag before it is read.
        on_loss: told of every part of a bag that could not be read.
    """
    found = BagSet()
    known: dict[str, str] = {}
    for path in paths:
        on_bag(path)
        try:
            sha256 = bag_hash(path)
            if sha256 in known:
                # In training and held-out data alike, it would make the model look better than it is.
                raise UserError(f"{path}: a copy of {known[sha256]}: used once")
            episodes = [_alone(e) for e in iterate_episodes(path, contract, namespace=namespace, force=force, on_loss=on_loss)]
            if not episodes:
                raise UserError(_why_nothing(path, contract, namespace, force=force))
            if (longest := max(map(len, episodes))) < shortest:
                raise UserError(
                    f"{path}: its longest stretch without a gap has {longest} ticks, a model step has {shortest}: "
                    "record longer episodes or set pets.stride lower"
                )
        except (UserError, OSError) as error:
            found.refused.append((str(path), str(error)))
            continue
        known[sha256] = str(path)
        found.bags.append(TrainingBag(path=str(path), sha256=sha256))
        found.episodes.append(episodes)
    return found


def read_again(
    bags: Sequence[TrainingBag],
    contract: Contract,
    shortest: int,
    *,
    namespace: str = "",
    force: bool = False,
    on_bag: Callable[[Path], None] = lambda path: None,
) -> BagSet:
    """`read` for a training that goes on.

    Raises:
        UserError: names every bag that has gone or changed since.
    """
    data = read([Path(bag.path) for bag in bags], contract, shortest, namespace=namespace, force=force, on_bag=on_bag)
    faults = [reason for _, reason in data.refused] + [f"{now.path}: changed" for now in data.bags if now not in bags]
    if faults:
        raise UserError("\n".join(f"{fault}: not as it was when this training began: restore it, or begin anew" for fault in faults))
    return data


def _alone(episode: Episode) -> Episode:
    """The episode without the rest of the recording, which a view of a few of its ticks would keep in memory."""

    def own(column: NDArray[Any]) -> NDArray[Any]:
        base = column.base
        return column.copy() if isinstance(base, np.ndarray) and base.nbytes > 2 * column.nbytes else column

    names = ("observation", "action", "reward", "terminated", "stamp")
    return replace(episode, **{name: own(getattr(episode, name)) for name in names})


def _why_nothing(path: Path, contract: Contract, namespace: str, *, force: bool) -> str:
    report = bag_check.check(Bag(path), contract, namespace, force=force)
    errors = "; ".join(p.text for p in report.problems if p.severity == "error")
    return f"{path}: {errors or 'every episode in it was discarded'} (`wm-ros bag check {path} --contract ...` shows each channel)"
