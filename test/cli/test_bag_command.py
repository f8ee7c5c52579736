"""wm-ros bag, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cartpole_bags import contract, write_cartpole
from fault.fuzz_bags import loose_mcap, sqlite

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


def test_what_is_no_bag_is_one_line_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bag", "info", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "no bag in it or below it" in error
