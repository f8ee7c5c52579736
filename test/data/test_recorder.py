"""The recorder's core, without ROS: what goes into which bag, and what is counted."""

from __future__ import annotations

import errno
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera_bags import RAW, raw_image
from cartpole_bags import JOINT_STATE, PERIOD, START, STRING, cdr, contract, joint_state, message, state
from mcap.reader import make_reader

from wm_ros.data.bag_reader import Bag
from wm_ros.data.bag_thread import BagThread, Received
from wm_ros.data.bag_writer import BagOptions, BagWriter
from wm_ros.data.qos import Qos
from wm_ros.data.recorder import ClosedBag, RecordedTopic, Recorder, RecorderOptions

PATIENCE_S = 30.0
TOPICS = [RecordedTopic("/joint_states", JOINT_STATE, awaited=True), RecordedTopic("/note", STRING)]


class Desk:
    """A recorder and what it says."""

    def __init__(self, folder: Path, options: RecorderOptions | None = None) -> None:
        self.closed: list[ClosedBag] = []
        self.recorder = Recorder(contract(), TOPICS, options or RecorderOptions(folder), self.closed.append)
        self.time = 0

    def sensor(self, k: int) -> None:
        self.time += 1_000_000
        self.recorder.receive(0, joint_state(START + k * PERIOD, ["slider"], [k], [0]), self.time, self.time * 1e-9)

    def note(self, text: str) -> None:
        self.time += 1_000_000
        self.recorder.receive(1, cdr(STRING, message(STRING, text)), self.time, self.time * 1e-9)

    def end(self) -> list[ClosedBag]:
        self.recorder.close()
        return self.closed


