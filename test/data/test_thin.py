"""Reading only what the ticks ask for gives the same episodes as reading everything, in memory that is not that of the whole bag."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera_bags import COMPRESSED, compressed_image, every, scene, with_camera, write_with_camera
from cartpole_bags import JOINT_STATE, PERIOD, START, STRING, cdr, contract, custom_data, force, joint_state, message, state

from wm_ros.contract import schema
from wm_ros.contract.schema import Contract
from wm_ros.data.align import iterate_episodes
from wm_ros.data.bag_writer import BagOptions, BagWriter
from wm_ros.data.episode import Episode
from wm_ros.data.median import Median
from wm_ros.data.qos import Qos

ARRAY = "std_msgs/msg/Float64MultiArray"
TWIST = "geometry_msgs/msg/TwistStamped"


def wide(policies: tuple[str, str]) -> Contract:
    """The cart-pole with two further sensors, one of which is timed by reception."""
    data = contract().model_dump(mode="json")
    data["observation"][0]["align"] = policies[0]
    twist = {"name": "twist", "topic": "twist", "type": TWIST, "max_age_s": 0.09, "align": policies[1]}
    foot = {"name": "foot", "topic": "foot", "type": ARRAY, "max_age_s": 0.15, "clock": "receive", "align": policies[1]}
    data["observation"].append({**twist, "features": [{"field": "twist.linear.x", "units": "m/s"}]})
    data["observation"].append({**foot, "features": [{"field": "data", "index": 0, "units": "N"}]})
    return schema.parse(data, "test")


def stamps(rng: np.random.Generator, seconds: float, step_ns: int) -> np.ndarray[Any, Any]:
    """A sensor's stamps with jitter, duplicates, disorder, gaps, and now and then a clock that is set back or ahead."""
    count = int(seconds * 1e9 / step_ns)
    at = START + step_ns * np.arange(count) + rng.integers(0, max(1, int(step_ns * rng.choice([1e-9, 0.2, 2.0]))), count)
    keep = np.ones(count, np.bool_)
    for _ in range(rng.integers(0, 4)):
        gap = int(rng.integers(count))
        keep[gap : gap + int(rng.integers(1, 0.5e9 / step_ns + 2))] = False
    same = rng.random(count) < rng.choice([0.0, 0.1])
    at[1:][same[1:]] = at[:-1][same[1:]]
    return at[keep]


