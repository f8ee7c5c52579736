"""Every fault of a contract is explained with its field."""

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.resources import share_directory

SHIPPED = yaml.safe_load((share_directory() / "config/contracts/cartpole_swingup.yaml").read_text())


def changed(path: str, value: Any) -> dict[str, Any]:
    """The shipped contract as data with the value at `path` (`a.0.b`) replaced, or removed where it is `...`."""
    data = copy.deepcopy(SHIPPED)
    *way, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    place = data
    for part in way:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return data


FAULTS = [
    ("controll", {}, "controll: unknown field"),
    ("control", ..., "control: missing"),
    ("format", 2, "format: "),
    ("name", "cart pole", "name: "),
    ("control.rate_hz", 0, "control.rate_hz: "),
    ("control.rate_hz", float("nan"), "control.rate_hz: "),
    ("observation", [], "observation: "),
    ("observation.0.topic", "joint states", "observation.0.topic: must be a ROS topic name"),
    ("observation.0.type", "sensor_msgs/msg/PointCloud2", "observation.0.type: "),
    ("observation.0.type", "sensor_msgs/msg/Image", "observation.0.image: missing: add height, width and encoding"),
    ("observation.0.type", "sensor_msgs/msg/Image", "observation.0.features: images have none"),
    ("observation.0.image", {"height": 8, "width": 8, "encoding": "rgb8"}, "observation.0.image: is for sensor_msgs/msg/Image and"),
    ("observation.0.features", ..., "observation.0.features: missing: add at least one"),
    ("observation.0.features", [], "observation.0.features: missing: add at least one"),
    ("observation.0.max_age_s", -0.1, "observation.0.max_age_s: "),
    ("observation.0.features.0.joint", ..., "needs 'joint'"),
    ("observation.0.features.0.field", "torque", "needs 'joint' and a field position, velocity or effort"),
    ("observation.0.features.0.low", 3.0, "low 3.0 must be below high 1.8"),
    ("observation.0.features.0.encoding", "one_hot", "observation.0.features.0.encoding: "),
    ("observation.0.features.2.field", "position", "['slider.position'] occur more than once"),
    ("observation.0.type", "sensor_msgs/msg/Imu", "'joint' is for JointState channels only"),
    ("action.interface", "torque", "action.interface: "),
    ("action.joints.0.high", -20.0, "joint 'slider': low -10.0 must be below high -20.0"),
    ("action.joints.0.rate_limit", 0, "action.joints.0.rate_limit: "),
    ("reward.function", "/home/me/rewards.py:mine", "reward.function: "),
    ("reward.function", "rewards.mine", "reward.function: "),
    ("reward.parameters.force_limit", float("inf"), "reward.parameters.force_limit"),
    ("safety.hold", {"wheel": 0.0}, "safety.hold: names ['wheel'], but the action's joints are ['slider']"),
    ("safety.hold", {"slider": 99.0}, "safety.hold: slider = 99.0 is outside [-10.0, 10.0]"),
    ("safety.hold", "last_position", "last_position needs action.interface: position"),
    ("action.joints.0.low", 1.0, "safety.hold: zero is outside the limits of a joint"),
    ("simulator.actuators", {"wheel": {"actuator": "a"}}, "simulator.actuators: names ['wheel'], but the action's joints are ['slider']"),
    ("simulator.mjcf", "../../etc/robot.xml", "simulator.mjcf: "),
    ("simulator.mjcf", "a/../../robot.xml", "must not leave its folder"),
    ("simulator.start_position.slider.std", -1.0, "simulator.start_position.slider.std: "),
]


@pytest.mark.parametrize(("path", "value", "words"), FAULTS, ids=[f"{p}={v!r}" for p, v, _ in FAULTS])
def test_a_fault_is_explained_with_its_field(path: str, value: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        schema.parse(changed(path, value), "robot.yaml")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("robot.yaml: ") for line in lines)
    assert any(words in line for line in lines), lines


def test_every_fault_is_reported_at_once() -> None:
    data = changed("control.rate_hz", -1)
    data["safety"]["max_plan_age_s"] = 0
    data["colour"] = "blue"
    with pytest.raises(UserError) as caught:
        schema.parse(data, "robot.yaml")
    fields = {line.split(": ")[1] for line in str(caught.value).splitlines()}
    assert fields == {"control.rate_hz", "safety.max_plan_age_s", "colour"}


