"""wm-ros bag, as a user calls it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera_bags import every, raw_image, scene, with_camera, write_with_camera
from cartpole_bags import contract, write_cartpole
from fault.fuzz_bags import loose_mcap, sqlite
from PIL import Image

from wm_ros.cli.main import run
from wm_ros.data.align import read_episodes
from wm_ros.data.episode import load


def test_info_names_topics_counts_and_what_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cartpole(tmp_path / "bags" / "a", 50)
    killed = write_cartpole(tmp_path / "bags" / "below" / "b", 50, close=False) / "b_0.mcap"
    killed.write_bytes(killed.read_bytes() + b"torn")
    assert run(["bag", "info", str(tmp_path / "bags"), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert {t["name"]: t["messages"] for t in first["topics"]} == {"/joint_states": 51, "/command": 50, "/episode": 2}
    assert first["closed"] and not first["lost"] and first["contract_hash"] == contract().hash
    assert not second["closed"] and second["lost"][0]["bytes"] == 4
    assert run(["bag", "info", str(tmp_path / "bags" / "a")]) == 0
    assert "/joint_states" in capsys.readouterr().out


def test_check_says_by_its_status_whether_a_bag_can_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = str(write_cartpole(tmp_path / "good", 50))
    bad = str(write_cartpole(tmp_path / "bad", 50, skip_command=frozenset(range(50))))
    assert run(["bag", "check", good, "--contract", "cartpole_swingup"]) == 0
    assert "can train cartpole_swingup: 50 steps" in capsys.readouterr().out
    assert run(["bag", "check", good, bad, "--contract", "cartpole_swingup", "--json"]) == 2
    reports = json.loads(capsys.readouterr().out)
    assert [r["trainable"] for r in reports] == [True, False]
    assert any("/command: no messages" in p["text"] for p in reports[1]["problems"])


def test_check_and_info_say_where_damage_could_not_be_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guarded = write_cartpole(tmp_path / "guarded", 50)
    loose_mcap(guarded, loose := tmp_path / "loose.mcap")
    sqlite(guarded, database := tmp_path / "copy.db3")
    for command in (["check", "--contract", "cartpole_swingup"], ["info"]):
        assert run(["bag", *command, str(guarded), str(loose), str(database), "--json"]) == 0
        assert [r["unguarded"] for r in json.loads(capsys.readouterr().out)] == [0, 103, 103]
        assert run(["bag", *command, str(guarded)]) == 0 and "checksum" not in capsys.readouterr().out
        for path in (loose, database):
            assert run(["bag", *command, str(path)]) == 0 and "103 messages have no checksum" in capsys.readouterr().out


def test_convert_writes_an_episode_file_each_and_overwrites_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bags = [write_cartpole(tmp_path / "bags" / name, 30, close=name == "a") for name in ("a", "b")]
    command = ["bag", "convert", str(tmp_path / "bags"), "--contract", "cartpole_swingup", "--out", str(tmp_path / "out")]
    assert run(command) == 0
    episodes = [load(p) for p in sorted((tmp_path / "out").iterdir())]
    assert [e.provenance.bag for e in episodes] == [str(b) for b in bags]
    assert episodes[0].observation.tobytes() == read_episodes(bags[0], contract())[0].observation.tobytes()
    assert "bytes are lost" in capsys.readouterr().err
    assert run(command) == 2 and "not overwritten" in capsys.readouterr().err


def test_parquet_holds_every_column(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    bag = write_cartpole(tmp_path / "bag", 30)
    out = str(tmp_path / "out")
    assert run(["bag", "convert", str(bag), "--contract", "cartpole_swingup", "--out", out, "--format", "parquet"]) == 0
    table = parquet.read_table(tmp_path / "out" / "episode_000000.parquet").to_pydict()
    (episode,) = read_episodes(bag, contract())
    assert np.array(table["observation.hinge_1.velocity"], np.float32).tobytes() == episode.observation[:, 4].tobytes()
    assert np.array(table["action.slider"], np.float32)[:-1].tobytes() == episode.action[:, 0].tobytes()
    assert table["valid"] == [True] * 30 + [False] and table["stamp_ns"] == episode.stamp.tolist()


def lerobot_folder(tmp_path: Path) -> Path:
    bags = [str(write_cartpole(tmp_path / name, ticks)) for name, ticks in (("a", 30), ("b", 50))]
    out = tmp_path / "dataset"
    assert run(["bag", "convert", *bags, "--contract", "cartpole_swingup", "--out", str(out), "--format", "lerobot"]) == 0
    return out


def test_a_lerobot_folder_has_the_layout_and_the_numbers(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = lerobot_folder(tmp_path)
    info = json.loads((out / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_episodes"], info["total_frames"]) == ("v3.0", 50, 2, 80)
    frames = parquet.read_table(out / "data/chunk-000/file-000.parquet").to_pydict()
    (episode,) = read_episodes(tmp_path / "b", contract())
    assert np.array(frames["observation.state"], np.float32)[30:].tobytes() == episode.observation[:-1].tobytes()
    assert np.array(frames["action"], np.float32)[30:].tobytes() == episode.action.tobytes()
    assert frames["episode_index"] == [0] * 30 + [1] * 50 and frames["index"] == list(range(80))
    stats = json.loads((out / "meta/stats.json").read_text())["observation.state"]
    values = np.array(frames["observation.state"])
    assert stats["mean"] == pytest.approx(values.mean(axis=0).tolist()) and stats["std"] == pytest.approx(values.std(axis=0).tolist())
    episodes = parquet.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pydict()
    assert episodes["dataset_to_index"] == [30, 80] and episodes["tasks"] == [["cartpole_swingup"]] * 2


def test_lerobots_own_reader_opens_the_folder(tmp_path: Path) -> None:
    reader = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    dataset = reader.LeRobotDataset("local/cartpole", root=lerobot_folder(tmp_path))
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (2, 80, 50)
    frame = dataset[35]
    (episode,) = read_episodes(tmp_path / "b", contract())
    assert frame["observation.state"].numpy().tolist() == episode.observation[5].tolist()
    assert frame["action"].numpy().ravel().tolist() == episode.action[5].tolist()
    assert frame["task"] == "cartpole_swingup" and float(frame["timestamp"]) == pytest.approx(0.1)


def test_view_draws_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = str(write_cartpole(tmp_path / "bag", 30))
    assert run(["bag", "view", bag, "--contract", "cartpole_swingup", "--out", str(tmp_path / "bag.png")]) == 0
    assert (tmp_path / "bag.png").read_bytes().startswith(b"\x89PNG")
    assert run(["bag", "view", bag, "--contract", "cartpole_swingup", "--out", str(tmp_path / "bag.nothing")]) == 2
    assert "ends in .png" in capsys.readouterr().err


@pytest.fixture
def filmed(tmp_path: Path) -> tuple[str, str]:
    """A bag with a camera of 25 Hz and its contract's file."""
    contract_file = tmp_path / "filmed.yaml"
    contract_file.write_text(with_camera().canonical_json())
    pictures = every(30, lambda k, stamp: raw_image(scene(k), "bgr8", stamp))
    return str(write_with_camera(tmp_path / "bag", 30, with_camera(), pictures)), str(contract_file)


