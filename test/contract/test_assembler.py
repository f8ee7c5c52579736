"""Messages become observation vectors by name, or are refused with a reason."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from camera_bags import compressed_image, raw_image, scene, with_camera
from hypothesis import given
from hypothesis import strategies as st

from wm_ros.contract import schema
from wm_ros.contract.assembler import Assembler, BadMessage, encode
from wm_ros.contract.commands import read_message, read_values
from wm_ros.contract.resources import share_directory

CONTRACT = schema.load("cartpole_swingup")
JOINTS = {"slider": (0.5, 1.5, 0.0), "hinge_1": (2.0, -3.0, 0.0)}


def message(stamp: float = 10.0, joints: dict[str, tuple[float, ...]] | None = None, **changes: Any) -> Any:
    joints = JOINTS if joints is None else joints
    header = SimpleNamespace(stamp=SimpleNamespace(sec=int(stamp), nanosec=round((stamp % 1) * 1e9)), frame_id="")
    columns = {f: [values[i] for values in joints.values()] for i, f in enumerate(("position", "velocity", "effort"))}
    return SimpleNamespace(**{"header": header, "name": list(joints), **columns, **changes})


def vector(*messages: Any) -> np.ndarray:
    assembler = Assembler(CONTRACT)
    for m in messages:
        assembler.update("joints", m, 0)
    observation = assembler.observe()
    assert observation is not None
    return observation.vector


def refusal(*messages: Any) -> BadMessage:
    """What the last of the messages is refused with; the sample before it stays."""
    assembler = Assembler(CONTRACT)
    for m in messages[:-1]:
        assembler.update("joints", m, 0)
    before = assembler.observe()
    with pytest.raises(BadMessage) as caught:
        assembler.update("joints", messages[-1], 1)
    after = assembler.observe()
    assert (before is None) == (after is None)
    if before is not None and after is not None:
        np.testing.assert_array_equal(before.vector, after.vector)
        assert before.received_ns == after.received_ns
    assert "joint_states" in str(caught.value)
    return caught.value


def test_a_message_becomes_the_contracts_columns() -> None:
    assert vector(message()) == pytest.approx([0.5, np.sin(2.0), np.cos(2.0), 1.5, -3.0])
    assert vector(message()).dtype == np.float32


def test_the_order_of_joints_in_a_message_does_not_matter_even_when_it_changes() -> None:
    permuted = message(11.0, {"hinge_1": JOINTS["hinge_1"], "wheel": (9.0, 9.0, 9.0), "slider": JOINTS["slider"]})
    np.testing.assert_array_equal(vector(permuted), vector(message()))
    np.testing.assert_array_equal(vector(message(), permuted, message(12.0)), vector(message()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["position", "velocity"])
def test_a_value_that_is_not_finite_is_refused_by_name(field: str, value: float) -> None:
    bad = message(11.0)
    getattr(bad, field)[1] = value
    fault = refusal(message(), bad)
    assert fault.reason == "non_finite" and f"hinge_1.{field}" in str(fault)


def test_what_the_contract_does_not_read_may_be_not_finite() -> None:
    np.testing.assert_array_equal(vector(message(effort=[float("nan")] * 2)), vector(message()))


def test_a_missing_joint_is_named() -> None:
    fault = refusal(message(), message(11.0, {"slider": JOINTS["slider"]}))
    assert fault.reason == "missing_joint" and "hinge_1" in str(fault)


def test_a_joint_named_twice_is_refused() -> None:
    assert refusal(message(name=["slider", "slider"])).reason == "names"


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0, 3.0]])
def test_a_field_of_another_size_than_its_names_is_refused(values: list[float]) -> None:
    fault = refusal(message(), message(11.0, velocity=values))
    assert fault.reason == "size" and "velocity" in str(fault)


def test_time_that_runs_backwards_is_refused_and_an_equal_stamp_is_not() -> None:
    fault = refusal(message(10.0), message(9.98))
    assert fault.reason == "backwards" and "0.020 s" in str(fault)
    vector(message(10.0), message(10.0))


def test_after_a_reset_an_earlier_clock_is_as_good_as_any() -> None:
    assembler = Assembler(CONTRACT)
    assembler.update("joints", message(100.0), 0)
    assembler.reset()
    assert assembler.observe() is None and assembler.missing == ["joints"]
    assembler.update("joints", message(1.0), 0)
    assert assembler.observe() is not None


def two_channels() -> schema.Contract:
    data = yaml.safe_load((share_directory() / "config/contracts/cartpole_swingup.yaml").read_text())
    features = [{"field": "angular_velocity.y", "units": "rad/s"}]
    data["observation"].append(
        {"name": "imu", "topic": "imu", "type": "sensor_msgs/msg/Imu", "frame": "pole", "max_age_s": 0.1, "features": features}
    )
    return schema.parse(data, "test")


def imu(stamp: int, frame: str = "pole", **changes: Any) -> Any:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=stamp, nanosec=0), frame_id=frame)
    return SimpleNamespace(**{"header": header, "angular_velocity": SimpleNamespace(x=1.0, y=2.0, z=3.0), **changes})


def test_an_observation_is_as_old_as_its_oldest_sample() -> None:
    assembler = Assembler(two_channels())
    assembler.update("joints", message(10.0), 111)
    assert assembler.observe() is None and assembler.missing == ["imu"]
    assembler.update("imu", imu(12), 333)
    observation = assembler.observe()
    assert observation is not None
    assert (observation.stamp_ns, observation.received_ns) == (10_000_000_000, 111)
    assert observation.vector[-1] == 2.0


def twist(x: float, z: float) -> Any:
    return SimpleNamespace(linear=SimpleNamespace(x=x, y=0.0, z=0.0), angular=SimpleNamespace(x=0.0, y=0.0, z=z))


def with_twist_and_camera() -> schema.Contract:
    data = with_camera(frame="camera").model_dump(mode="json")
    features = [{"field": "linear.x", "units": "m/s"}, {"field": "angular.z", "units": "rad/s"}]
    channel = {"name": "base", "topic": "odom_twist", "type": "geometry_msgs/msg/Twist", "clock": "receive"}
    data["observation"].insert(0, {**channel, "max_age_s": 0.1, "features": features})
    return schema.parse(data, "test")


def test_an_observation_is_dated_by_stamps_not_by_times_of_reception_and_not_by_a_slow_camera() -> None:
    assembler = Assembler(with_twist_and_camera())
    assembler.update("camera", raw_image(scene(1), stamp=9 * 10**9), 90)
    assembler.update("base", twist(1.0, 2.0), 100)
    assembler.update("joints", message(10.0), 110)
    observation = assembler.observe()
    assert observation is not None
    assert (observation.stamp_ns, observation.received_ns) == (10_000_000_000, 90)
    assert observation.vector[:2].tolist() == [1.0, 2.0] and observation.vector.shape == (7,)
    assert observation.images["camera"].shape == (6, 8, 3)


def test_who_needs_no_pictures_gets_none_but_bad_ones_are_refused_all_the_same() -> None:
    assembler = Assembler(with_twist_and_camera(), images=False)
    assembler.update("base", twist(1.0, 2.0), 100)
    assembler.update("joints", message(10.0), 110)
    assert assembler.missing == ["camera"]
    with pytest.raises(BadMessage, match="camera/image_raw: step 9 is less than a row of 32 pixels") as caught:
        assembler.update("camera", raw_image(scene(1), stamp=10**9, step=9), 90)
    assert caught.value.reason == "image_size"
    with pytest.raises(BadMessage, match="camera/image_raw: frame_id"):
        assembler.update("camera", SimpleNamespace(header=SimpleNamespace(frame_id="lidar")), 90)
    assembler.update("camera", raw_image(scene(1), stamp=10**9), 90)
    observation = assembler.observe()
    assert observation is not None and observation.images == {}


def test_a_picture_that_cannot_be_decoded_leaves_the_one_before() -> None:
    assembler = Assembler(with_camera("sensor_msgs/msg/CompressedImage"))
    assembler.update("joints", message(10.0), 110)
    assembler.update("camera", compressed_image(scene(1, 120, 160), "png", 10**10), 110)
    before = assembler.observe()
    bad = compressed_image(scene(2, 120, 160), "png", 10**10 + 1)
    bad.data = np.concatenate([bad.data[:300], ~bad.data[300:400], bad.data[400:]])
    with pytest.raises(BadMessage, match="camera/image_raw: data are no whole picture") as caught:
        assembler.update("camera", bad, 120)
    after = assembler.observe()
    assert caught.value.reason == "damaged" and before is not None and after is not None
    np.testing.assert_array_equal(before.images["camera"], after.images["camera"])


def test_a_wrong_frame_and_a_field_that_is_not_there_are_refused() -> None:
    assembler = Assembler(two_channels())
    with pytest.raises(BadMessage, match="frame_id 'cart', the contract wants 'pole'"):
        assembler.update("imu", imu(12, frame="cart"), 0)
    with pytest.raises(BadMessage, match=r"cannot read angular_velocity\.y"):
        assembler.update("imu", imu(12, angular_velocity=SimpleNamespace()), 0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4))
def test_encoding_many_rows_is_encoding_each(raw: list[float]) -> None:
    row = np.array(raw)
    many = encode(CONTRACT, np.stack([row, 2 * row, row]))
    np.testing.assert_array_equal(many[0], encode(CONTRACT, row))
    np.testing.assert_array_equal(many[2], many[0])
    assert many.shape == (3, 5) and np.abs(many[:, 1:3]).max() <= 1.0


def test_raw_values_of_another_width_are_refused_with_both_widths() -> None:
    with pytest.raises(ValueError, match="3 features, the contract has 4"):
        encode(CONTRACT, np.zeros((2, 3)))


# ---- commands ---------------------------------------------------------------------------------------------------------


def arm() -> schema.Contract:
    data = yaml.safe_load((share_directory() / "config/contracts/cartpole_swingup.yaml").read_text())
    data["action"] = {"interface": "velocity", "joints": [{"name": n, "low": -1, "high": 1, "units": "rad/s"} for n in "abc"]}
    del data["simulator"]
    return schema.parse(data, "test")


def test_a_command_is_read_by_name_from_the_contracts_field() -> None:
    command = SimpleNamespace(name=["c", "a", "b"], position=[], velocity=[3.0, 1.0, 2.0], effort=[7.0, 7.0, 7.0])
    assert read_message(arm(), command).tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("names", "values", "reason"),
    [
        (["a", "b"], [1.0, 2.0], "names"),
        (["a", "b", "c", "d"], [1.0] * 4, "names"),
        (["a", "b", "b"], [1.0] * 3, "names"),
        (["a", "b", "c"], [1.0, 2.0], "size"),
        (["a", "b", "c"], [], "size"),
        (["a", "b", "c"], [1.0, float("nan"), 2.0], "non_finite"),
        (["a", "b", "c"], [1.0, 2.0, float("inf")], "non_finite"),
    ],
)
def test_a_command_that_does_not_fit_is_refused(names: list[str], values: list[float], reason: str) -> None:
    with pytest.raises(BadMessage) as caught:
        read_values(arm(), names, values)
    assert caught.value.reason == reason and "command" in str(caught.value)