def test_an_array_channel_has_indices_and_is_timed_by_reception() -> None:
    channel = {
        "name": "force", "topic": "force", "type": "std_msgs/msg/Float64MultiArray", "max_age_s": 0.1,
        "features": [{"field": "data", "index": 2, "units": "N"}],
    }  # fmt: skip
    data = {**SHIPPED, "observation": [*SHIPPED["observation"], channel]}
    with pytest.raises(UserError, match="clock: receive"):
        schema.parse(data, "robot.yaml")
    channel["clock"] = "receive"
    assert schema.parse(data, "robot.yaml").observation_names[-1] == "data[2]"
    channel["features"] = [{"field": "data", "units": "N"}]
    with pytest.raises(UserError, match="needs field 'data' and an 'index'"):
        schema.parse(data, "robot.yaml")


CAMERA = {
    "name": "camera", "topic": "camera/image_raw", "type": "sensor_msgs/msg/CompressedImage", "max_age_s": 0.2,
    "image": {"height": 64, "width": 96, "encoding": "rgb8"},
}  # fmt: skip


def with_channel(channel: dict[str, Any]) -> dict[str, Any]:
    return {**SHIPPED, "observation": [*SHIPPED["observation"], channel]}


def test_an_image_channel_is_seen_beside_the_vector() -> None:
    contract = schema.parse(with_channel(CAMERA), "robot.yaml")
    assert contract.observation_size == 5 and contract.dating_channels == ("joints",)
    assert {name: image.shape for name, image in contract.images.items()} == {"camera": (64, 96, 3)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"align": "linear"}, "observation.1.align: images cannot be interpolated: take hold or nearest"),
        ({"image": {**CAMERA["image"], "encoding": "bgr8"}}, "observation.1.image.encoding: "),
        ({"image": {**CAMERA["image"], "height": 0}}, "observation.1.image.height: "),
        ({"image": {**CAMERA["image"], "width": 100_000}}, "observation.1.image.width: "),
        ({"image": {**CAMERA["image"], "full_scale": 0}}, "observation.1.image.full_scale: "),
        ({"image": {**CAMERA["image"], "colour": 1}}, "observation.1.image.colour: unknown field"),
        ({"image": {"height": 8, "encoding": "mono8"}}, "observation.1.image.width: missing"),
    ],
)
def test_a_fault_of_an_image_channel_is_explained_with_its_field(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        schema.parse(with_channel({**CAMERA, **changes}), "robot.yaml")
    assert any(words in line for line in str(caught.value).splitlines()), str(caught.value)


def test_the_examples_of_cameras_and_unstamped_types_in_the_docs_are_valid() -> None:
    text = (Path(__file__).parents[2] / "docs/bring_your_robot.md").read_text(encoding="utf-8")
    arm, cameras = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    contract = schema.parse({**arm, "observation": arm["observation"] + cameras}, "docs")
    assert list(contract.images) == ["camera", "depth"] and contract.observation_names[-2:] == ("linear.x", "angular.z")


def test_images_alone_are_no_observation() -> None:
    with pytest.raises(UserError, match="only images: add a channel with features"):
        schema.parse({**SHIPPED, "observation": [CAMERA]}, "robot.yaml")


def test_every_field_of_an_image_channel_is_in_the_hash() -> None:
    base = schema.parse(with_channel(CAMERA), "x")
    assert schema.from_json(base.canonical_json(), "bag").hash == base.hash
    for field, value in {"height": 65, "width": 97, "encoding": "mono8", "full_scale": 5000}.items():
        other = schema.parse(with_channel({**CAMERA, "image": {**CAMERA["image"], field: value}}), "x")
        assert other.hash != base.hash
        assert [line.split(": ")[0] for line in schema.difference(base, other)] == [f"observation[1].image.{field}"]


def test_a_contract_without_images_has_the_hash_that_it_had_before_there_were_any() -> None:
    # Of format 1 as first released: recorded bags and trained controllers carry it.
    assert schema.load("cartpole_swingup").hash == "28fa6f4559f48bb9019ba7325fd25a11aa19932e3003195cf7ed54832e00bf82"


@pytest.mark.parametrize(("kind", "field"), [("Twist", "linear.x"), ("Wrench", "force.z")])
def test_a_type_without_a_header_is_timed_by_reception_and_has_no_frame(kind: str, field: str) -> None:
    channel = {
        "name": "c", "topic": "c", "type": f"geometry_msgs/msg/{kind}", "max_age_s": 0.1, "features": [{"field": field, "units": "x"}],
    }  # fmt: skip
    with pytest.raises(UserError, match=f"observation.1.clock: geometry_msgs/msg/{kind} has no header: set clock: receive"):
        schema.parse(with_channel(channel), "robot.yaml")
    channel["clock"] = "receive"
    contract = schema.parse(with_channel(channel), "robot.yaml")
    assert contract.observation_names[-1] == field and contract.dating_channels == ("joints",)
    with pytest.raises(UserError, match=r"observation.1.frame: .* has no header and so no frame: remove it"):
        schema.parse(with_channel({**channel, "frame": "base"}), "robot.yaml")


@pytest.mark.parametrize(("text", "words"), [("[1, 2", "not readable as YAML"), ("- 1\n- 2", "expected a mapping"), ("", "found NoneType")])
def test_a_file_that_is_no_contract_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "robot.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        schema.load(file)
    assert str(file) in str(caught.value)


def test_a_binary_file_and_a_huge_file_are_named(tmp_path: Path) -> None:
    file = tmp_path / "robot.yaml"
    file.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="not readable as YAML"):
        schema.load(file)
    file.write_bytes(b"#" * (schema.MAX_FILE_BYTES + 1))
    with pytest.raises(UserError, match="larger than"):
        schema.load(file)


