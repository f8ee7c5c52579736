"""Bags become episodes as the contract says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cartpole_bags import JOINT_STATE, PERIOD, START, cdr, contract, custom_data, force, joint_state, message, raw_state, write_cartpole

from wm_ros.contract import rewards, schema
from wm_ros.contract.assembler import Assembler
from wm_ros.contract.columns import Columns
from wm_ros.contract.errors import UserError
from wm_ros.data.align import read_episodes
from wm_ros.data.bag_reader import Bag
from wm_ros.data.bag_writer import BagWriter
from wm_ros.data.qos import Qos
from wm_ros.data.recording import read_recording
from wm_ros.data.ros_types import deserialize, standard_store

ARRAY = "std_msgs/msg/Float64MultiArray"


def test_a_recorded_episode_has_every_tick_its_action_and_its_provenance(tmp_path: Path) -> None:
    (episode,) = read_episodes(write_cartpole(tmp_path / "bag", 50), contract())
    assert len(episode) == 50 and episode.truncated and not episode.terminated.any()
    assert episode.stamp.tolist() == [START + k * PERIOD for k in range(51)]
    assert episode.action[:, 0].tolist() == [np.float32(force(k)) for k in range(50)]
    position, velocity = raw_state(20)
    expected = [position[0], np.sin(position[1]), np.cos(position[1]), velocity[0], velocity[1]]
    assert episode.observation[20].tolist() == np.array(expected, np.float32).tolist()
    provenance = episode.provenance
    assert (provenance.episode, provenance.seed, provenance.purpose, provenance.controller_version) == (4, 7, "train", 3)
    assert provenance.contract_hash == contract().hash and provenance.bag == str(tmp_path / "bag")


def test_bag_and_live_observations_are_equal_bit_for_bit(tmp_path: Path) -> None:
    path = write_cartpole(tmp_path / "bag", 40)
    (episode,) = read_episodes(path, contract())
    assembler, live = Assembler(contract()), []
    for recorded in Bag(path).messages({"/joint_states"}):
        assembler.update("joints", deserialize(standard_store(), recorded.data, recorded.type), recorded.log_time)
        observation = assembler.observe()
        assert observation is not None
        live.append(observation.vector)
    assert np.stack(live).tobytes() == episode.observation.tobytes()


def test_reward_is_the_contracts_own(tmp_path: Path) -> None:
    (episode,) = read_episodes(write_cartpole(tmp_path / "bag", 10), contract())
    k = 3
    x, cosine, v = episode.observation[k + 1][[0, 2, 4]].astype(float)
    gauss = [np.exp(np.log(0.1) * (value / margin) ** 2) for value, margin in ((x, 2.0), (v, 5.0))]
    by_hand = 2 * (cosine + 1) / 2 * (1 + gauss[0]) / 2 * (4 + 1 - (force(k) / 10) ** 2) / 5 * (1 + gauss[1]) / 2
    assert episode.reward[k] == pytest.approx(by_hand, rel=1e-5)


def test_jitter_below_half_a_sensor_period_moves_no_sample_to_another_tick(tmp_path: Path) -> None:
    straight = read_episodes(write_cartpole(tmp_path / "a", 30), contract())[0]
    jittered = read_episodes(write_cartpole(tmp_path / "b", 30, jitter_ns=4_000_000), contract())[0]
    assert jittered.observation.tobytes() == straight.observation.tobytes()


def test_a_gap_longer_than_the_channels_limit_splits_the_episode(tmp_path: Path) -> None:
    gap = frozenset(range(20, 30))  # 0.2 s; the contract allows 0.1 s
    first, second = read_episodes(write_cartpole(tmp_path / "bag", 60, skip_sensor=gap), contract())
    assert first.truncated and first.stamp[-1] == START + 24 * PERIOD  # held for 0.1 s
    assert second.stamp[0] == START + 30 * PERIOD and second.provenance.part == 1
    assert len(second) == 30


def test_a_missing_command_is_held_as_long_as_the_actuator_would(tmp_path: Path) -> None:
    one = read_episodes(write_cartpole(tmp_path / "a", 20, skip_command=frozenset({10})), contract())
    assert len(one) == 1 and one[0].action[10] == one[0].action[9]
    four = read_episodes(write_cartpole(tmp_path / "b", 20, skip_command=frozenset(range(10, 14))), contract())
    assert [len(e) for e in four] == [12, 6]  # 40 ms: two ticks are held


def test_a_bag_without_announcements_is_one_episode(tmp_path: Path) -> None:
    (episode,) = read_episodes(write_cartpole(tmp_path / "bag", 25, announce=False), contract())
    assert len(episode) == 25 and episode.provenance.episode == -1


def test_topics_are_found_under_a_namespace_and_two_robots_need_one(tmp_path: Path) -> None:
    path = write_cartpole(tmp_path / "bag", 10, namespace="/left/arm")
    assert len(read_episodes(path, contract())[0]) == 10
    assert len(read_episodes(path, contract(), namespace="left/arm")[0]) == 10
    with pytest.raises(UserError, match="no topic joint_states"):
        read_episodes(path, contract(), namespace="right")


def test_another_contract_is_refused_field_by_field_unless_forced(tmp_path: Path) -> None:
    other = contract().model_dump(mode="json")
    other["control"]["rate_hz"] = 25
    path = write_cartpole(tmp_path / "bag", 20)
    theirs = schema.parse(other, "test")
    with pytest.raises(UserError, match=r"control.rate_hz: 25.0 here, 50.0 there"):
        read_episodes(path, theirs)
    assert len(read_episodes(path, theirs, force=True)[0]) == 10


def test_termination_ends_the_episode_and_is_not_truncation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slider_beyond(observation: Columns, action: Columns, after: Columns, *, limit: float) -> Any:
        return after["slider.position"] > limit

    monkeypatch.setattr(rewards, "slider_beyond", slider_beyond, raising=False)
    data = contract().model_dump(mode="json")
    data["termination"] = {"function": "wm_ros.contract.rewards:slider_beyond", "parameters": {"limit": 0.0105}}
    fallible = schema.parse(data, "test")
    (episode,) = read_episodes(write_cartpole(tmp_path / "bag", 30, of=fallible), fallible)
    assert episode.terminated.tolist() == [False] * 10 + [True] and not episode.truncated


def test_a_channel_timed_by_reception_meets_the_stamped_ones_on_the_robots_clock(tmp_path: Path) -> None:
    data = contract().model_dump(mode="json")
    foot = {"name": "foot", "topic": "foot", "type": ARRAY, "max_age_s": 0.1, "clock": "receive"}
    data["observation"].append({**foot, "features": [{"field": "data", "index": 1, "units": "N"}]})
    both = schema.parse(data, "test")
    off_by = 1_700_000_000 * 10**9  # the recorder has the system's time, the simulated robot its own
    writer = BagWriter(tmp_path / "bag", custom_data(both))
    topics = [writer.add_topic(f"/{t}", k, Qos()) for t, k in (("joint_states", JOINT_STATE), ("command", JOINT_STATE), ("foot", ARRAY))]
    layout = message("std_msgs/msg/MultiArrayLayout", [], 0)
    for k in range(20):
        stamp = START + k * PERIOD
        position, velocity = raw_state(k)
        messages = [
            cdr(ARRAY, message(ARRAY, layout, np.array([0.0, k]))),
            joint_state(stamp, ["hinge_1", "slider"], position[::-1], velocity[::-1]),
            joint_state(stamp, ["slider"], effort=[force(k)]),
        ]
        for topic, raw, delay in zip((topics[2], topics[0], topics[1]), messages, (0, 1000, 2000), strict=True):
            writer.write(topic, raw, off_by + stamp + delay, stamp)
    writer.close()
    (episode,) = read_episodes(tmp_path / "bag", both)
    assert episode.observation[:, 5].tolist() == list(range(20))


def test_a_clock_that_began_in_1970_asks_for_no_ticks_between_then_and_now(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag", custom_data(contract()))
    sensor, command = (writer.add_topic(f"/{t}", JOINT_STATE, Qos()) for t in ("joint_states", "command"))
    for k in range(100):
        stamp = k * PERIOD + (0 if k < 50 else 1_700_000_000 * 10**9)
        for topic, raw in (
            (sensor, joint_state(stamp, ["slider", "hinge_1"], [0.0, 0.1], [0.0, 0.0])),
            (command, joint_state(stamp, ["slider"], effort=[1.0])),
        ):
            writer.write(topic, raw, START + k * PERIOD, stamp)
    writer.close()
    episodes = read_episodes(tmp_path / "bag", contract())
    assert sum(len(e) for e in episodes) >= 98 and {len(e) for e in episodes} <= {49, 50, 51, 52, 53, 54}


def test_numbers_past_float32_are_left_out_like_gaps(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag", custom_data(contract()))
    sensor, command = (writer.add_topic(f"/{t}", JOINT_STATE, Qos()) for t in ("joint_states", "command"))
    for k in range(30):
        stamp = START + k * PERIOD
        velocity = [1e300 if k == 10 else 0.0, 0.0]
        writer.write(sensor, joint_state(stamp, ["slider", "hinge_1"], [0.0, 0.1], velocity), stamp, stamp)
        writer.write(command, joint_state(stamp, ["slider"], effort=[1e300 if k == 20 else 1.0]), stamp, stamp)
    writer.close()
    assert [len(e) for e in read_episodes(tmp_path / "bag", contract())] == [9, 9, 8]


def test_bulk_and_single_decoding_of_a_bag_agree_bit_for_bit(tmp_path: Path) -> None:
    bag = Bag(write_cartpole(tmp_path / "bag", 100))
    bulk, single = (read_recording(bag, contract(), bulk=b) for b in (True, False))
    assert bulk.channels["joints"].raw.tobytes() == single.channels["joints"].raw.tobytes()
    assert bulk.channels["joints"].stamp.tolist() == single.channels["joints"].stamp.tolist()
    assert bulk.command.raw.tobytes() == single.command.raw.tobytes()


def test_a_killed_recorders_bag_gives_its_whole_chunks_and_its_contract(tmp_path: Path) -> None:
    path = write_cartpole(tmp_path / "bag", 50, close=False)
    assert not (path / "metadata.yaml").exists()
    (episode,) = read_episodes(path, contract())
    assert len(episode) == 50 and episode.provenance.controller_version == 3


def test_a_cut_file_is_read_to_its_last_whole_chunk_and_the_loss_is_counted(tmp_path: Path) -> None:
    path = write_cartpole(tmp_path / "bag", 50, close=False)
    storage = path / "bag_0.mcap"
    whole = storage.read_bytes()
    for size, messages in ((len(whole) - 7, 102), (len(whole) // 2, 0)):  # within the chunk's index, within the chunk
        storage.write_bytes(whole[:size])
        cut = Bag(path)
        assert sum(len(b) for b in cut.blocks()) == messages
        (loss,) = cut.losses
        assert 0 < loss.bytes < size and loss.path == storage


def test_a_missing_bag_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing_here: no such bag: give"):
        read_episodes(tmp_path / "nothing_here", contract())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no bag in it"):
        read_episodes(tmp_path / "empty", contract())
