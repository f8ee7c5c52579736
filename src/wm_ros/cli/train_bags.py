"""What every `wm-ros train --bag` does before it learns, whatever the agent: bags in, and what is refused and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from wm_ros.cli.display import Display, make_folder
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract

if TYPE_CHECKING:
    from wm_ros.cli.train import Train
    from wm_ros.data.episode import Episode
    from wm_ros.training.bag_set import BagSet


class Begun(Protocol):
    """A training that has its data."""

    training: list[list[Episode]]
    held_out: list[Episode]


@dataclass(frozen=True)
class ReadBags:
    """What there is to learn from."""

    data: BagSet
    refused: tuple[tuple[str, str], ...]
    """(bag or pattern, reason)."""
    found: int
    """Bags, with those that were refused."""

    def said(self, training: Begun) -> str:
        """How much of it is learned from."""
        kept = [e for episodes in training.training for e in episodes]
        return (
            f"{len(self.data.bags)} of {self.found} bags, {len(kept)} episodes with {sum(map(len, kept))} steps to learn from, "
            f"{len(training.held_out)} held out"
        )


def read(options: Train, contract: Contract, shortest: int, folder: Path, outputs: tuple[str, ...], show: Display) -> ReadBags:
    """Makes the folder and reads the bags that the options name, see `bag_set.read`.

    Raises:
        UserError: the folder has a training in it, or no bag can be used.
    """
    from wm_ros.training import bag_set

    paths, nothing = bag_set.find(pattern for patterns in options.bag for pattern in patterns)
    make_folder(folder, outputs)
    show.begin("reading bags", len(paths))
    data = bag_set.read(
        paths,
        contract,
        shortest,
        namespace=options.namespace,
        force=options.force,
        on_bag=lambda path: show.advance(),
        on_loss=lambda loss: show.line(f"warning: {loss.path}: {loss.bytes} bytes are lost: {loss.reason}"),
    )
    refused = (*nothing, *data.refused)
    for _, reason in refused:
        show.line(f"not used: {reason}")
    if not data.bags:
        raise UserError(f"bag: none of {len(refused)} can train {contract.name}: see above, and `wm-ros bag check`")
    return ReadBags(data, refused, len(paths) + len(nothing))