def test_an_unknown_name_lists_the_shipped_contracts() -> None:
    with pytest.raises(UserError, match=r"cartpole_swingdown.*shipped: .*cartpole_swingup"):
        schema.load("cartpole_swingdown")


def test_the_shipped_contract_gives_named_columns() -> None:
    contract = schema.load("cartpole_swingup")
    assert contract.observation_names == (
        "slider.position", "hinge_1.position.sin", "hinge_1.position.cos", "slider.velocity", "hinge_1.velocity",
    )  # fmt: skip
    assert (contract.observation_size, contract.action_size, contract.episode_ticks, contract.control.period_ns) == (5, 1, 500, 20_000_000)


# ---- hash and difference ----------------------------------------------------------------------------------------------


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: reversed_keys(v) for k, v in reversed(value.items())}
    return [reversed_keys(v) for v in value] if isinstance(value, list) else value


def test_the_hash_does_not_depend_on_the_order_or_the_spelling_of_the_text() -> None:
    contract = schema.load("cartpole_swingup")
    assert schema.parse(reversed_keys(SHIPPED), "x").hash == contract.hash
    assert schema.parse(changed("control.rate_hz", 50.0), "x").hash == contract.hash
    assert schema.parse(changed("observation.0.align", "hold"), "x").hash == contract.hash  # the default, written out


def test_the_hash_survives_the_way_through_a_bag_and_another_process() -> None:
    contract = schema.load("cartpole_swingup")
    assert schema.from_json(contract.canonical_json(), "bag").hash == contract.hash
    code = "from wm_ros.contract import schema; print(schema.load('cartpole_swingup').hash)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert other.stdout.strip() == contract.hash


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("control.rate_hz", 100), ("observation.0.features.0.joint", "cart"), ("action.joints.0.high", 11.0), ("reward.scale", 1.0),
        ("safety.max_plan_age_s", 0.2), ("simulator", None), ("episode.duration_s", 9.0),
    ],
)  # fmt: skip
def test_every_change_changes_the_hash_and_the_difference_names_it(path: str, value: Any) -> None:
    ours, theirs = schema.load("cartpole_swingup"), schema.parse(changed(path, value), "x")
    assert theirs.hash != ours.hash
    field = path.replace(".0", "[0]")
    assert any(line.startswith(field) for line in schema.difference(ours, theirs))


def test_the_difference_says_both_values_and_is_empty_for_equals() -> None:
    ours, theirs = schema.load("cartpole_swingup"), schema.parse(changed("control.rate_hz", 100), "x")
    assert schema.difference(ours, theirs) == ["control.rate_hz: 50.0 here, 100.0 there"]
    assert schema.difference(ours, ours) == []


@pytest.mark.parametrize("text", ["{", "[]", '"text"', '{"format": 1}', "[" * 100_000])
def test_json_that_is_no_contract_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="episode_0001"):
        schema.from_json(text, "episode_0001")
