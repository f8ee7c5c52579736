"""The check finds what was put into a bag, and says whether it can train."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera_bags import COMPRESSED, RAW, compressed_image, every, raw_image, scene, with_camera, write_with_camera
from cartpole_bags import JOINT_STATE, PERIOD, START, contract, custom_data, force, joint_state, write_cartpole

from wm_ros.contract import schema
from wm_ros.data.bag_check import CheckReport, check
from wm_ros.data.bag_reader import Bag
from wm_ros.data.bag_writer import BagOptions, BagWriter
from wm_ros.data.qos import Qos

NAMES = ["slider", "hinge_1"]


def recorded(
    path: Path, sensors: list[tuple[int, bytes]], commands: list[tuple[int, bytes]], options: BagOptions | None = None
) -> Bag:
    """A bag of (time of reception, message)."""
    writer = BagWriter(path, custom_data(contract()), options)
    topics = [writer.add_topic(name, JOINT_STATE, Qos()) for name in ("/joint_states", "/command")]
    for topic, messages in zip(topics, (sensors, commands), strict=True):
        for received, data in messages:
            writer.write(topic, data, received, received)
    writer.close()
    return Bag(path)


def sensor(k: int, **options: Any) -> tuple[int, bytes]:
    stamp = START + k * PERIOD + options.pop("shift", 0)
    position = options.pop("position", [0.005 * k, 0.1])
    return START + k * PERIOD + 2_000_000, joint_state(stamp, options.pop("names", NAMES), position, [0.1 * k, 0.2 * k], **options)


def command(k: int, value: float | None = None) -> tuple[int, bytes]:
    stamp = START + k * PERIOD
    return stamp + 3_000_000, joint_state(stamp, ["slider"], effort=[force(k) if value is None else value])


def texts(report: CheckReport, severity: str = "warning") -> str:
    return "\n".join(p.text for p in report.problems if p.severity == severity)


def test_a_good_bag_can_train_and_has_its_figures(tmp_path: Path) -> None:
    report = check(Bag(write_cartpole(tmp_path / "bag", 100)), contract())
    assert report.trainable and not report.problems and (report.episodes, report.steps, report.seconds) == (1, 100, 2.0)
    joints, action = report.channels
    assert joints.rate_hz == 50.0 and joints.jitter_s == 0.0 and joints.messages == 101 and joints.delay_s == 2e-6
    assert (joints.features[0].minimum, joints.features[0].maximum) == (0.0, 0.1)
    assert action.features[0].saturated == 0.0 and (action.features[0].low, action.features[0].high) == (-10.0, 10.0)


def test_every_fault_that_was_put_in_is_counted(tmp_path: Path) -> None:
    sensors = [sensor(k) for k in range(200) if not 50 <= k < 60]  # one gap of 0.22 s
    sensors[10] = sensor(10, shift=-3 * PERIOD)  # backwards
    sensors[20] = (sensors[20][0], sensors[19][1])  # doubled
    sensors[30] = sensor(30, position=[np.nan, 0.0])
    sensors[31] = sensor(31, names=["slider", "elbow"])
    sensors[32] = (sensors[32][0], b"\x00\x01\x00\x00rubbish")
    for i in (40, 41, 42):
        sensors[i] = sensor(i, position=[2.5, 0.1])
    report = check(recorded(tmp_path / "bag", sensors, [command(k, 10.0) for k in range(200)]), contract())
    joints, action = report.channels
    assert (joints.gaps, joints.out_of_order, joints.duplicates, joints.clock_jumps) == (1, 1, 1, 0)
    assert round(joints.longest_gap_s, 6) == 0.22
    assert joints.refused == {"non_finite": 1, "missing_joint": 1, "undecodable": 1}
    assert joints.features[0].above == 3 and joints.features[0].maximum == 2.5
    assert action.features[0].saturated == 1.0
    warnings = texts(report)
    for words in ("1 gaps longer than 0.1 s", "1 stamps run backwards", "1 messages lack a joint", "not finite", "the units", "100 %"):
        assert words in warnings
    assert report.trainable


def flat(report: CheckReport) -> dict[str, Any]:
    """The figures by their path, to nine digits: sums over blocks round differently."""

    def walk(value: Any, path: str) -> dict[str, Any]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
        return {k: v for key, item in items for k, v in walk(item, f"{path}.{key}").items()} or {
            path: float(f"{value:.9g}") if isinstance(value, float) else value
        }

    return walk(asdict(report), "")


@pytest.mark.parametrize("fault", ["none", "everything", "reception out of order", "camera", "no command", "clock set back"])
def test_a_bag_too_large_to_be_kept_has_the_same_figures(tmp_path: Path, fault: str) -> None:
    of = contract()
    options = BagOptions(chunk_bytes=2000)  # many blocks
    if fault == "camera":
        of = with_camera()
        pictures = every(100, lambda n, stamp: b"no picture" if n == 7 else raw_image(scene(n), stamp=stamp))
        bag = Bag(write_with_camera(tmp_path / "bag", 100, of, pictures, options=options))
    else:
        sensors, commands = [sensor(k) for k in range(200)], [command(k, 10.0 if k % 2 else None) for k in range(199)]
        if fault == "everything":
            del sensors[50:60]
            sensors[10], sensors[20] = sensor(10, shift=-3 * PERIOD), (sensors[20][0], sensors[19][1])
            sensors[30], sensors[40] = sensor(30, position=[np.nan, 0.0]), sensor(40, names=["slider", "other"])
        elif fault == "reception out of order":
            sensors = [(received - (k % 7) * PERIOD, data) for k, (received, data) in enumerate(sensors)]
        elif fault == "no command":
            commands = []
        elif fault == "clock set back":
            sensors[100:] = [sensor(k, shift=-90 * PERIOD) for k in range(100, 200)]
        bag = recorded(tmp_path / "bag", sensors, commands, options)
    whole, bounded = check(bag, of), check(bag, of, whole_bytes=0)
    assert flat(bounded) == flat(whole)
    assert bag.path and len(list(bag.blocks())) > 5


def test_a_clock_that_was_set_while_recording_is_noticed(tmp_path: Path) -> None:
    ahead = 3600 * 10**9
    sensors = [sensor(k, shift=ahead if k >= 50 else 0) for k in range(100)]
    report = check(recorded(tmp_path / "bag", sensors, [command(k) for k in range(100)]), contract())
    assert [c.clock_jumps for c in report.channels] == [1, 0] and report.channels[0].gaps == 0
    assert "set the robot's clock before" in texts(report)


def test_a_recorder_that_saw_the_robot_pause_or_run_slowly_sees_no_clock_jump(tmp_path: Path) -> None:
    def late(k: int) -> int:
        return 3 * 10**9 * (k // 30)  # the simulation waited for three seconds, twice

    sensors = [(t + late(k), raw) for k in range(90) for t, raw in [sensor(k)]]
    commands = [(t + late(k), raw) for k in range(90) for t, raw in [command(k)]]
    report = check(recorded(tmp_path / "bag", sensors, commands), contract())
    assert [c.clock_jumps for c in report.channels] == [0, 0] and report.steps == 89


def test_a_clock_set_back_gives_an_episode_for_each_life(tmp_path: Path) -> None:
    later = 10**13

    def stamped(k: int) -> int:
        return k * PERIOD + (later if k < 50 else START)

    sensors = [(START + k * PERIOD, joint_state(stamped(k), NAMES, [0.01 * k, 0.1], [0.0, 0.0])) for k in range(100)]
    commands = [(START + k * PERIOD + 1, joint_state(stamped(k), ["slider"], effort=[force(k)])) for k in range(100)]
    report = check(recorded(tmp_path / "bag", sensors, commands), contract())
    assert report.channels[0].clock_jumps == 1 and report.channels[0].out_of_order == 0
    assert (report.episodes, report.steps) == (2, 98)


def test_what_keeps_a_bag_from_training_is_an_error(tmp_path: Path) -> None:
    without_command = check(recorded(tmp_path / "a", [sensor(k) for k in range(50)], []), contract())
    assert not without_command.trainable and "/command: no messages" in texts(without_command, "error")
    data = contract().model_dump(mode="json")
    data["observation"][0]["topic"] = "arm/joint_states"
    elsewhere = check(Bag(tmp_path / "a"), schema.parse(data, "test"), force=True)
    assert not elsewhere.trainable
    assert "no topic arm/joint_states (channel 'joints'), but /command, /joint_states" in texts(elsewhere, "error")
    data["observation"][0].update(topic="joint_states", type="geometry_msgs/msg/TwistStamped")
    data["observation"][0]["features"] = [{"field": "twist.linear.x", "units": "m/s"}]
    other = check(Bag(tmp_path / "a"), schema.parse(data, "test"), force=True)
    wrong = "/joint_states has type sensor_msgs/msg/JointState, channel 'joints' wants geometry_msgs/msg/TwistStamped"
    assert wrong in texts(other, "error")
    forced = check(Bag(tmp_path / "a"), schema.parse(data, "test"))
    assert "recorded under another contract" in texts(forced, "error")


def test_a_killed_recorders_loss_is_a_warning(tmp_path: Path) -> None:
    path = write_cartpole(tmp_path / "bag", 60, close=False)
    report = check(Bag(path), contract())
    assert report.trainable and report.steps == 60
    storage = path / "bag_0.mcap"
    storage.write_bytes(storage.read_bytes() + b"\x06torn")
    report = check(Bag(path), contract())
    assert report.trainable and report.lost_bytes == 5 and "5 bytes are lost" in texts(report)


def filmed(path: Path, made: list[tuple[int, Any]], kind: str = COMPRESSED, **options: Any) -> CheckReport:
    of = with_camera(kind, **options)
    return check(Bag(write_with_camera(path, 40, of, made)), of)


def jpeg(k: int, stamp: int) -> Any:
    return compressed_image(scene(k, 48, 64), "jpeg", stamp)


def test_a_good_camera_has_its_figures_and_no_problem_though_it_is_slower_than_the_control_loop(tmp_path: Path) -> None:
    report = filmed(tmp_path / "bag", every(40, jpeg))
    assert report.trainable and not report.problems
    camera = report.channels[1]
    assert (camera.rate_hz, camera.messages, camera.gaps) == (25.0, 21, 0)
    assert camera.image is not None and camera.image.wanted == "8x6 rgb8" and camera.image.seen == {"64x48 jpeg": 21}


def test_every_fault_of_a_camera_is_told(tmp_path: Path) -> None:
    made = every(40, jpeg, step=1)
    del made[20:32]  # a gap of 0.26 s, the contract allows 0.15 s
    made[3] = (made[3][0], compressed_image(scene(3, 4, 6), "jpeg", START + 3 * PERIOD))
    made[5][1].data = made[5][1].data[:800]
    damaged = compressed_image(scene(3, 48, 64), "png", START + 7 * PERIOD)
    damaged.data = np.concatenate([damaged.data[:200], ~damaged.data[200:240], damaged.data[240:]])
    made[7] = (made[7][0], damaged)
    report = filmed(tmp_path / "bag", made)
    found = texts(report)
    assert report.trainable and report.channels[1].refused == {"damaged": 1}
    assert "1 gaps longer than 0.15 s (the longest 0.26 s) split the recording" in found
    assert "1 messages are no whole picture and are left out; the first: camera/image_raw: data are a jpeg cut off after 800 bytes" in found
    assert "1 pictures cannot be decoded, the one before is shown" in found
    assert "pictures change between 64x48 jpeg, 6x4 jpeg, 64x48 png" in found and "6x4 jpeg is enlarged to 8x6 rgb8" in found


def test_a_camera_that_the_contract_cannot_read_keeps_the_bag_from_training(tmp_path: Path) -> None:
    report = filmed(tmp_path / "bag", every(40, lambda k, stamp: raw_image(scene(k), "yuv422", stamp)), RAW)
    assert not report.trainable
    assert "21 messages have an encoding that is not read" in texts(report, "error") and "image_proc" in texts(report, "error")


def test_a_grey_camera_for_a_contract_in_colour_is_told(tmp_path: Path) -> None:
    made = every(40, lambda k, stamp: raw_image(scene(k, channels=1), "mono8", stamp))
    assert "32x24 mono8 has no colours" in texts(filmed(tmp_path / "a", made, RAW))
    assert not filmed(tmp_path / "b", made, RAW, image={"encoding": "mono8"}).problems
