"""wm-ros bag: what is in a bag, what is wrong with it, and episodes out of it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from wm_ros.contract import images, schema
from wm_ros.contract.errors import UserError
from wm_ros.data import bag_check, convert
from wm_ros.data.bag_check import CheckReport
from wm_ros.data.bag_reader import Bag, Loss
from wm_ros.data.block import Block
from wm_ros.data.images import UNDECODABLE
from wm_ros.data.ros_types import deserialize

_OTHER_CLOCK_MS = 60_000.0
"""A delay of more than a minute is none: stamps and recorder have different clocks, as in a simulation."""
_UNGUARDED = "note: {} messages have no checksum (sqlite3, or MCAP without one): damage to their numbers cannot be noticed"


@dataclass(frozen=True)
class Info:
    """Show what is in bags: files, topics, counts, rates, what is lost. Everything is read through."""

    bags: tyro.conf.Positional[tuple[str, ...]]
    """rosbag2 directories, storage files, or folders of bags."""
    json: bool = False
    """Print JSON in place of a table."""

    def run(self) -> int:
        """Prints one description per bag."""
        records = [describe(Bag(path)) for path in convert.find_bags(self.bags)]
        print(json.dumps(records, indent=2) if self.json else "\n\n".join(_info_text(r) for r in records))
        return 0


@dataclass(frozen=True)
class Check:
    """Check bags against a contract. Exit status 2 if one of them cannot train it."""

    bags: tyro.conf.Positional[tuple[str, ...]]
    """rosbag2 directories, storage files, or folders of bags."""
    contract: str
    """Contract file, or the name of a shipped contract."""
    namespace: str = ""
    """Of the robot's topics in the bags."""
    force: bool = False
    """Do not mind that a bag was recorded under another contract."""
    json: bool = False
    """Print JSON in place of tables."""

    def run(self) -> int:
        """Prints one report per bag."""
        contract = schema.load(self.contract)
        reports = [bag_check.check(Bag(p), contract, self.namespace, force=self.force) for p in convert.find_bags(self.bags)]
        print(json.dumps([asdict(r) for r in reports], indent=2) if self.json else "\n\n".join(check_text(r) for r in reports))
        return 0 if all(r.trainable for r in reports) else 2


@dataclass(frozen=True)
class Convert:
    """Turn bags into episode files, one per episode, or into a LeRobotDataset."""

    bags: tyro.conf.Positional[tuple[str, ...]]
    """rosbag2 directories, storage files, or folders of bags."""
    contract: str
    """Contract file, or the name of a shipped contract."""
    out: Path
    """Folder for the episodes; must not have any in it."""
    format: convert.Format = "npz"
    """lerobot is a LeRobotDataset v3.0; it and parquet need pyarrow."""
    namespace: str = ""
    """Of the robot's topics in the bags."""
    force: bool = False
    """Take bags that were recorded under another contract."""

    def run(self) -> int:
        """Writes the files and names each."""

        def name(path: Path, episode: Any) -> None:
            print(f"{path}: {len(episode)} steps, return {episode.total_reward:.1f}, from {episode.provenance.bag}")

        def warn(loss: Loss) -> None:
            print(f"warning: {loss.path}: {loss.bytes} bytes are lost: {loss.reason}", file=sys.stderr)

        contract, bags = schema.load(self.contract), convert.find_bags(self.bags)
        count = convert.convert(
            bags, contract, self.out, self.format, namespace=self.namespace, force=self.force, on_episode=name, on_loss=warn
        )
        if not count:
            raise UserError("no episode in any of the bags: see `wm-ros bag check`")
        return 0


@dataclass(frozen=True)
class View:
    """Draw a contract's channels in a bag into a picture."""

    bag: tyro.conf.Positional[str]
    """rosbag2 directory or storage file."""
    contract: str
    """Contract file, or the name of a shipped contract."""
    out: Path
    """Picture to write; the ending says which kind (png, svg, pdf)."""
    namespace: str = ""
    """Of the robot's topics in the bag."""

    def run(self) -> int:
        """Writes the picture."""
        from wm_ros.viz.bag_view import draw  # matplotlib takes a while to load

        draw(Bag(self.bag), schema.load(self.contract), self.out, self.namespace)
        print(self.out)
        return 0


@dataclass(frozen=True)
class BagCommand:
    """Recorded bags: info, check, view, convert."""

    action: (
        Annotated[Info, tyro.conf.subcommand("info")]
        | Annotated[Check, tyro.conf.subcommand("check")]
        | Annotated[View, tyro.conf.subcommand("view")]
        | Annotated[Convert, tyro.conf.subcommand("convert")]
    )

    def run(self) -> int:
        """Runs the chosen one."""
        return self.action.run()