def test_info_says_what_a_camera_sends(filmed: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bag", "info", filmed[0], "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    (topic,) = [t for t in record["topics"] if t["name"] == "/camera/image_raw"]
    assert (topic["picture"], topic["messages"], topic["rate_hz"]) == ("32x24 bgr8", 16, pytest.approx(25.0))
    assert run(["bag", "info", filmed[0]]) == 0
    assert "sensor_msgs/msg/Image, 32x24 bgr8" in capsys.readouterr().out


def test_check_has_a_table_of_cameras(filmed: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bag", "check", filmed[0], "--contract", filmed[1]]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line.split() for line in lines if "8x6 rgb8" in line]
    assert row == ["camera", "32x24", "bgr8", "(16)", "8x6", "rgb8", "0"]


def test_contract_show_names_the_image(filmed: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["contract", "show", filmed[1]]) == 0
    assert "image 8 x 6, rgb8, beside the vector" in capsys.readouterr().out


def test_view_shows_a_strip_of_frames(filmed: tuple[str, str], tmp_path: Path) -> None:
    assert run(["bag", "view", filmed[0], "--contract", filmed[1], "--out", str(tmp_path / "bag.png")]) == 0
    drawn = np.asarray(Image.open(tmp_path / "bag.png").convert("RGB")).astype(int)
    (episode,) = read_episodes(filmed[0], with_camera(), force=True)
    strip = drawn[: len(drawn) // 6].reshape(-1, 3)
    # A colour of the first and one of the last frame stand in the strip.
    for frame in (episode.images["camera"][0], episode.images["camera"][27]):
        assert np.abs(strip - frame[3, 3]).max(axis=1).min() <= 2


def test_convert_writes_images_as_arrays(filmed: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(["bag", "convert", filmed[0], "--contract", filmed[1], "--out", str(out)]) == 0
    (expected,) = read_episodes(filmed[0], with_camera())
    episode = load(out / "episode_000000.npz")
    assert np.asarray(episode.images["camera"]).tobytes() == np.asarray(expected.images["camera"]).tobytes()


def test_parquet_has_a_column_of_png_files(filmed: tuple[str, str], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out"
    assert run(["bag", "convert", filmed[0], "--contract", filmed[1], "--out", str(out), "--format", "parquet"]) == 0
    table = parquet.read_table(out / "episode_000000.parquet").to_pydict()
    (episode,) = read_episodes(filmed[0], with_camera())
    shown = np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in table["images.camera"]])
    assert shown.tobytes() == np.asarray(episode.images["camera"]).tobytes()
    assert table["valid"] == [True] * 30 + [False]


def lerobot_film(filmed: tuple[str, str], tmp_path: Path, encoding: str) -> tuple[Path, np.ndarray[Any, Any]]:
    of = with_camera(image={"encoding": encoding})
    contract_file = tmp_path / f"{encoding}.yaml"
    contract_file.write_text(of.canonical_json())
    out = tmp_path / "dataset"
    command = ["bag", "convert", filmed[0], "--contract", str(contract_file), "--out", str(out), "--format", "lerobot", "--force"]
    assert run(command) == 0
    (episode,) = read_episodes(filmed[0], of, force=True)
    frames = np.asarray(episode.images["camera"])[:-1]
    return out, np.broadcast_to(frames, (*frames.shape[:3], 3))


@pytest.mark.parametrize("encoding", ["rgb8", "mono8"])
def test_a_lerobot_folder_has_cameras_as_images_with_their_statistics(filmed: tuple[str, str], tmp_path: Path, encoding: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out, frames = lerobot_film(filmed, tmp_path, encoding)
    info = json.loads((out / "meta/info.json").read_text())
    wanted = {"dtype": "image", "shape": [6, 8, 3], "names": ["height", "width", "channels"]}
    assert info["features"]["observation.images.camera"] == wanted
    table = parquet.read_table(out / "data/chunk-000/file-000.parquet").to_pydict()
    shown = np.stack([np.asarray(Image.open(io.BytesIO(entry["bytes"]))) for entry in table["observation.images.camera"]])
    assert shown.tobytes() == frames.tobytes()
    stats = json.loads((out / "meta/stats.json").read_text())["observation.images.camera"]
    scaled = frames / 255.0
    for what in ("min", "max", "mean", "std"):
        assert np.shape(stats[what]) == (3, 1, 1)
        assert np.ravel(stats[what]) == pytest.approx(getattr(scaled, what)(axis=(0, 1, 2)))
    assert stats["count"] == [30]


@pytest.mark.parametrize("encoding", ["rgb8", "mono8"])
def test_lerobots_own_reader_opens_the_images(filmed: tuple[str, str], tmp_path: Path, encoding: str) -> None:
    reader = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    out, frames = lerobot_film(filmed, tmp_path, encoding)
    dataset = reader.LeRobotDataset("local/cartpole", root=out)
    assert dataset.meta.camera_keys == ["observation.images.camera"]
    shown = dataset[7]["observation.images.camera"].numpy()
    assert shown.shape == (3, 6, 8) and np.abs(shown.transpose(1, 2, 0) * 255 - frames[7]).max() < 1e-3


def test_what_is_no_bag_is_one_line_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bag", "info", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "no bag in it or below it" in error
