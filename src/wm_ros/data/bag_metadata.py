"""A bag directory's metadata.yaml."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from wm_ros.contract.errors import UserError

NAME = "metadata.yaml"
VERSION = 9
MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Topic:
    """One topic of a bag."""

    name: str
    type: str
    """Such as sensor_msgs/msg/JointState."""
    messages: int
    qos: tuple[dict[str, Any], ...] = ()
    type_hash: str = ""


@dataclass(frozen=True)
class File:
    """One storage file of a bag."""

    path: str
    """Relative to the directory."""
    start_ns: int
    duration_ns: int
    messages: int


@dataclass(frozen=True)
class Metadata:
    """What rosbag2 notes beside the storage files."""

    files: tuple[File, ...]
    topics: tuple[Topic, ...]
    custom_data: dict[str, str]
    storage: str = "mcap"
    compression_format: str = ""
    compression_mode: str = ""
    version: int = VERSION


def to_yaml(metadata: Metadata) -> str:
    """The text of metadata.yaml."""
    written = [f for f in metadata.files if f.messages]
    start = min((f.start_ns for f in written), default=0)
    end = max((f.start_ns + f.duration_ns for f in written), default=0)
    information = {
        "version": VERSION,
        "storage_identifier": metadata.storage,
        "duration": {"nanoseconds": end - start},
        "starting_time": {"nanoseconds_since_epoch": start},
        "message_count": sum(f.messages for f in metadata.files),
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": t.name,
                    "type": t.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": [dict(q) for q in t.qos],
                    "type_description_hash": t.type_hash,
                },
                "message_count": t.messages,
            }
            for t in metadata.topics
        ],
        "compression_format": metadata.compression_format,
        "compression_mode": metadata.compression_mode,
        "relative_file_paths": [f.path for f in metadata.files],
        "files": [
            {
                "path": f.path,
                "starting_time": {"nanoseconds_since_epoch": f.start_ns},
                "duration": {"nanoseconds": f.duration_ns},
                "message_count": f.messages,
            }
            for f in metadata.files
        ],
        "custom_data": dict(metadata.custom_data),
        "ros_distro": "",
    }
    text: str = yaml.dump({"rosbag2_bagfile_information": information}, Dumper=_NoAlias, sort_keys=False, allow_unicode=True)
    return text


class _NoAlias(yaml.SafeDumper):
    """rosbag2's parser knows YAML aliases, people do not."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write(directory: Path, metadata: Metadata) -> None:
    """Writes metadata.yaml; it appears whole or not at all."""
    scratch = directory / (NAME + ".part")
    scratch.write_text(to_yaml(metadata), encoding="utf-8")
    scratch.replace(directory / NAME)


def mark(directory: Path, custom_data: dict[str, str]) -> None:
    """Replaces the custom data of a closed bag.

    Raises:
        UserError: the directory has no readable metadata.yaml.
        OSError: it cannot be written.
    """
    write(directory, replace(read(directory / NAME), custom_data=dict(custom_data)))


def read(path: Path) -> Metadata:
    """Reads a metadata.yaml of any rosbag2, Foxy (version 4) to Lyrical (9).

    Raises:
        UserError: not readable, or not what rosbag2 writes.
    """
    remedy = "remove the file to read the bag without it"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES} bytes: {remedy}")
        # The C loader is ten times faster; big bags' metadata have megabytes.
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        information = data["rosbag2_bagfile_information"]
        version = int(information["version"])
        names = [Path(str(p)).name for p in information["relative_file_paths"]]
        noted = {Path(str(f["path"])).name: f for f in information.get("files") or []}
        files = tuple(
            File(
                path=name,
                start_ns=int(noted[name]["starting_time"]["nanoseconds_since_epoch"]) if name in noted else 0,
                duration_ns=int(noted[name]["duration"]["nanoseconds"]) if name in noted else 0,
                messages=int(noted[name]["message_count"]) if name in noted else 0,
            )
            for name in names
        )
        topics = tuple(
            Topic(
                name=str(t["topic_metadata"]["name"]),
                type=str(t["topic_metadata"]["type"]),
                messages=int(t["message_count"]),
                qos=_profiles(t["topic_metadata"].get("offered_qos_profiles")),
                type_hash=str(t["topic_metadata"].get("type_description_hash") or ""),
            )
            for t in information.get("topics_with_message_count") or []
        )
        custom = information.get("custom_data") or {}
        return Metadata(
            files=files,
            topics=topics,
            custom_data={str(k): str(v) for k, v in custom.items()},
            storage=str(information.get("storage_identifier") or "mcap"),
            compression_format=str(information.get("compression_format") or "").lower(),
            compression_mode=str(information.get("compression_mode") or "").lower().replace("none", ""),
            version=version,
        )
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: not readable: {' '.join(str(error).split())}: {remedy}") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: not what rosbag2 writes ({type(error).__name__}: {error}): {remedy}") from None


def _profiles(value: Any) -> tuple[dict[str, Any], ...]:
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)
        except (yaml.YAMLError, RecursionError):
            value = None
    return tuple(dict(q) for q in value if isinstance(q, dict)) if isinstance(value, list) else ()
