"""A damaged bag gives the beginning of the recording and says what is lost, or one clear error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cartpole_bags import JOINT_STATE, PERIOD, START, contract, custom_data, force, joint_state, write_cartpole
from fault.fuzz_bags import Fuzz

from wm_ros.contract.errors import UserError
from wm_ros.data import bag_check, ros_types
from wm_ros.data.align import read_episodes
from wm_ros.data.bag_reader import Bag
from wm_ros.data.bag_writer import BagOptions, BagWriter
from wm_ros.data.qos import Qos


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_bag_cut_at_any_of_200_places_is_read_to_its_last_whole_chunk(compression: str, tmp_path: Path) -> None:
    path = write_cartpole(tmp_path / "bag", 100, options=BagOptions(chunk_bytes=2000, compression=compression))  # type: ignore[arg-type]
    storage = path / "bag_0.mcap"
    whole = storage.read_bytes()
    messages = list(Bag(path).messages())
    ends = np.cumsum([len(b) for b in Bag(path).blocks()])
    (path / "metadata.yaml").unlink()
    previous = 0
    for size in np.sort(np.random.default_rng(0).integers(8, len(whole), 200)):
        storage.write_bytes(whole[:size])
        bag = Bag(path)
        got = list(bag.messages())
        assert got == messages[: len(got)]
        assert len(got) in {0, *ends.tolist()} and len(got) >= previous
        if len(got) < len(messages):
            (loss,) = bag.losses
            assert 0 <= loss.bytes <= size
        previous = len(got)
    assert previous > len(messages) * 0.8


def test_300_bags_damaged_at_random_give_no_wrong_number(tmp_path: Path) -> None:
    fuzz = Fuzz(tmp_path)
    outcomes = {fuzz.one(seed) for seed in range(300)}
    assert outcomes == {"error", "beginning", "whole"}


def test_a_contract_that_was_changed_in_the_bag_is_noticed(tmp_path: Path) -> None:
    path = write_cartpole(tmp_path / "bag", 10)
    noted = path / "metadata.yaml"
    noted.write_text(noted.read_text().replace('"rate_hz":50.0', '"rate_hz":80.0'))
    with pytest.raises(UserError, match="do not belong together"):
        read_episodes(path, contract())


def test_a_definition_that_contains_itself_is_refused() -> None:
    # Found by fuzzing: a flipped bit made a header's stamp a header.
    looped = "std_msgs/Header header\n" + "=" * 80 + "\nMSG: std_msgs/Header\nstd_msgs/Header stamp\nstring frame_id\n"
    with pytest.raises(UserError, match="contains itself"):
        ros_types.bag_store({"sensor_msgs/msg/JointState": ("ros2msg", looped)})


def test_a_definition_that_unfolds_without_end_is_refused() -> None:
    parts = [f"a/L{i + 1} x\na/L{i + 1} y\n" for i in range(24)]
    text = parts[0] + "".join(f"{'=' * 80}\nMSG: a/L{i}\n{part}" for i, part in enumerate(parts) if i) + f"{'=' * 80}\nMSG: a/L24\nbool b\n"
    with pytest.raises(UserError, match="more than 10000 fields"):
        ros_types.bag_store({"a/msg/L0": ("ros2msg", text)})


def test_two_clocks_on_one_topic_are_named_at_once(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag", custom_data(contract()))
    sensor, command = (writer.add_topic(f"/{t}", JOINT_STATE, Qos()) for t in ("joint_states", "command"))
    for k in range(3000):
        stamp = START + k * PERIOD
        for at in (stamp, stamp + 10**10):
            writer.write(sensor, joint_state(at, ["slider", "hinge_1"], [0.0, 0.1], [0.0, 0.0]), stamp, at)
        writer.write(command, joint_state(stamp, ["slider"], effort=[force(k)]), stamp, stamp)
    writer.close()
    with pytest.raises(UserError, match="two publishers with different clocks"):
        read_episodes(tmp_path / "bag", contract())
    report = bag_check.check(Bag(tmp_path / "bag"), contract())
    assert not report.trainable and any("two publishers" in p.text for p in report.problems)