def test_a_bag_begins_with_what_came_before_the_announcement_and_no_earlier(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for k in range(-50, 3):
        if k == 0:
            desk.note("after the first sample's predecessor")
        desk.sensor(k)
    desk.note("begun")
    desk.recorder.announce(state("running", 0), 0.0)
    desk.sensor(3)
    (closed,) = desk.end()
    bag = Bag(closed.summary.path)
    # From 0.1 s before the start: that old a sample may be, by the contract, and still be held at the first tick.
    assert bag.counts == {"/joint_states": 5 + 4, "/note": 1}
    assert closed.state is not None and closed.state.start_stamp_ns == START


def test_the_ring_is_bounded_in_time_and_bytes(tmp_path: Path) -> None:
    small = RecorderOptions(tmp_path, preroll_s=10.0, preroll_bytes=1000)
    desk = Desk(tmp_path, small)
    for k in range(1000):
        desk.sensor(k)
    desk.recorder.announce(state("running", 0), 0.0)
    (closed,) = desk.end()
    assert 0 < closed.summary.messages <= 1000 // len(joint_state(0, ["slider"], [0], [0])) + 1


def test_an_ended_episode_waits_for_its_last_sample_but_not_for_ever(tmp_path: Path) -> None:
    desk = Desk(tmp_path, RecorderOptions(tmp_path, linger_s=0.5))
    desk.recorder.announce(state("running", 0), 0.0)
    desk.sensor(0)
    desk.recorder.announce(state("ended", 2), 1.0)
    desk.recorder.poll(1.1)
    assert desk.recorder.bag is not None
    desk.sensor(2)
    assert desk.recorder.bag is None
    later = START + 10 * 10**9
    desk.recorder.announce(state("running", 0, later), 2.0)
    desk.recorder.announce(state("ended", 100, later), 3.0)
    desk.recorder.poll(3.4)
    assert desk.recorder.bag is not None
    desk.recorder.poll(3.6)
    assert desk.recorder.bag is None
    assert sorted(c.summary.path.name for c in desk.end()) == ["episode_0004", "episode_0005"]


def test_what_a_slow_disk_cannot_take_is_dropped_and_counted(tmp_path: Path) -> None:
    released, ended = threading.Event(), threading.Event()

    def slow() -> BagWriter:
        assert released.wait(PATIENCE_S)
        writer = BagWriter(tmp_path / "bag", {})
        writer.add_topic("/joint_states", JOINT_STATE, Qos())
        return writer

    thread = BagThread(slow, max_queue_bytes=1000, poll_seconds=0.1, on_end=lambda _: ended.set())
    for k in range(50):
        thread.put(Received(0, bytes(100), k, None))
    assert thread.drops == 40
    released.set()
    thread.finish()
    assert ended.wait(PATIENCE_S)
    assert thread.summary is not None and thread.summary.messages == 10 and Bag(tmp_path / "bag").counts == {"/joint_states": 10}


def test_a_folder_that_vanished_is_an_error_and_the_next_recording_starts_anew(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "a")
    (tmp_path / "a").write_text("a file where the folder should be")
    desk.recorder.start()
    desk.sensor(0)
    assert desk.end() == [] and "cannot be made" in desk.recorder.error and desk.recorder.drops == 1
    (tmp_path / "a").unlink()
    desk.recorder.start()
    desk.sensor(1)
    (closed,) = desk.end()
    assert closed.summary.messages == 1 and not desk.recorder.error


@pytest.mark.parametrize("compression", ["zstd", "lz4", "none"])
def test_a_chunk_is_closed_in_time_without_another_message(tmp_path: Path, compression: str) -> None:
    options = RecorderOptions(tmp_path, bag=BagOptions(chunk_seconds=0.02, compression=compression))  # type: ignore[arg-type]
    desk = Desk(tmp_path, options)
    path = desk.recorder.start()
    desk.sensor(0)
    written = threading.Event()

    def watch() -> None:
        while not written.is_set():
            if list(path.glob("*.mcap")) and Bag(path).files[0].stat().st_size > 100 and sum(len(b) for b in Bag(path).blocks()) == 1:
                written.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    assert written.wait(PATIENCE_S)  # while the bag is open
    desk.end()
    assert desk.closed[0].summary.messages == 1


@pytest.mark.parametrize("compression", ["zstd", "lz4", "none"])
def test_many_messages_at_once_give_the_file_that_single_ones_give(tmp_path: Path, compression: str) -> None:
    options = BagOptions(chunk_bytes=2000, chunk_seconds=1e9, compression=compression)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    topics = rng.integers(1, 3, 500).tolist()
    data = [rng.bytes(int(n)) for n in rng.choice([0, 1, 60, 61, 5000], 500, p=[0.1, 0.1, 0.4, 0.38, 0.02])]
    times = rng.integers(0, 10**9, 500).tolist()  # in no order
    files = []
    for pieces in (1, 7, 500):
        writer = BagWriter(tmp_path / str(pieces) / "bag", {}, options)
        for name in ("/a", "/b"):
            writer.add_topic(name, JOINT_STATE, Qos())
        for here in np.array_split(np.arange(500), pieces):
            part = slice(int(here[0]), int(here[-1]) + 1)
            writer.write_all(topics[part], data[part], times[part], times[part])
        writer.close()
        files.append((tmp_path / str(pieces) / "bag" / "bag_0.mcap").read_bytes())
    single = BagWriter(tmp_path / "single" / "bag", {}, options)
    for name in ("/a", "/b"):
        single.add_topic(name, JOINT_STATE, Qos())
    for topic, raw, at in zip(topics, data, times, strict=True):
        single.write(topic, raw, at, at)
    summary = single.close()
    assert files == [(tmp_path / "single" / "bag" / "bag_0.mcap").read_bytes()] * 3
    with open(tmp_path / "single" / "bag" / "bag_0.mcap", "rb") as file:
        peers = [(m.channel_id, m.sequence, m.log_time, m.data) for _, _, m in make_reader(file).iter_messages(log_time_order=False)]
    counts: dict[int, int] = {}
    for topic, raw, at, found in zip(topics, data, times, peers, strict=True):
        assert found == (topic, counts.get(topic, 0), at, raw)
        counts[topic] = counts.get(topic, 0) + 1
    assert summary.messages == 500 and summary.bytes == len(files[0])


def test_what_a_full_disk_did_not_take_is_counted_as_dropped(tmp_path: Path) -> None:
    ended = threading.Event()

    class Full(BagWriter):
        def write_all(self, *columns: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    def make() -> BagWriter:
        writer = Full(tmp_path / "bag", {})
        writer.add_topic("/joint_states", JOINT_STATE, Qos())
        return writer

    thread = BagThread(make, max_queue_bytes=1 << 20, poll_seconds=0.001, on_end=lambda _: ended.set())
    thread.put(Received(0, bytes(100), 1, None))
    assert ended.wait(PATIENCE_S) and "No space left" in thread.error
    thread.put(Received(0, bytes(100), 2, None))
    assert thread.drops == 2 and thread.summary is None


def test_a_queue_that_grows_wakes_the_thread_before_it_would_look(tmp_path: Path) -> None:
    written = threading.Event()

    class Watched(BagWriter):
        def write_all(self, *columns: Any) -> None:
            super().write_all(*columns)
            written.set()

    def make() -> BagWriter:
        writer = Watched(tmp_path / "bag", {})
        writer.add_topic("/joint_states", JOINT_STATE, Qos())
        return writer

    thread = BagThread(make, max_queue_bytes=1 << 30, poll_seconds=1e6, on_end=lambda _: None)
    for k in range(10):
        thread.put(Received(0, bytes(100_000), k, None))
    assert written.wait(PATIENCE_S)
    thread.finish()
    thread.join()
    assert thread.summary is not None and thread.summary.messages == 10 and thread.drops == 0


def test_pictures_of_a_megabyte_are_recorded_as_they_came_and_never_take_more_memory_than_the_queue_may(tmp_path: Path) -> None:
    open_bag = threading.Event()
    picture = cdr(RAW, raw_image(np.zeros((600, 600, 3), np.uint8)))  # 1.08 MB
    held: list[int] = []

    def make() -> BagWriter:
        assert open_bag.wait(PATIENCE_S)
        writer = BagWriter(tmp_path / "bag", {})
        writer.add_topic("/camera/image_raw", RAW, Qos("best_effort", depth=5))
        return writer

    thread = BagThread(make, max_queue_bytes=10 << 20, poll_seconds=0.1, on_end=lambda thread: None)
    tracemalloc.start()
    for k in range(200):
        thread.put(Received(0, bytes(bytearray(picture)), k, None))
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert max(held) < 11 << 20
    open_bag.set()
    thread.finish()
    thread.join()
    recorded = list(Bag(tmp_path / "bag").messages())
    assert len(recorded) == 9 and thread.drops == 191
    assert all(message.data == picture for message in recorded)


def test_what_is_being_written_to_a_slow_disk_takes_little_memory_beside_the_queue(tmp_path: Path) -> None:
    writing, goes_on = threading.Event(), threading.Event()

    class SlowDisk(BagWriter):
        def write_all(self, *columns: Any) -> None:
            writing.set()
            assert goes_on.wait(PATIENCE_S)
            super().write_all(*columns)

    def make() -> BagWriter:
        writer = SlowDisk(tmp_path / "bag", {})
        writer.add_topic("/camera/image_raw", RAW, Qos("best_effort", depth=5))
        return writer

    picture = cdr(RAW, raw_image(np.zeros((600, 600, 3), np.uint8)))
    thread = BagThread(make, max_queue_bytes=40 << 20, poll_seconds=0.01, on_end=lambda thread: None)
    tracemalloc.start()
    for _ in range(2):  # fills the queue, and once more when a part of it is being written
        for k in range(60):
            thread.put(Received(0, bytes(bytearray(picture)), k, None))
        assert writing.wait(PATIENCE_S)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    goes_on.set()
    thread.finish()
    thread.join()
    assert held < 50 << 20 and thread.drops + thread.messages == 120


def test_the_ring_of_what_came_last_is_bounded_for_pictures_too(tmp_path: Path) -> None:
    topics = [RecordedTopic("/camera/image_raw", RAW)]
    recorder = Recorder(contract(), topics, RecorderOptions(tmp_path, preroll_bytes=5 << 20, preroll_s=1e6), lambda closed: None)
    picture = cdr(RAW, raw_image(np.zeros((600, 600, 3), np.uint8), stamp=START))
    tracemalloc.start()
    for k in range(50):
        recorder.receive(0, bytes(bytearray(picture)), k, 0.0)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 3 << 20 < kept < 6 << 20