def random_bag(path: Path, rng: np.random.Generator, of: Contract) -> Path:
    writer = BagWriter(path, custom_data(of), BagOptions(chunk_bytes=int(rng.choice([1000, 8000, 100_000]))))
    kinds = {"joint_states": JOINT_STATE, "twist": TWIST, "foot": ARRAY, "command": JOINT_STATE, "episode": STRING}
    topics = {name: writer.add_topic(f"/{name}", kind, Qos()) for name, kind in kinds.items()}
    layout = message("std_msgs/msg/MultiArrayLayout", [], 0)
    vector = message("geometry_msgs/msg/Vector3", 0.0, 0.0, 0.0)
    seconds = 4.0
    clock = int(rng.choice([0, 1_700_000_000 * 10**9]))  # of the recorder, beside the robot's
    entries: list[tuple[int, int, str, bytes]] = []

    def header(at: int) -> Any:
        return message("std_msgs/msg/Header", message("builtin_interfaces/msg/Time", at // 10**9, at % 10**9), "")

    def add(name: str, at: int, raw: bytes) -> None:
        entries.append((at + int(rng.integers(0, 3_000_000)), at, name, raw))

    for at in stamps(rng, seconds, int(rng.choice([PERIOD, PERIOD // 3, 3 * PERIOD // 4]))).tolist():
        add("joint_states", at, joint_state(at, ["slider", "hinge_1"], rng.normal(size=2), rng.normal(size=2)))
    for at in stamps(rng, seconds, int(rng.choice([PERIOD // 2, PERIOD // 7, 2 * PERIOD]))).tolist():
        x = message("geometry_msgs/msg/Vector3", float(rng.normal()), 0.0, 0.0)
        add("twist", at, cdr(TWIST, message(TWIST, header(at), message("geometry_msgs/msg/Twist", x, vector))))
    for at in stamps(rng, seconds, int(rng.choice([PERIOD // 5, PERIOD]))).tolist():
        add("foot", at, cdr(ARRAY, message(ARRAY, layout, rng.normal(size=1))))
    for at in stamps(rng, seconds, int(rng.choice([PERIOD, PERIOD, PERIOD // 4]))).tolist():
        add("command", at, joint_state(at, ["slider"], effort=[force(at // 10**6)]))
    ticks = int(seconds * 1e9 / PERIOD)
    if rng.random() < 0.6:
        for first in range(5, ticks - 40, int(rng.integers(40, 90))):
            start = START + first * PERIOD + int(rng.integers(0, PERIOD))
            length = int(rng.integers(1, 60))
            add("episode", start, cdr(STRING, message(STRING, state("running", length, start).to_json())))
            if rng.random() < 0.8:
                ended = state("ended", length, start, outcome=str(rng.choice(["truncated", "discarded"], p=[0.8, 0.2])))
                add("episode", ended.end_stamp_ns, cdr(STRING, message(STRING, ended.to_json())))
    entries.sort(key=lambda e: e[0])
    if rng.random() < 0.3:
        # A second life of the robot's clock: everything once more, received later.
        later = entries[-1][0] - START + 10**7
        entries += [(at + later, stamp, name, raw) for at, stamp, name, raw in entries]
    if rng.random() < 0.1:
        entries.append(entries.pop(3))  # not in the order of reception
    for at, stamp, name, raw in entries:
        writer.write(topics[name], raw, clock + at, stamp)
    writer.close()
    return path


def same(one: Episode, other: Episode) -> bool:
    columns = ("observation", "action", "reward", "terminated", "stamp")
    equal = all(getattr(one, c).tobytes() == getattr(other, c).tobytes() for c in columns)
    return equal and one.truncated == other.truncated and one.provenance == other.provenance


@pytest.mark.parametrize("policies", [("hold", "hold"), ("nearest", "linear"), ("linear", "nearest"), ("hold", "linear")])
def test_thinned_columns_give_the_same_episodes_bit_for_bit(policies: tuple[str, str], tmp_path: Path) -> None:
    of, found = wide(policies), 0
    for seed in range(5):
        path = random_bag(tmp_path / str(seed), np.random.default_rng([seed, len(policies[0]), len(policies[1])]), of)
        whole = list(iterate_episodes(path, of, whole_bytes=1 << 40))
        thinned = list(iterate_episodes(path, of, whole_bytes=0))
        assert len(whole) == len(thinned), seed
        assert all(same(a, b) for a, b in zip(whole, thinned, strict=True)), seed
        found += sum(map(len, whole))
    assert found > 300


def test_a_message_far_from_its_place_costs_memory_but_no_episode(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag", custom_data(contract()), BagOptions(chunk_bytes=1000))
    sensor, command = (writer.add_topic(f"/{t}", JOINT_STATE, Qos()) for t in ("joint_states", "command"))
    order = [*range(20), *range(21, 60), 20]
    for k in order:
        stamp = START + k * PERIOD
        writer.write(sensor, joint_state(stamp, ["slider", "hinge_1"], [0.0, k], [0.0, 0.0]), stamp, stamp)
        writer.write(command, joint_state(stamp, ["slider"], effort=[force(k)]), stamp, stamp)
    writer.close()
    (episode,) = iterate_episodes(tmp_path / "bag", contract(), whole_bytes=0)
    assert len(episode) == 59


def test_memory_does_not_grow_with_the_rate_of_the_sensors(tmp_path: Path) -> None:
    def peak(rate: int) -> tuple[int, int]:
        """Peak of reading two seconds of commands and a sensor of so many messages per tick, and the size of what was read."""
        writer = BagWriter(path := tmp_path / str(rate), custom_data(contract()), BagOptions(chunk_bytes=100_000))
        sensor, command = (writer.add_topic(f"/{t}", JOINT_STATE, Qos()) for t in ("joint_states", "command"))
        for k in range(100):
            stamp = START + k * PERIOD
            raw = joint_state(stamp, ["slider", "hinge_1"], [0.0, k], [0.0, 0.0])
            for i in range(rate):
                at = stamp + i * (PERIOD // rate)
                writer.write(sensor, raw[:4] + np.array([at // 10**9, at % 10**9], "<u4").tobytes() + raw[12:], at, at)
            writer.write(command, joint_state(stamp, ["slider"], effort=[force(k)]), stamp, stamp)
        writer.close()
        list(iterate_episodes(path, contract(), whole_bytes=0))  # fills the caches of message definitions
        tracemalloc.start()
        try:
            (episode,) = iterate_episodes(path, contract(), whole_bytes=0)
            assert len(episode) == 100
            return tracemalloc.get_traced_memory()[1], 100 * rate * len(raw)
        finally:
            tracemalloc.stop()

    (slow, few), (fast, many) = peak(100), peak(400)
    assert fast < 1.2 * slow and slow < many - few


def test_the_median_of_very_many_values_is_near_and_of_fewer_exact() -> None:
    values = np.random.default_rng(0).integers(0, 10**9, 100_000)
    few, all_at_once, bit_by_bit = Median(), Median(), Median()
    few.add(values[:8_001])
    all_at_once.add(values)
    for begin in range(0, len(values), 777):
        bit_by_bit.add(values[begin : begin + 777])
    assert few.value == int(np.median(values[:8_001])) and Median().value is None
    assert all_at_once.value == bit_by_bit.value == pytest.approx(np.median(values), rel=0.05)


def test_pictures_of_a_thinned_bag_are_those_of_the_whole_one_damaged_ones_too(tmp_path: Path) -> None:
    of = with_camera(COMPRESSED)
    pictures = every(60, lambda k, stamp: compressed_image(scene(k, 48, 64), "png", stamp), step=1)
    for _, picture in pictures[::7][1:]:
        picture.data = np.concatenate([picture.data[:200], ~picture.data[200:240], picture.data[240:]])
    path = write_with_camera(tmp_path / "bag", 60, of, pictures, options=BagOptions(chunk_bytes=8000))
    (whole,), (thinned,) = (list(iterate_episodes(path, of, whole_bytes=size)) for size in (1 << 30, 0))
    assert thinned.observation.tobytes() == whole.observation.tobytes()
    assert np.asarray(thinned.images["camera"]).tobytes() == np.asarray(whole.images["camera"]).tobytes()
