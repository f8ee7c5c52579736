"""Bulk decoding gives the same bits as reading one message after the other, whatever is in the bag."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from cartpole_bags import header, joint_state, message, store
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_ros.contract.schema import IMAGE_TYPES, MESSAGE_TYPES, UNSTAMPED_TYPES, Channel
from wm_ros.data.block import Block
from wm_ros.data.columns import ChannelColumns, ColumnDecoder

SEEDS = st.integers(0, 2**32)
SPECIAL = [0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, 1.7976931348623157e308, 1.0, -1.5]
FRAMES = st.sampled_from(["", "base", "map", "very/long/frame_id"])
STAMPS = st.integers(min_value=0, max_value=2**31 * 10**9 - 1)


def floats(seed: int, count: int) -> list[float]:
    """Any bit patterns, and every fifth time one of the special values."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**64, count, dtype=np.uint64).view(np.float64)
    if rng.random() < 0.6:
        values = rng.normal(size=count)
    elif count:
        values[rng.integers(0, count)] = rng.choice(SPECIAL)
    return [float(v) for v in values]


def block_of(messages: list[bytes]) -> Block:
    length = np.array([len(m) for m in messages], np.int64)
    offset = np.concatenate([[0], np.cumsum(length)[:-1]]).astype(np.int64)
    log_time = 10**9 * np.arange(len(messages), dtype=np.int64)
    return Block(b"".join(messages), offset, length, np.ones(len(messages), np.int64), log_time, {})


def decode(channel: Channel, messages: list[bytes], *, bulk: bool) -> ChannelColumns:
    decoder = ColumnDecoder(channel, channel.type, store)
    block = block_of(messages)
    # Two calls: shapes learned in one block serve the next.
    for rows in np.array_split(np.arange(len(messages)), 2):
        decoder.add(block, rows, bulk=bulk)
    return decoder.columns()


def assert_equal(channel: Channel, messages: list[bytes]) -> ChannelColumns:
    bulk, single = (decode(channel, messages, bulk=b) for b in (True, False))
    assert bulk.raw.tobytes() == single.raw.tobytes()
    assert bulk.stamp.tolist() == single.stamp.tolist()
    assert bulk.received.tolist() == single.received.tolist()
    assert bulk.refused == single.refused
    return bulk


def channel(kind: str, *features: dict[str, Any], **options: Any) -> Channel:
    clock = {"clock": "receive"} if kind in UNSTAMPED_TYPES else {}
    return Channel(
        name="c", topic="t", type=kind, max_age_s=1.0, features=[{"units": "x", **f} for f in features], **{**clock, **options}
    )


JOINTS = channel(
    "sensor_msgs/msg/JointState",
    {"joint": "a", "field": "position"},
    {"joint": "b", "field": "position"},
    {"joint": "b", "field": "velocity"},
)


@st.composite
def joint_states(draw: st.DrawFn) -> list[bytes]:
    """Runs of like messages, with others between them: other orders, joints missing or doubled, arrays too short."""
    made = []
    for _ in range(draw(st.integers(1, 6))):
        names = draw(st.sampled_from([["a", "b"], ["b", "a"], ["b", "finger", "a"], ["a"], ["a", "a", "b"], []]))
        size = draw(st.sampled_from([len(names), len(names), len(names), 0, len(names) + 1]))
        effort = draw(st.sampled_from([0, len(names)]))
        frame, little = draw(FRAMES), draw(st.booleans())
        for _ in range(draw(st.integers(1, 12))):
            values = floats(draw(SEEDS), 2 * size + effort)
            columns = values[:size], values[size : 2 * size], values[2 * size :]
            raw = joint_state(draw(STAMPS), names, *columns, frame=frame, little_endian=little)
            made.append(raw + draw(st.sampled_from([b"", b"", b"", b"\x00", b"xyz", b"abcd"])))
    return made


@settings(deadline=None, max_examples=200)
@given(joint_states())
def test_joint_states_in_bulk_equal_joint_states_one_by_one(messages: list[bytes]) -> None:
    assert_equal(JOINTS, messages)