def describe(bag: Bag) -> dict[str, Any]:
    """What is in a bag, as plain data; one pass over it. Of image topics also what the first picture says of itself."""
    pictures: dict[str, str] = {}
    counts: dict[str, int] = {}
    types: dict[str, str] = {}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for block in bag.blocks():
        for key, connection in block.connections.items():
            types[connection.topic] = connection.type
            times = block.log_time[block.channel == key]
            counts[connection.topic] = counts.get(connection.topic, 0) + len(times)
            if len(times) and connection.type in schema.IMAGE_TYPES and connection.topic not in pictures:
                pictures[connection.topic] = _first_picture(bag, block, key)
            if len(times):
                first[connection.topic] = min(first.get(connection.topic, int(times.min())), int(times.min()))
                last[connection.topic] = max(last.get(connection.topic, int(times.max())), int(times.max()))
    start, end = min(first.values(), default=0), max(last.values(), default=0)
    noted = bag.custom_data
    return {
        "bag": str(bag.path),
        "files": [str(p.name) for p in bag.files],
        "bytes": sum(p.stat().st_size for p in bag.files),
        "closed": bag.metadata is not None or bag.path.is_file(),
        "start_ns": start,
        "duration_s": (end - start) * 1e-9,
        "messages": sum(counts.values()),
        "topics": [
            {"name": t, "type": types[t], "messages": counts[t], "rate_hz": _rate(counts[t], first.get(t, 0), last.get(t, 0))}
            | ({"picture": pictures[t]} if t in pictures else {})
            for t in sorted(types)
        ],
        "unguarded": bag.unguarded,
        "lost": [{"file": loss.path.name, "bytes": loss.bytes, "reason": loss.reason} for loss in bag.losses],
        "contract_hash": noted.get("wm_ros.contract_hash", ""),
        "controller_version": noted.get("wm_ros.controller_version", ""),
    }


def _first_picture(bag: Bag, block: Block, key: int) -> str:
    """Size and encoding, such as `640x480 bgr8`, or why there is none."""
    row = int(np.flatnonzero(block.channel == key)[0])
    at = int(block.offset[row])
    try:
        message = deserialize(bag.store(), block.buffer[at : at + int(block.length[row])], block.connections[key].type)
        return str(images.inspect(message))
    except (images.BadImage, *UNDECODABLE) as error:
        return f"not usable: {error}"


def _rate(count: int, first: int, last: int) -> float | None:
    return (count - 1) / ((last - first) * 1e-9) if last > first else None


def _info_text(record: dict[str, Any]) -> str:
    lines = [
        f"{record['bag']}: {record['messages']} messages in {record['duration_s']:.2f} s, "
        f"{record['bytes'] / 1e6:.2f} MB in {len(record['files'])} file(s)"
    ]
    if not record["closed"]:
        lines.append("  the recorder was killed: there is no metadata.yaml")
    lines += [f"  lost: {loss['file']}: {loss['bytes']} bytes, {loss['reason']}" for loss in record["lost"]]
    if record["unguarded"]:
        lines.append(f"  {_UNGUARDED.format(record['unguarded'])}")
    if record["contract_hash"]:
        lines.append(f"  contract {record['contract_hash'][:12]}, controller version {record['controller_version'] or 'not noted'}")
    rows = [["topic", "type", "messages", "Hz"]]
    for t in record["topics"]:
        kind = f"{t['type']}, {t['picture']}" if "picture" in t else t["type"]
        rows.append([t["name"], kind, str(t["messages"]), _number(t["rate_hz"])])
    return "\n".join([*lines, *_columns(rows)])


def check_text(report: CheckReport) -> str:
    """A check for people."""
    verdict = "can train" if report.trainable else "cannot train"
    lines = [f"{report.bag}: {verdict} {report.contract}: {report.steps} steps ({report.seconds:.1f} s) in {report.episodes} episode(s)"]
    rows = [["channel", "messages", "refused", "Hz", "jitter ms", "gaps", "longest s", "backwards", "doubled", "jumps", "delay ms"]]
    for c in report.channels:
        refused = str(sum(c.refused.values()))
        jitter, delay = (None if v is None else 1e3 * v for v in (c.jitter_s, c.delay_s))
        late = "other clock" if delay is not None and abs(delay) > _OTHER_CLOCK_MS else _number(delay)
        rate = [c.name, str(c.messages), refused, _number(c.rate_hz), _number(jitter), str(c.gaps), _number(c.longest_gap_s or None)]
        rows.append([*rate, str(c.out_of_order), str(c.duplicates), str(c.clock_jumps), late])
    lines += _columns(rows)
    rows = [["image", "seen", "contract", "damaged"]]
    for c in report.channels:
        if c.image is not None:
            found = ", ".join(f"{what} ({count})" for what, count in c.image.seen.items()) or "–"
            rows.append([c.name, found, c.image.wanted, str(c.image.damaged)])
    if len(rows) > 1:
        lines += ["", *_columns(rows)]
    rows = [["feature", "least", "most", "low", "high", "outside", "at limit"]]
    for c in report.channels:
        for f in c.features:
            limit = "" if f.saturated is None else f"{100 * f.saturated:.0f} %"
            seen = [_number(v) for v in (f.minimum, f.maximum, f.low, f.high)]
            rows.append([f"{f.name} [{f.units}]", *seen, str(f.below + f.above), limit])
    lines += ["", *_columns(rows)]
    if report.unguarded:
        lines.append(f"  {_UNGUARDED.format(report.unguarded)}")
    lines += [f"  {p.severity}: {p.text}" for p in report.problems]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    # The first column names the row, the others are numbers.
    return ["  " + "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]) for row in rows]
