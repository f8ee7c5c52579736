"""The simulated robot: commands, timeouts, faults, and what a contract may ask of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.resources import share_directory
from wm_ros.sim.sensors import check_channels, read_channels
from wm_ros.sim.simulator import Simulator

ARM = """
<mujoco><option timestep="0.005"/><worldbody>
  <body><joint name="shoulder" axis="0 1 0"/><geom size="0.1" mass="1" pos="0 0 -0.5"/>
    <body pos="0 0 -1"><joint name="elbow" axis="0 1 0"/><geom size="0.1" mass="1" pos="0 0 -0.5"/></body></body>
  <body name="free"><freejoint name="ball"/><geom size="0.1"/></body></worldbody>
  <actuator>
    <position name="elbow_servo" joint="elbow" kp="50"/><position name="shoulder_servo" joint="shoulder" kp="50"/>
  </actuator></mujoco>
"""


def contract(**changes: Any) -> schema.Contract:
    """The shipped contract with some of its fields replaced: `safety={"hold": ...}` changes that field of safety only."""
    data = yaml.safe_load((share_directory() / "config/contracts/cartpole_swingup.yaml").read_text())
    for part, fields in changes.items():
        data[part] = {**data[part], **fields} if isinstance(fields, dict) else fields
    return schema.parse(data, "test")


def arm(folder: Path, **safety: Any) -> Simulator:
    """Two servos whose actuators stand in another order than the contract's joints."""
    (folder / "arm.xml").write_text(ARM)
    joints = [{"name": n, "low": -1.5, "high": 1.5, "units": "rad"} for n in ("shoulder", "elbow")]
    features = [{"joint": n, "field": "position", "units": "rad"} for n in ("shoulder", "elbow")]
    channel = {"name": "joints", "topic": "joint_states", "type": "sensor_msgs/msg/JointState", "max_age_s": 0.1, "features": features}
    return Simulator(
        contract(
            observation=[channel],
            action={"interface": "position", "joints": joints},
            safety={"hold": "last_position", **safety},
            simulator={
                "mjcf": "arm.xml",
                "actuators": {"shoulder": {"actuator": "shoulder_servo"}, "elbow": {"actuator": "elbow_servo"}},
                "start_position": {"elbow": {"mean": 0.5}},
                "start_velocity": {},
            },
        ),
        folder,
    )


def test_equal_seeds_give_equal_starts_and_others_do_not() -> None:
    simulator = Simulator(contract())
    states = []
    for entropy in ([0, 1], [0, 1], [0, 2]):
        simulator.reset(np.random.SeedSequence(entropy))
        states.append(np.concatenate([simulator.joints().position, simulator.joints().velocity]))
        simulator.command(np.array([7.0]))
        simulator.step_tick()
    np.testing.assert_array_equal(states[0], states[1])
    assert not np.array_equal(states[0], states[2])
    assert states[0][1] == pytest.approx(np.pi, abs=0.05)


def test_the_order_of_start_coordinates_in_the_contract_does_not_change_the_draw() -> None:
    shipped = contract()
    simulator, again = Simulator(shipped), Simulator(schema.from_json(shipped.canonical_json(), "test"))
    for s in (simulator, again):
        s.reset(np.random.SeedSequence([3, 1]))
    np.testing.assert_array_equal(simulator.joints().position, again.joints().position)


def test_a_run_after_a_reset_does_not_depend_on_what_came_before() -> None:
    simulator = Simulator(contract())
    ends = []
    for history in (0, 77):
        for _ in range(history):
            simulator.command(np.array([10.0]))
            simulator.step_tick()
        simulator.reset(np.random.SeedSequence([0, 1]))
        for _ in range(100):
            simulator.command(np.array([10.0]))
            simulator.step_tick()
        ends.append(np.concatenate([simulator.joints().position, simulator.joints().velocity]))
    np.testing.assert_array_equal(ends[0], ends[1])


def test_commands_are_in_newtons() -> None:
    simulator = Simulator(contract())
    simulator.command(np.array([5.0]))
    simulator.step_frame()
    joints = simulator.joints()
    assert joints.effort[joints.names.index("slider")] == pytest.approx(5.0)
    assert joints.velocity[0] == pytest.approx(5.0 / 1.1 * 0.01, rel=0.2)  # force over mass, times one frame


def test_commands_reach_actuators_by_name_not_by_order(tmp_path: Path) -> None:
    simulator = arm(tmp_path)
    for _ in range(400):
        simulator.command(np.array([0.0, 1.0]))
        simulator.step_tick()
    joints = dict(zip(simulator.joint_names, simulator.joints().position, strict=True))
    assert set(joints) == {"shoulder", "elbow"}
    assert joints["elbow"] > 0.7 and abs(joints["shoulder"]) < 0.5


