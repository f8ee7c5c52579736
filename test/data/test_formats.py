"""Every kind of bag that rosbag2 writes gives the same episodes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from camera_bags import every, raw_image, scene, with_camera, write_with_camera
from cartpole_bags import contract, write_cartpole
from mcap.writer import CompressionType, IndexType, Writer
from rosbags.interfaces import Qos
from rosbags.rosbag2 import Reader, StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode

from wm_ros.contract.errors import UserError
from wm_ros.data.align import read_episodes
from wm_ros.data.bag_reader import Bag
from wm_ros.data.bag_writer import BagOptions
from wm_ros.data.block import Limits
from wm_ros.data.mcap_scan import McapScan
from wm_ros.data.ros_types import standard_store
from wm_ros.data.sqlite_scan import SqliteScan

TICKS = 60


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cartpole(tmp_path_factory.mktemp("original") / "bag", TICKS)


def rosbags_copy(
    source: Path, target: Path, storage: StoragePlugin, mode: CompressionMode = CompressionMode.NONE, version: int = 9
) -> Path:
    """The bag, written again by rosbags."""
    writer = Rosbag2Writer(target, version=version, storage_plugin=storage)
    if mode != CompressionMode.NONE:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with Reader(source) as reader, writer:
        topics: dict[int, object] = {}
        for connection in reader.connections:
            qos: list[Qos] = []
            topics[connection.id] = writer.add_connection(
                connection.topic, connection.msgtype, typestore=standard_store(), offered_qos_profiles=qos
            )
        for connection, stamp, data in reader.messages():
            writer.write(topics[connection.id], stamp, data)  # type: ignore[arg-type]
    return target


def mcap_copy(source: Path, target: Path, *, chunks: bool, compression: CompressionType, index: IndexType) -> Path:
    """The bag as a single file, written by the mcap package."""
    with open(target, "wb") as file, Reader(source) as reader:
        writer = Writer(file, chunk_size=4000, use_chunking=chunks, compression=compression, index_types=index)
        writer.start(profile="ros2")
        channels = {}
        for connection in reader.connections:
            schema = writer.register_schema(connection.msgtype, "ros2msg", connection.msgdef.data.encode())
            channels[connection.id] = writer.register_channel(connection.topic, "cdr", schema)
        for connection, stamp, data in reader.messages():
            writer.add_message(channels[connection.id], stamp, bytes(data), stamp)
        writer.finish()
    return target


MAKERS: dict[str, Callable[[Path, Path], Path]] = {
    "sqlite3": lambda a, b: rosbags_copy(a, b / "bag", StoragePlugin.SQLITE3),
    "sqlite3 of humble": lambda a, b: rosbags_copy(a, b / "bag", StoragePlugin.SQLITE3, version=8),
    "sqlite3, compressed files": lambda a, b: rosbags_copy(a, b / "bag", StoragePlugin.SQLITE3, CompressionMode.FILE),
    "sqlite3, compressed messages": lambda a, b: rosbags_copy(a, b / "bag", StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
    "mcap": lambda a, b: rosbags_copy(a, b / "bag", StoragePlugin.MCAP),
    "mcap, compressed chunks": lambda a, b: rosbags_copy(a, b / "bag", StoragePlugin.MCAP, CompressionMode.STORAGE),
    "mcap, compressed messages": lambda a, b: rosbags_copy(a, b / "bag", StoragePlugin.MCAP, CompressionMode.MESSAGE),
    "mcap, compressed file": lambda a, b: rosbags_copy(a, b / "bag", StoragePlugin.MCAP, CompressionMode.FILE),
    "single mcap, lz4": lambda a, b: mcap_copy(a, b / "x.mcap", chunks=True, compression=CompressionType.LZ4, index=IndexType.ALL),
    "single mcap, no index": lambda a, b: mcap_copy(a, b / "x.mcap", chunks=True, compression=CompressionType.ZSTD, index=IndexType.NONE),
    "single mcap, no chunks": lambda a, b: mcap_copy(a, b / "x.mcap", chunks=False, compression=CompressionType.NONE, index=IndexType.NONE),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_storage_gives_the_same_episodes(kind: str, original: Path, tmp_path: Path) -> None:
    (expected,) = read_episodes(original, contract())
    copy = MAKERS[kind](original, tmp_path)
    (episode,) = read_episodes(copy, contract())
    assert episode.observation.tobytes() == expected.observation.tobytes()
    assert episode.action.tobytes() == expected.action.tobytes()
    bag = Bag(copy)
    assert sum(len(b) for b in bag.blocks()) == sum(bag.counts.values()) == 2 * TICKS + 3 and not bag.losses
    # rosbags writes its chunks without a checksum, as some recorders can be told to.
    assert bag.unguarded == (0 if kind in ("single mcap, lz4", "single mcap, no index") else 2 * TICKS + 3)
    own = Bag(original)
    assert sum(len(b) for b in own.blocks()) == 2 * TICKS + 3 and own.unguarded == 0


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = every(TICKS, lambda k, stamp: raw_image(scene(k), "rgb8", stamp))
    return write_with_camera(tmp_path_factory.mktemp("filmed") / "bag", TICKS, with_camera(), pictures)


@pytest.mark.parametrize("kind", MAKERS)
def test_images_are_found_again_in_every_storage(kind: str, filmed: Path, tmp_path: Path) -> None:
    (expected,) = read_episodes(filmed, with_camera())
    (episode,) = read_episodes(MAKERS[kind](filmed, tmp_path), with_camera())
    assert np.asarray(episode.images["camera"]).tobytes() == np.asarray(expected.images["camera"]).tobytes()


def test_a_split_bag_is_one_recording(original: Path, tmp_path: Path) -> None:
    path = write_cartpole(tmp_path / "bag", 600, options=BagOptions(chunk_bytes=2000, split_bytes=8000))
    assert len(list(path.glob("*.mcap"))) > 10
    (episode,) = read_episodes(path, contract())
    assert len(episode) == 600
    (path / "metadata.yaml").unlink()
    (again,) = read_episodes(path, contract())
    assert again.observation.tobytes() == episode.observation.tobytes()


def test_a_closed_file_tells_what_is_in_it_without_being_read_through(original: Path, tmp_path: Path) -> None:
    copy = rosbags_copy(original, tmp_path / "bag", StoragePlugin.SQLITE3)
    for scan in (McapScan(original / "bag_0.mcap"), SqliteScan(copy / "bag.db3")):
        survey = scan.survey()
        assert survey is not None
        counts = {survey.connections[key].topic: count for key, count in survey.counts.items()}
        assert counts == {"/joint_states": TICKS + 1, "/command": TICKS, "/episode": 2}
        assert all(c.schema for c in survey.connections.values())
    closed = McapScan(original / "bag_0.mcap").survey()
    assert closed is not None and closed.metadata["wm_ros"]["wm_ros.contract_hash"] == contract().hash
    cut = tmp_path / "cut.mcap"
    cut.write_bytes((original / "bag_0.mcap").read_bytes()[:-1])
    assert McapScan(cut).survey() is None


def test_our_bags_are_read_by_rosbags_and_by_mcap_with_every_checksum(original: Path) -> None:
    from mcap.reader import make_reader

    with Reader(original) as reader:
        assert reader.message_count == sum(1 for _ in reader.messages()) == 2 * TICKS + 3
        assert {c.topic: c.msgtype for c in reader.connections}["/joint_states"] == "sensor_msgs/msg/JointState"
        assert all(c.msgdef.data and c.ext.offered_qos_profiles for c in reader.connections)  # type: ignore[union-attr]
    with open(original / "bag_0.mcap", "rb") as file:
        strict = make_reader(file, validate_crcs=True)
        assert sum(1 for _ in strict.iter_messages()) == 2 * TICKS + 3
        assert {m.name for m in strict.iter_metadata()} == {"wm_ros", "rosbag2"}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("{", "not readable"),
        ("a: 1", "not what rosbag2 writes"),
        ("rosbag2_bagfile_information: {version: 9, relative_file_paths: [gone.mcap]}", "gone.mcap, which is not there"),
    ],
)
def test_a_bad_metadata_file_is_named_with_the_remedy(fault: str, words: str, original: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(original, tmp_path / "bag")
    (copy / "metadata.yaml").write_text(fault)
    with pytest.raises(UserError, match=words) as error:
        read_episodes(copy, contract())
    assert "remove" in str(error.value)
    (copy / "metadata.yaml").unlink()
    assert len(read_episodes(copy, contract())) == 1


def test_metadata_of_every_distribution_is_understood(original: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(original, tmp_path / "bag")
    noted = yaml.safe_load((copy / "metadata.yaml").read_text())
    information = noted["rosbag2_bagfile_information"]
    for version, absent in ((8, "nothing"), (7, "ros_distro"), (6, "type_description_hash"), (5, "custom_data"), (4, "files")):
        information["version"] = version
        information.pop(absent, None)
        for topic in information["topics_with_message_count"]:
            topic["topic_metadata"].pop(absent, None)
            # Before version 9 the profiles are YAML within the YAML.
            topic["topic_metadata"]["offered_qos_profiles"] = "- history: 1\n  depth: 5\n"
        (copy / "metadata.yaml").write_text(yaml.safe_dump(noted))
        (episode,) = read_episodes(copy, contract())
        assert len(episode) == TICKS and episode.provenance.controller_version == 3


def test_what_is_no_bag_is_refused_by_name(tmp_path: Path) -> None:
    for name, content in (("a.mcap", b"not an mcap file"), ("b.mcap", b""), ("c.db3", b"SQLite format 3\0 but no more"), ("d.txt", b"x")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match=name):
            list(Bag(path).blocks())


def test_a_decompression_bomb_is_refused_by_the_stated_limit(tmp_path: Path) -> None:
    path = write_cartpole(tmp_path / "bag", 400)
    with pytest.raises(UserError, match="more than the limit of 1000"):
        list(Bag(path, Limits(chunk_bytes=1000)).blocks())
    packed = rosbags_copy(path, tmp_path / "packed", StoragePlugin.SQLITE3, CompressionMode.FILE)
    with pytest.raises(UserError, match="more than the limit of 1000"):
        list(Bag(packed, Limits(file_bytes=1000)).blocks())
    single = rosbags_copy(path, tmp_path / "single", StoragePlugin.SQLITE3, CompressionMode.MESSAGE)
    with pytest.raises(UserError, match="more than the limit of 100"):
        list(Bag(single, Limits(chunk_bytes=100)).blocks())


def test_nothing_is_overwritten(original: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        write_cartpole(original, 1)