@settings(deadline=None, max_examples=200)
@given(joint_states(), st.data())
def test_damaged_messages_are_refused_alike(messages: list[bytes], data: st.DataObject) -> None:
    damaged = []
    for raw in messages:
        changed = bytearray(raw)
        for _ in range(data.draw(st.integers(0, 2))):
            changed[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        damaged.append(bytes(changed[: data.draw(st.integers(0, len(raw)))] if data.draw(st.integers(0, 5)) == 0 else changed))
    assert_equal(JOINTS, damaged)


def vector(values: list[float]) -> Any:
    return message("geometry_msgs/msg/Vector3", *values)


def quaternion(values: list[float]) -> Any:
    return message("geometry_msgs/msg/Quaternion", *values)


def imu(stamp: int, frame: str, v: list[float]) -> Any:
    three = [np.array(v[10:19]), np.array(v[10:19]), np.array(v[10:19])]
    return message(
        "sensor_msgs/msg/Imu", header(stamp, frame), quaternion(v[:4]), three[0], vector(v[4:7]), three[1], vector(v[7:10]), three[2]
    )


def pose(v: list[float]) -> Any:
    return message("geometry_msgs/msg/Pose", message("geometry_msgs/msg/Point", *v[:3]), quaternion(v[3:7]))


def odometry(stamp: int, frame: str, v: list[float]) -> Any:
    covariance = np.array([*v, *v])[:36]
    twist = message("geometry_msgs/msg/Twist", vector(v[7:10]), vector(v[10:13]))
    return message(
        "nav_msgs/msg/Odometry",
        header(stamp, frame),
        frame + "child",
        message("geometry_msgs/msg/PoseWithCovariance", pose(v), covariance),
        message("geometry_msgs/msg/TwistWithCovariance", twist, covariance),
    )


def multi_array(stamp: int, frame: str, v: list[float]) -> Any:
    dimension = [message("std_msgs/msg/MultiArrayDimension", frame, len(v), len(v))] if frame == "map" else []
    return message("std_msgs/msg/Float64MultiArray", message("std_msgs/msg/MultiArrayLayout", dimension, 0), np.array(v))


OTHERS = {
    "sensor_msgs/msg/Imu": (imu, ["orientation.w", "angular_velocity.x", "linear_acceleration.z"]),
    "nav_msgs/msg/Odometry": (odometry, ["pose.pose.position.x", "pose.pose.orientation.z", "twist.twist.linear.x", "pose.covariance[7]"]),
    "geometry_msgs/msg/PoseStamped": (
        lambda stamp, frame, v: message("geometry_msgs/msg/PoseStamped", header(stamp, frame), pose(v)),
        ["pose.position.y", "pose.orientation.w"],
    ),
    "geometry_msgs/msg/TwistStamped": (
        lambda stamp, frame, v: message(
            "geometry_msgs/msg/TwistStamped", header(stamp, frame), message("geometry_msgs/msg/Twist", vector(v[:3]), vector(v[3:6]))
        ),
        ["twist.linear.x", "twist.angular.z"],
    ),
    "geometry_msgs/msg/WrenchStamped": (
        lambda stamp, frame, v: message(
            "geometry_msgs/msg/WrenchStamped", header(stamp, frame), message("geometry_msgs/msg/Wrench", vector(v[:3]), vector(v[3:6]))
        ),
        ["wrench.force.z", "wrench.torque.x"],
    ),
    "geometry_msgs/msg/Twist": (
        lambda stamp, frame, v: message("geometry_msgs/msg/Twist", vector(v[:3]), vector(v[3:6])),
        ["linear.x", "angular.z"],
    ),
    "geometry_msgs/msg/Wrench": (
        lambda stamp, frame, v: message("geometry_msgs/msg/Wrench", vector(v[:3]), vector(v[3:6])),
        ["force.z", "torque.x"],
    ),
    "std_msgs/msg/Float64MultiArray": (multi_array, ["data[0]", "data[5]"]),
}


def test_every_vector_type_of_the_contract_is_tried_here() -> None:
    assert {JOINTS.type, *OTHERS} == set(MESSAGE_TYPES) - set(IMAGE_TYPES)


def features(paths: list[str]) -> list[dict[str, Any]]:
    split = [p.rstrip("]").split("[") for p in paths]
    return [{"field": p[0], "index": int(p[1]) if len(p) > 1 else None} for p in split]


@pytest.mark.parametrize("kind", OTHERS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_every_type_of_the_contract_in_bulk_equals_one_by_one(kind: str, data: st.DataObject) -> None:
    make, paths = OTHERS[kind]
    headed = "header" in dict(store.fielddefs[kind][1])
    taken = channel(kind, *features(paths), frame="map" if headed and data.draw(st.booleans()) else None)
    messages = []
    for _ in range(data.draw(st.integers(1, 4))):
        frame, little = data.draw(FRAMES), data.draw(st.booleans())
        size = 19 if kind != "std_msgs/msg/Float64MultiArray" else data.draw(st.sampled_from([3, 8]))
        for _ in range(data.draw(st.integers(1, 8))):
            values = floats(data.draw(SEEDS), size)
            messages.append(bytes(store.serialize_cdr(make(data.draw(STAMPS), frame, values), kind, little_endian=little)))
    assert_equal(taken, messages)


@pytest.mark.parametrize("kind", UNSTAMPED_TYPES)
def test_types_without_a_header_are_decoded_in_bulk_and_timed_by_reception(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, paths = OTHERS[kind]
    messages = [bytes(store.serialize_cdr(make(0, "", [k + i / 10 for i in range(8)]), kind)) for k in range(50)]
    taken = channel(kind, *features(paths))
    expected = decode(taken, messages, bulk=False)
    monkeypatch.setattr(ColumnDecoder, "_single", lambda *arguments: pytest.fail("a message was read one by one"))
    columns = decode(taken, messages, bulk=True)
    assert columns.raw.tobytes() == expected.raw.tobytes() and len(columns) == 50
    assert columns.stamp.tolist() == columns.received.tolist() == [10**9 * k for k in range(50)]


def test_known_numbers_come_out() -> None:
    values = [float(i) for i in range(19)]
    messages = [bytes(store.serialize_cdr(odometry(5 * 10**9 + k, "odom", values), "nav_msgs/msg/Odometry")) for k in range(10)]
    taken = channel("nav_msgs/msg/Odometry", *features(["pose.pose.position.z", "twist.twist.angular.z", "pose.covariance[35]"]))
    columns = assert_equal(taken, messages)
    assert columns.raw.tolist() == [[2.0, 12.0, 16.0]] * 10 and columns.stamp.tolist() == [5 * 10**9 + k for k in range(10)]


def test_refused_messages_are_counted_by_reason_and_one_is_explained() -> None:
    good = [joint_state(k, ["a", "b"], [1, 2], [3, 4]) for k in range(10)]
    bad = [joint_state(k, ["a", "b"], [1, np.nan], [3, 4]) for k in range(6)]
    missing = [joint_state(k, ["a", "c"], [1, 2], [3, 4]) for k in range(5)]
    columns = assert_equal(JOINTS, good + bad + missing + [b"\x00\x01\x00\x00zz"])
    assert len(columns) == 10
    assert columns.refused == {"non_finite": 6, "missing_joint": 5, "undecodable": 1}
    assert "b.position" in columns.example


def test_messages_that_came_out_of_order_are_put_in_order() -> None:
    messages = [joint_state(k, ["a", "b"], [k, 2], [3, 4]) for k in range(20)]
    block = block_of(messages)
    shuffled = np.random.default_rng(0).permutation(20)
    block = Block(block.buffer, block.offset[shuffled], block.length[shuffled], block.channel, block.log_time[shuffled], {})
    decoder = ColumnDecoder(JOINTS, JOINTS.type, store)
    decoder.add(block, np.arange(20))
    assert decoder.columns().raw[:, 0].tolist() == list(range(20))


def test_a_huge_count_in_a_message_allocates_nothing() -> None:
    raw = bytearray(joint_state(0, ["a", "b"], [1, 2], [3, 4]))
    for at in range(4, len(raw) - 4, 4):
        hostile = bytearray(raw)
        hostile[at : at + 4] = struct.pack("<I", 2**32 - 1)
        assert_equal(JOINTS, [bytes(hostile)] * 5)