def test_without_commands_the_actuator_falls_back_to_hold_after_its_timeout() -> None:
    simulator = Simulator(contract(safety={"command_timeout_s": 0.04}))
    assert simulator.holding
    simulator.command(np.array([10.0]))
    efforts = []
    for _ in range(6):
        simulator.step_frame()
        efforts.append(simulator.joints().effort[0])
    assert efforts == pytest.approx([10.0] * 4 + [0.0] * 2)
    assert simulator.holding and simulator.holds == 1


def test_a_command_within_the_timeout_keeps_hold_away() -> None:
    simulator = Simulator(contract(safety={"command_timeout_s": 0.04}))
    for _ in range(5):
        simulator.command(np.array([10.0]))
        simulator.step_tick()
    assert simulator.holds == 0 and not simulator.holding


def test_hold_may_be_a_value_for_each_joint() -> None:
    simulator = Simulator(contract(safety={"hold": {"slider": -2.0}}))
    simulator.step_frame()
    assert simulator.joints().effort[0] == pytest.approx(-2.0)


def test_hold_last_position_keeps_the_joints_where_they_were_when_commands_stopped(tmp_path: Path) -> None:
    simulator = arm(tmp_path)
    for _ in range(200):
        simulator.command(np.array([0.3, 0.9]))
        simulator.step_tick()
    for _ in range(3):
        simulator.step_tick()
    assert simulator.holding
    held = simulator.data.ctrl.copy()
    for _ in range(300):
        simulator.step_tick()
    np.testing.assert_array_equal(simulator.data.ctrl, held)
    assert held[[1, 0]] == pytest.approx(simulator.joints().position, abs=0.3)


def test_an_unstable_simulation_stops_with_a_reason_until_it_is_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    simulator = Simulator(contract())
    simulator.set_state({}, {"hinge_1": 1e12})
    for _ in range(5):
        simulator.step_tick()
    assert simulator.fault is not None and "unstable" in simulator.fault
    assert list(tmp_path.iterdir()) == []
    time_s = simulator.time_s
    simulator.step_tick()
    assert simulator.time_s == time_s
    simulator.reset(np.random.SeedSequence([0, 1]))
    simulator.step_tick()
    assert simulator.fault is None and np.isfinite(simulator.joints().position).all()


def test_sensor_samples_carry_all_joints_their_stamp_and_the_channels_frame() -> None:
    simulator = Simulator(contract())
    sample = read_channels(simulator.contract, simulator, 12_000_000_345)["joints"]
    assert (sample.header.stamp.sec, sample.header.stamp.nanosec, sample.header.frame_id) == (12, 345, "")
    assert sample.name == ["slider", "hinge_1"]
    assert len(sample.position) == len(sample.velocity) == len(sample.effort) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"control": {"rate_hz": 70}}, ["control.rate_hz", "timestep", "cartpole.xml"]),
        ({"control": {"rate_hz": 300}}, ["control.rate_hz", "0.01 s"]),
        ({"simulator": {"actuators": {"slider": {"actuator": "motor"}}}}, ["simulator.actuators.slider", "'motor'", "slide"]),
        ({"simulator": {"start_position": {"hinge": {"mean": 1.0}}}}, ["simulator.start_position", "'hinge'", "hinge_1"]),
        ({"simulator": {"mjcf": "nowhere.xml"}}, ["simulator.mjcf", "nowhere.xml"]),
        ({"simulator": None}, ["no 'simulator'"]),
    ],
)
def test_a_contract_that_does_not_fit_its_mjcf_is_refused_by_field(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        Simulator(contract(**changes))
    for word in words:
        assert word in str(caught.value)


def test_a_broken_mjcf_is_named(tmp_path: Path) -> None:
    (tmp_path / "cartpole.xml").write_text("<mujoco><worldbody>")
    with pytest.raises(UserError, match=r"cartpole\.xml: MuJoCo cannot load it"):
        Simulator(contract(), tmp_path)


def test_the_mjcf_beside_the_contract_comes_before_the_shipped_one(tmp_path: Path) -> None:
    shipped = (share_directory() / "sim/cartpole.xml").read_text()
    (tmp_path / "cartpole.xml").write_text(shipped.replace('timestep="0.01"', 'timestep="0.005"'))
    assert Simulator(contract(), tmp_path).frames_per_tick == 4
    assert Simulator(contract()).frames_per_tick == 2


def test_sensors_that_the_simulator_lacks_are_refused() -> None:
    imu = {
        "name": "imu", "topic": "imu", "type": "sensor_msgs/msg/Imu", "max_age_s": 0.1,
        "features": [{"field": "angular_velocity.x", "units": "rad/s"}],
    }  # fmt: skip
    joints = contract().model_dump(mode="json")["observation"][0]
    asked = contract(observation=[joints, imu])
    with pytest.raises(UserError, match="cannot stand in for sensor_msgs/msg/Imu, only for sensor_msgs/msg/JointState"):
        check_channels(asked, Simulator(asked))
    joints["features"][0]["joint"] = "rail"
    asked = contract(observation=[joints])
    with pytest.raises(UserError, match="no joint rail; it has slider, hinge_1"):
        check_channels(asked, Simulator(asked))
