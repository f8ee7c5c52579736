"""Images come out of bags as the live assembler has them, and only when they are asked for."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera_bags import COMPRESSED, RAW, compressed_image, every, raw_image, scene, with_camera, write_with_camera
from cartpole_bags import PERIOD, START, cdr, contract, write_cartpole
from numpy.typing import NDArray

from wm_ros.contract.assembler import Assembler, BadMessage, Observation
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.data import images
from wm_ros.data.align import read_episodes
from wm_ros.data.bag_reader import Bag
from wm_ros.data.bag_writer import BagOptions
from wm_ros.data.episode import Episode, load, save
from wm_ros.data.recording import read_recording
from wm_ros.data.ros_types import deserialize, standard_store

TICKS = 40


def picture(number: int, stamp: int) -> Any:
    return raw_image(scene(number), "bgr8", stamp, padding=number % 3)


def jpeg(number: int, stamp: int) -> Any:
    return compressed_image(scene(number, 120, 160), "jpeg", stamp)


def live(path: Path, of: Contract) -> dict[int, Observation]:
    """The first observation of every stamp that the live assembler makes of the recorded messages: the one that is acted on."""
    assembler, seen = Assembler(of), {}
    channels = {f"/{c.topic}": c.name for c in of.observation}
    for recorded in Bag(path).messages(set(channels)):
        message = deserialize(standard_store(), recorded.data, recorded.type)
        try:
            assembler.update(channels[recorded.topic], message, recorded.log_time)
        except BadMessage:
            continue
        observation = assembler.observe()
        if observation is not None:
            seen.setdefault(observation.stamp_ns, observation)
    return seen


def assert_equals_live(path: Path, of: Contract) -> Episode:
    (episode,) = read_episodes(path, of)
    seen = live(path, of)
    observations = [seen[stamp] for stamp in episode.stamp.tolist()]
    assert np.stack([o.vector for o in observations]).tobytes() == episode.observation.tobytes()
    assert np.stack([o.images["camera"] for o in observations]).tobytes() == np.asarray(episode.images["camera"]).tobytes()
    return episode


@pytest.mark.parametrize(("kind", "make"), [(RAW, picture), (COMPRESSED, jpeg)])
def test_bag_and_live_images_are_equal_bit_for_bit(tmp_path: Path, kind: str, make: Any) -> None:
    of = with_camera(kind)
    episode = assert_equals_live(write_with_camera(tmp_path / "bag", TICKS, of, every(TICKS, make)), of)
    frames = episode.images["camera"]
    assert len(episode) == TICKS and frames.shape == (TICKS + 1, 6, 8, 3) and episode.observation.shape == (TICKS + 1, 5)
    shown = [len(np.unique(np.asarray(frames)[k : k + 2], axis=0)) for k in range(0, TICKS, 2)]
    assert shown == [1] * (TICKS // 2)  # a camera at half the rate is held


def test_a_damaged_picture_is_replaced_by_the_one_before_as_it_is_live(tmp_path: Path) -> None:
    of = with_camera(COMPRESSED)
    pictures = every(TICKS, lambda k, stamp: compressed_image(scene(k, 48, 64), "png", stamp))
    for number in (4, 9, 10):
        received, message = pictures[number]
        data = np.array(message.data)
        data[len(data) // 2 :][:40] ^= 0xFF
        message.data = data
        pictures[number] = (received, message)
    episode = assert_equals_live(write_with_camera(tmp_path / "bag", TICKS, of, pictures), of)
    frames = episode.images["camera"]
    assert frames[8].tobytes() == frames[7].tobytes() and frames[20].tobytes() == frames[17].tobytes()


def test_a_picture_without_a_whole_one_before_it_is_named_with_the_remedy(tmp_path: Path) -> None:
    of = with_camera(COMPRESSED)
    pictures = every(TICKS, lambda k, stamp: compressed_image(scene(k, 48, 64), "png", stamp))
    message = pictures[0][1]
    message.data = np.concatenate([message.data[:200], ~message.data[200:240], message.data[240:]])
    (episode,) = read_episodes(write_with_camera(tmp_path / "bag", TICKS, of, pictures), of)
    with pytest.raises(UserError, match=r"bag_0.mcap: camera/image_raw: data are no whole picture.*leave the bag out"):
        episode.images["camera"][0]
    assert episode.images["camera"][5].shape == (6, 8, 3)


def test_frames_are_a_sequence_of_which_only_what_is_asked_for_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = images.ImageStore.decode
    monkeypatch.setattr(images.ImageStore, "decode", lambda self, raw: (decoded.append(len(raw)), decode(self, raw))[1])
    of = with_camera()
    (episode,) = read_episodes(write_with_camera(tmp_path / "bag", TICKS, of, every(TICKS, picture)), of)
    frames = episode.images["camera"]
    assert not decoded and len(frames) == TICKS + 1
    one = frames[7]
    assert len(decoded) == 1 and one.shape == (6, 8, 3) and one.dtype == np.uint8
    some = frames[4:12]
    assert len(decoded) == 1 + 4 and some.shape == (8, 6, 8, 3)  # each is held for two ticks and decoded once
    assert some[3].tobytes() == one.tobytes()
    assert frames[[7, -1, 7]].tobytes() == np.stack([one, frames[TICKS], one]).tobytes()
    assert np.stack(list(frames)).tobytes() == np.asarray(frames).tobytes()
    assert frames[3:3].shape == (0, 6, 8, 3)
    with pytest.raises(IndexError):
        frames[TICKS + 1]


def test_frames_may_be_pickled_and_used_by_many_threads(tmp_path: Path) -> None:
    of = with_camera()
    (episode,) = read_episodes(write_with_camera(tmp_path / "bag", TICKS, of, every(TICKS, picture)), of)
    frames = episode.images["camera"]
    whole = np.asarray(frames)
    again = pickle.loads(pickle.dumps(frames))
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda k: again[k : k + 5], range(0, TICKS, 5)))
    assert np.concatenate(parts).tobytes() == whole[:TICKS].tobytes()


def test_images_are_found_again_in_a_bag_of_many_files_and_chunks(tmp_path: Path) -> None:
    of, made = with_camera(), every(TICKS, picture)
    (expected,) = read_episodes(write_with_camera(tmp_path / "one", TICKS, of, made), of)
    options = BagOptions(chunk_bytes=4096, compression="none", split_bytes=20_000)
    path = write_with_camera(tmp_path / "bag", TICKS, of, made, options=options)
    assert len(list(path.glob("*.mcap"))) > 2
    (episode,) = read_episodes(path, of)
    assert np.asarray(episode.images["camera"]).tobytes() == np.asarray(expected.images["camera"]).tobytes()


def test_a_bag_that_has_gone_is_named(tmp_path: Path) -> None:
    of = with_camera()
    path = write_with_camera(tmp_path / "bag", TICKS, of, every(TICKS, picture))
    (episode,) = read_episodes(path, of)
    (path / "bag_0.mcap").unlink()
    with pytest.raises(UserError, match=r"bag_0.mcap: cannot be read again"):
        episode.images["camera"][0]


def test_a_camera_that_pauses_splits_the_episode(tmp_path: Path) -> None:
    of = with_camera()  # max_age_s 0.15
    made = [entry for k, entry in enumerate(every(TICKS, picture, step=1)) if not 10 <= k < 20]
    first, second = read_episodes(write_with_camera(tmp_path / "bag", TICKS, of, made), of)
    assert (len(first), second.stamp[0]) == (16, START + 20 * PERIOD)
    assert second.images["camera"].shape == (21, 6, 8, 3) and second.provenance.part == 1


def test_nearest_looks_both_ways_and_hold_only_back(tmp_path: Path) -> None:
    numbers = [np.full((6, 8, 3), k, np.uint8) for k in range(20)]
    made = every(TICKS, lambda k, stamp: raw_image(numbers[k], "rgb8", stamp + 14_000_000), step=4)  # 0.7 of a period late
    shown = {}
    for align in ("hold", "nearest"):
        of = with_camera(align=align)
        (episode,) = read_episodes(write_with_camera(tmp_path / align, TICKS, of, made), of)
        whole: NDArray[np.uint8] = np.asarray(episode.images["camera"])
        shown[align] = dict(zip(((episode.stamp - START) // PERIOD).tolist(), whole[:, 0, 0, 0].tolist(), strict=True))
    assert [shown["hold"][k] for k in range(4, 10)] == [0, 1, 1, 1, 1, 2]
    assert [shown["nearest"][k] for k in range(4, 10)] == [1, 1, 1, 2, 2, 2]


def test_refused_pictures_are_counted_by_reason_and_the_others_are_used(tmp_path: Path) -> None:
    of = with_camera()
    made = every(TICKS, picture)
    made[3] = (made[3][0], raw_image(scene(3), "yuv422", START + 6 * PERIOD))
    made[5] = (made[5][0], cdr(RAW, picture(5, START + 10 * PERIOD))[:-50])
    path = write_with_camera(tmp_path / "bag", TICKS, of, made)
    columns = read_recording(Bag(path), of).channels["camera"]
    assert columns.refused == {"encoding": 1, "undecodable": 1} and "yuv422" in columns.example
    assert columns.images is not None and columns.images.seen == {"32x24 bgr8": 19}
    (episode,) = read_episodes(path, of)
    frames = episode.images["camera"]
    assert frames[6].tobytes() == frames[5].tobytes() and frames[10].tobytes() == frames[9].tobytes()


def test_episodes_with_images_are_saved_and_loaded_as_arrays(tmp_path: Path) -> None:
    of = with_camera(image={"encoding": "mono8"})
    (episode,) = read_episodes(write_with_camera(tmp_path / "bag", TICKS, of, every(TICKS, picture)), of)
    save(episode, tmp_path / "episode.npz")
    loaded = load(tmp_path / "episode.npz")
    assert isinstance(loaded.images["camera"], np.ndarray) and loaded.images["camera"].shape == (TICKS + 1, 6, 8, 1)
    assert loaded.images["camera"].tobytes() == np.asarray(episode.images["camera"]).tobytes()
    (plain,) = read_episodes(write_cartpole(tmp_path / "plain", 5), contract())
    save(plain, tmp_path / "plain.npz")
    assert load(tmp_path / "plain.npz").images == {}


def test_an_episode_refuses_images_of_another_length(tmp_path: Path) -> None:
    (plain,) = read_episodes(write_cartpole(tmp_path / "plain", 5), contract())
    columns = {name: getattr(plain, name) for name in ("observation", "action", "reward", "terminated", "truncated", "stamp")}
    with pytest.raises(ValueError, match=r"images camera are \[5, 6, 8, 3\], expected \[6, H, W, C\]"):
        Episode(**columns, images={"camera": np.zeros((5, 6, 8, 3), np.uint8)})
