"""The gate's promises, one test each, on a clock that the test turns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from camera_bags import raw_image, scene, with_camera
from runtime.gate_bench import MS, Bench, arm_contract, cartpole, joint_state, working

from wm_ros.contract import schema
from wm_ros.contract.schema import Contract
from wm_ros.runtime.gate import Gate, Proposal

PERIOD = 20 * MS
TWO_PERIODS = 2 * PERIOD


def assert_holds_within_two_periods(bench: Bench, since: int, reason: str) -> None:
    held = [(at, o) for at, o in zip(bench.sent_at, bench.sent, strict=True) if at >= since and o.reason]
    assert held, "no hold was sent"
    at, first = held[0]
    assert at - since <= TWO_PERIODS
    assert first.reason == reason and first.controller == f"hold:{reason}"
    assert np.array_equal(first.values, [0.0])


# ---- passing on ------------------------------------------------------------------------------------------------------


def test_a_good_command_is_passed_on_at_once_with_its_stamp_and_its_controller() -> None:
    bench = working()
    bench.wait(20)
    bench.observe()
    sent = bench.command(3.5, controller="pets:3:1f2e3d4c")
    assert sent is not None
    assert sent.values.tolist() == [3.5] and sent.stamp_ns == bench.stamp
    assert sent.controller == "pets:3:1f2e3d4c" and sent.reason == ""


def test_a_robot_at_work_sees_no_hold() -> None:
    bench = working()
    bench.sent.clear()
    bench.run(100, 1.0)
    assert len(bench.sent) == 100 and not any(o.reason for o in bench.sent)
    assert bench.gate.interventions.total() == 0


def test_commands_that_come_late_but_within_the_timeout_do_not_trip_the_watchdog() -> None:
    bench = working()
    bench.sent.clear()
    for late in (14, 0, 14, 0):
        bench.wait(20 - late)
        bench.observe()
        bench.wait(late)
        bench.command(1.0)
    assert [o.reason for o in bench.sent] == [""] * 4


def test_joints_are_matched_by_name_and_permuted_ones_put_in_order() -> None:
    bench = working(arm_contract(rate_limit=None))
    bench.wait(10)
    bench.observe()
    sent = bench.command(0.3, -0.4, names=["elbow", "wrist"])
    assert sent is not None and sent.reason == ""
    assert sent.values.tolist() == [-0.4, 0.3]


# ---- safe action within two control periods -------------------------------------------------------------------------


def test_gate_holds_within_two_periods_of_the_last_command_of_a_killed_controller() -> None:
    bench = working()
    killed = bench.now
    for _ in range(5):
        bench.wait(20)
        bench.observe()
    assert_holds_within_two_periods(bench, killed, "command_timeout")


def test_gate_holds_within_two_periods_of_an_observation_becoming_older_than_its_limit() -> None:
    bench = working()
    stale_from = bench.now + int(1e9 * bench.contract.safety.max_observation_age_s)
    while bench.now < stale_from + TWO_PERIODS:
        bench.wait(20)
        bench.command(1.0)  # the controller goes on about the old observation
    assert_holds_within_two_periods(bench, stale_from, "stale_observation")


def test_a_sensor_that_repeats_its_last_sample_is_as_stale_as_a_silent_one() -> None:
    bench = working()
    stale_from = bench.now + int(1e9 * bench.contract.safety.max_observation_age_s)
    while bench.now < stale_from + TWO_PERIODS:
        bench.wait(20)
        bench.observe(stamp=bench.stamp)
        bench.command(1.0)
    assert_holds_within_two_periods(bench, stale_from, "stale_observation")


def test_one_silent_channel_of_two_is_enough_to_hold() -> None:
    bench = working(arm_contract())
    for _ in range(7):  # 70 ms: past the 50 ms of `near`, within the 100 ms of `far`
        bench.wait(10)
        bench.observe(channels=("far",))
        bench.command(0.1, 0.1)
    assert bench.last.reason == "stale_observation"


def test_a_channel_whose_stamps_lag_behind_the_others_is_stale_however_often_it_speaks() -> None:
    bench = working(arm_contract())
    lag = bench.stamp
    for _ in range(7):
        bench.wait(10)
        bench.observe(channels=("far",))
        now, lag = bench.stamp, lag + 1
        bench.observe(stamp=lag, channels=("near",))
        bench.stamp = now
        bench.command(0.1, 0.1)
    assert bench.last.reason == "stale_observation"


def seeing_cartpole() -> Contract:
    """The cart-pole with a camera of 10 Hz and a force sensor without stamps."""
    data = with_camera().model_dump(mode="json")
    features = [{"field": "force.x", "units": "N"}]
    channel = {"name": "push", "topic": "push", "type": "geometry_msgs/msg/Wrench", "clock": "receive", "max_age_s": 0.1}
    data["observation"].append({**channel, "features": features})
    data["safety"]["max_observation_age_s"] = 0.2
    return schema.parse(data, "test")


def drive(bench: Bench, periods: int, silent: str = "") -> None:
    wrench = SimpleNamespace(force=SimpleNamespace(x=1.0))
    for k in range(periods):
        bench.wait(20)
        if silent != "push":
            bench.gate.sensor("push", wrench, bench.now)
        if k % 5 == 0 and silent != "camera":
            bench.gate.sensor("camera", raw_image(scene(k), stamp=bench.stamp), bench.now)
        bench.observe(channels=("joints",))
        bench.command(1.0)


def test_a_robot_with_a_slow_camera_and_a_sensor_without_stamps_sees_no_hold() -> None:
    bench = Bench(seeing_cartpole())
    drive(bench, 2)
    assert bench.gate.arm() == ""
    drive(bench, 5)
    bench.sent.clear()
    drive(bench, 50)
    assert [o.reason for o in bench.sent] == [""] * 50
    assert [o.stamp_ns for o in bench.sent[-2:]] == [bench.stamp - PERIOD, bench.stamp]


@pytest.mark.parametrize("silent", ["camera", "push"])
def test_a_camera_or_a_sensor_without_stamps_that_falls_silent_is_stale(silent: str) -> None:
    bench = Bench(seeing_cartpole())
    drive(bench, 2)
    assert bench.gate.arm() == ""
    drive(bench, 10)
    assert bench.last.reason == ""
    drive(bench, 12, silent)  # 0.24 s; the camera may be 0.15 s old, the sensor 0.1 s
    assert bench.last.reason == "stale_observation"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_gate_holds_at_once_on_a_value_that_is_not_finite(value: float) -> None:
    bench = working()
    bench.wait(20)
    bench.observe()
    assert bench.command(value) is bench.last
    assert_holds_within_two_periods(bench, bench.now, "not_finite")
    assert bench.gate.interventions["clipped"] == 0, "it must be refused before limiting"


@pytest.mark.parametrize(
    ("names", "values", "reason"),
    [
        (["slider"], [], "wrong_size"),
        (["slider"], [1.0, 2.0], "wrong_size"),
        ([], [1.0], "wrong_size"),
        ([], [], "wrong_names"),
        (["wheel"], [1.0], "wrong_names"),
        (["slider", "wheel"], [1.0, 1.0], "wrong_names"),
        (["slider", "slider"], [1.0, 1.0], "wrong_names"),
    ],
)
def test_gate_holds_on_a_wrong_size_or_wrong_names(names: list[str], values: list[float], reason: str) -> None:
    bench = working()
    bench.wait(20)
    bench.observe()
    bench.command(*values, names=names)
    assert_holds_within_two_periods(bench, bench.now, reason)


def test_gate_holds_on_a_command_that_fills_another_interface() -> None:
    bench = working()
    bench.wait(20)
    bench.observe()
    bench.command(1.0, malformed="velocity")
    assert_holds_within_two_periods(bench, bench.now, "wrong_interface")


def test_gate_holds_on_command_stamps_that_run_backwards() -> None:
    bench = working()
    bench.wait(20)
    bench.observe()
    bench.command(1.0)
    bench.wait(5)
    bench.command(1.0, stamp=bench.stamp - PERIOD)
    assert_holds_within_two_periods(bench, bench.now, "time_backwards")


def test_gate_holds_when_the_sensors_clock_runs_backwards_until_it_is_armed_again() -> None:
    bench = working()
    set_back = bench.now
    bench.stamp -= 10**9
    for _ in range(10):
        bench.wait(20)
        bench.observe()
        bench.command(1.0)
    assert_holds_within_two_periods(bench, set_back, "time_backwards")
    assert bench.last.reason == "stale_observation" and bench.gate.interventions["sensor_backwards"] == 10
    bench.disarm()
    assert bench.gate.arm() == ""
    bench.run(1, 1.0)
    assert bench.last.reason == ""


def test_gate_holds_on_a_plan_older_than_its_limit() -> None:
    bench = working()
    old = bench.stamp
    for _ in range(6):
        bench.wait(20)
        bench.observe()
    assert bench.stamp - old > 1e9 * bench.contract.safety.max_plan_age_s
    bench.command(1.0, stamp=old + 1)
    assert bench.last.reason == "stale_plan"


def test_a_plan_just_within_its_limit_passes() -> None:
    bench = working()
    old = bench.stamp
    for _ in range(5):
        bench.wait(20)
        bench.observe()
    bench.command(1.0, stamp=old)
    assert bench.last.reason == ""


def test_gate_holds_on_a_command_from_the_future() -> None:
    bench = working()
    bench.command(1.0, stamp=bench.stamp + 10**9)
    assert bench.last.reason == "time_ahead"


def test_a_row_of_an_older_plan_passes_while_that_plan_is_young_enough_and_not_a_moment_longer() -> None:
    bench = working()
    for age_ms, reason in ((60, ""), (100, ""), (101, "stale_plan")):
        bench.wait(20)
        bench.observe()
        sent = bench.command(1.0, age_ns=age_ms * MS)
        assert sent is not None and sent.reason == reason
    assert bench.gate.followed == 2 and bench.gate.interventions["refused_stale_plan"] == 1


def test_the_age_of_a_row_is_added_to_that_of_its_stamp() -> None:
    bench = working()
    bench.wait(20)
    bench.observe()
    assert bench.command(1.0, age_ns=90 * MS, stamp=bench.stamp - PERIOD) is bench.last and bench.last.reason == "stale_plan"


def test_age_goes_on_while_the_next_observation_is_under_way() -> None:
    for late_ms, reason in ((20, ""), (21, "stale_plan")):
        bench = working()
        bench.wait(20)
        bench.observe()
        bench.wait(late_ms)
        bench.command(1.0, age_ns=80 * MS)
        assert bench.last.reason == reason


def test_a_plan_from_before_a_stop_is_not_gone_on_with_after_it() -> None:
    bench = working()
    bench.estop(True)
    bench.estop(False)
    assert bench.gate.arm() == ""
    armed_at = bench.stamp
    bench.wait(20)
    bench.observe()
    bench.command(1.0, age_ns=bench.stamp - armed_at + MS)
    assert bench.last.reason == "stale_plan"
    bench.command(1.0, age_ns=bench.stamp - armed_at)
    assert bench.last.reason == ""


def test_gate_holds_while_two_publishers_are_on_the_command_topic() -> None:
    bench = working()
    bench.wait(20)
    bench.observe()
    bench.command(1.0, publishers=2)
    assert_holds_within_two_periods(bench, bench.now, "two_publishers")
    bench.run(1, 1.0)
    assert bench.last.reason == ""


def test_a_silent_second_publisher_is_noticed_by_the_watchdog() -> None:
    bench = working()
    bench.gate.publishers(2)
    bench.wait(4)
    assert_holds_within_two_periods(bench, bench.now - 4 * MS, "two_publishers")


def test_a_gate_that_was_frozen_passes_nothing_of_what_waited_for_it() -> None:
    bench = working()
    bench.wait(500, watchdog=False)
    since = len(bench.sent)
    for _ in range(3):  # stamps that follow one another, all of them old
        bench.observe()
        bench.command(1.0)
    assert {sent.reason for sent in bench.sent[since:]} == {"gate_late"}
    bench.run(3, 1.0)
    assert bench.last.reason == "" and bench.gate.interventions["hold_gate_late"] == 1


def test_estop_holds_at_once_and_is_latched_until_it_is_released_and_armed_again() -> None:
    bench = working()
    pressed = bench.now
    bench.estop(True)
    assert_holds_within_two_periods(bench, pressed, "estop")
    assert "still pressed" in bench.gate.arm()
    bench.run(3, 1.0)
    assert bench.last.reason == "estop"
    bench.estop(False)
    bench.run(3, 1.0)
    assert bench.last.reason == "estop" and bench.gate.state == "stopped"
    assert bench.gate.arm() == ""
    bench.run(1, 1.0)
    assert bench.last.reason == "" and bench.gate.state == "armed"


def test_disarm_holds_at_once_and_lets_nothing_through() -> None:
    bench = working()
    bench.disarm()
    assert_holds_within_two_periods(bench, bench.now, "disarmed")
    bench.run(5, 1.0)
    assert all(o.reason == "disarmed" for o in bench.sent[3 + 1 :])


def test_a_gate_begins_disarmed() -> None:
    bench = Bench(cartpole())
    bench.run(3, 1.0)
    assert bench.sent and all(o.reason == "disarmed" for o in bench.sent)


def test_an_armed_gate_holds_until_the_first_command() -> None:
    bench = Bench(cartpole())
    bench.gate.arm()
    bench.observe()
    bench.wait(100)
    assert {o.reason for o in bench.sent} == {"no_command"}


def test_nothing_is_sent_before_the_first_observation() -> None:
    bench = Bench(cartpole())
    bench.gate.arm()
    bench.wait(100)
    bench.command(1.0, stamp=10**9)
    bench.estop(True)
    assert bench.sent == []


def test_hold_goes_out_once_per_period_while_the_fault_lasts() -> None:
    bench = working()
    bench.disarm()
    bench.sent_at.clear()
    bench.wait(200)
    assert len(bench.sent_at) == 10
    assert set(np.diff(bench.sent_at)) == {PERIOD}


def test_the_next_good_command_ends_a_hold() -> None:
    bench = working()
    bench.wait(20)
    bench.observe()
    bench.command(math.nan)
    bench.run(1, 1.0)
    assert bench.last.reason == "" and bench.gate.reason(bench.now) == ""


# ---- the safe action -------------------------------------------------------------------------------------------------


def test_last_position_holds_the_position_at_the_beginning_of_the_hold_and_does_not_creep() -> None:
    bench = working(arm_contract())
    bench.wait(10)
    bench.observe(elbow=0.2, wrist=-0.3)
    bench.disarm()
    assert bench.last.values.tolist() == [-0.3, 0.2]
    for sag in (0.21, 0.25, 0.3):
        bench.wait(10)
        bench.observe(elbow=sag, wrist=-0.3)
    assert bench.last.reason == "disarmed" and bench.last.values.tolist() == [-0.3, 0.2]


def test_last_position_is_measured_again_after_the_robot_was_put_elsewhere() -> None:
    bench = working(arm_contract())
    bench.disarm()
    bench.observe(stamp=bench.stamp + 2 * 10**9, elbow=0.4, wrist=0.5)
    bench.wait(10)
    assert bench.last.values.tolist() == [0.5, 0.4]


def test_last_position_is_kept_within_the_limits() -> None:
    bench = working(arm_contract())
    bench.wait(10)
    bench.observe(elbow=-0.7, wrist=1.4)
    bench.disarm()
    assert bench.last.values.tolist() == [1.0, -0.5]


def test_hold_can_be_a_value_for_every_joint() -> None:
    bench = working(arm_contract(hold={"elbow": 0.1, "wrist": 0.2}))
    bench.disarm()
    assert bench.last.values.tolist() == [0.2, 0.1]


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_commands_are_clipped_to_the_limits_and_counted() -> None:
    bench = working()
    bench.run(1, 99.0)
    assert bench.last.values.tolist() == [10.0]
    bench.run(1, -99.0)
    assert bench.last.values.tolist() == [-10.0]
    assert bench.gate.interventions["clipped"] == 2


def test_commands_change_no_faster_than_the_rate_limit() -> None:
    bench = working(arm_contract(rate_limit=2.0))
    start = bench.last.values
    bench.run(5, 1.0, 1.0)
    steps = np.diff([start, *(o.values for o in bench.sent[-5:])], axis=0)
    assert np.allclose(steps, 2.0 * 0.01)
    assert bench.gate.interventions["rate_limited"] >= 5


def test_two_commands_at_the_same_instant_stay_finite_where_no_rate_is_limited() -> None:
    bench = working()
    bench.run(1, 1.0)
    bench.command(2.0)
    assert bench.last.values.tolist() == [2.0]


def test_two_commands_in_a_burst_share_one_steps_worth_of_rate() -> None:
    bench = working(arm_contract(rate_limit=2.0))
    start = bench.last.values
    bench.wait(10)
    bench.observe()
    bench.command(1.0, 1.0)
    bench.command(1.0, 1.0)
    assert np.allclose(bench.last.values - start, 2.0 * 0.01)


def test_a_pause_earns_no_larger_step_than_two_periods() -> None:
    bench = working(arm_contract(hold={"elbow": 0.0, "wrist": 0.0}, rate_limit=2.0))
    bench.wait(10)
    bench.wait(500, watchdog=False)
    bench.observe()
    bench.command(1.0, 1.0)
    assert np.all(bench.last.values <= 0.1 + 2.0 * 0.02 + 1e-9)


# ---- choosing a controller ------------------------------------------------------------------------------------------


def test_only_the_selected_controller_is_heard() -> None:
    bench = working()
    assert bench.command(5.0, source="policy") is None
    bench.gate.select("policy")
    bench.wait(20)
    bench.observe()
    assert bench.command(5.0, source="mpc") is None
    sent = bench.command(4.0, source="policy")
    assert sent is not None and sent.values.tolist() == [4.0]


# ---- counting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "counter"),
    [
        (lambda b: b.command(math.nan), "refused_not_finite"),
        (lambda b: b.command(1.0, 2.0), "refused_wrong_size"),
        (lambda b: b.command(1.0, names=["x"]), "refused_wrong_names"),
        (lambda b: b.command(1.0, stamp=0), "refused_time_backwards"),
        (lambda b: b.command(1.0, publishers=2), "refused_two_publishers"),
        (lambda b: b.estop(True), "hold_estop"),
        (lambda b: b.disarm(), "hold_disarmed"),
        (lambda b: b.wait(60), "hold_command_timeout"),
        (lambda b: b.gate.sensor("joints", joint_state(0, slider=0.0, hinge_1=0.0), b.now), "sensor_backwards"),
        (lambda b: b.gate.sensor("joints", joint_state(2 * 10**9, slider=math.nan, hinge_1=0.0), b.now), "sensor_non_finite"),
        (lambda b: b.gate.sensor("joints", joint_state(2 * 10**9, hinge_1=0.0), b.now), "sensor_missing_joint"),
    ],
)
def test_every_intervention_is_counted_by_its_reason(fault: Callable[[Bench], object], counter: str) -> None:
    bench = working()
    before = bench.gate.interventions[counter]
    fault(bench)
    assert bench.gate.interventions[counter] == before + 1


# ---- lockstep -------------------------------------------------------------------------------------------------------


def test_lockstep_answers_each_observation_once_with_its_stamp() -> None:
    bench = Bench(cartpole(), lockstep=True)
    bench.gate.arm()
    for k in range(50):
        assert bench.observe() is None
        bench.command(float(k % 7))
        bench.command(9.0)
    assert [o.stamp_ns for o in bench.sent] == [10**9 + (k + 1) * PERIOD for k in range(50)]
    assert [o.values[0] for o in bench.sent] == [float(k % 7) for k in range(50)]


def test_lockstep_disarmed_answers_each_observation_with_hold() -> None:
    bench = Bench(cartpole(), lockstep=True)
    for _ in range(3):
        answer = bench.observe()
        assert answer is not None and answer.reason == "disarmed" and answer.stamp_ns == bench.stamp
        assert bench.command(1.0) is None
        bench.wait(100)
    assert len(bench.sent) == 3


def test_lockstep_does_not_answer_a_repeated_observation_again() -> None:
    bench = Bench(cartpole(), lockstep=True)
    bench.observe()
    bench.observe(stamp=bench.stamp)
    assert len(bench.sent) == 1


def test_lockstep_repeats_a_lost_answer_when_the_observation_is_sent_again_later() -> None:
    bench = Bench(cartpole(), lockstep=True)
    bench.gate.arm()
    bench.observe()
    answer = bench.command(2.0)
    bench.wait(500)
    again = bench.observe(stamp=bench.stamp)
    assert answer is not None and answer.values.tolist() == [2.0] and again is answer


def test_lockstep_repeats_no_command_after_a_stop() -> None:
    bench = Bench(cartpole(), lockstep=True)
    bench.gate.arm()
    bench.observe()
    bench.command(2.0)
    bench.estop(True)
    bench.wait(500)
    again = bench.observe(stamp=bench.stamp)
    assert again is not None and again.reason == "estop" and again.values.tolist() == [0.0]


def test_lockstep_waits_for_the_command_and_holds_only_after_its_timeout() -> None:
    bench = Bench(cartpole(), lockstep=True)
    bench.gate.arm()
    bench.observe()
    bench.wait(4990)
    assert bench.sent == []
    bench.wait(20)
    assert [o.reason for o in bench.sent] == ["command_timeout"] and bench.last.stamp_ns == bench.stamp


def test_lockstep_does_not_mind_how_long_the_simulator_stood_still() -> None:
    bench = working(lockstep=True)
    bench.wait(60_000)
    bench.run(1, 2.0)
    assert bench.last.reason == "" and bench.last.values.tolist() == [2.0]


def test_lockstep_keeps_a_command_that_overtook_its_observation() -> None:
    bench = working(lockstep=True)
    assert bench.command(3.0, stamp=bench.stamp + PERIOD) is None
    sent = bench.observe()
    assert sent is not None and sent.values.tolist() == [3.0] and sent.stamp_ns == bench.stamp


def test_lockstep_ignores_an_answer_that_comes_too_late() -> None:
    bench = working(lockstep=True)
    bench.observe()
    assert bench.command(3.0, stamp=bench.stamp - PERIOD) is None
    assert bench.gate.interventions["late_command"] == 1
    sent = bench.command(4.0)
    assert sent is not None and sent.values.tolist() == [4.0]


def test_lockstep_answers_a_refused_command_with_hold_at_once() -> None:
    bench = working(lockstep=True)
    bench.observe()
    sent = bench.command(math.nan)
    assert sent is not None and sent.reason == "not_finite" and sent.stamp_ns == bench.stamp


@pytest.mark.parametrize("stop", [lambda b: b.disarm(), lambda b: b.estop(True)])
def test_lockstep_stop_answers_the_observation_that_waits(stop: Callable[[Bench], object]) -> None:
    bench = working(lockstep=True)
    bench.observe()
    stop(bench)
    assert bench.last.reason in ("disarmed", "estop") and bench.last.stamp_ns == bench.stamp


def test_lockstep_arming_again_after_a_stop_goes_on_with_the_next_observation() -> None:
    bench = working(lockstep=True)
    bench.disarm()
    bench.observe()
    bench.gate.arm()
    bench.run(2, 1.0)
    assert [o.reason for o in bench.sent[-3:]] == ["disarmed", "", ""]


def test_lockstep_answers_when_all_channels_of_a_tick_have_come() -> None:
    bench = Bench(arm_contract(), lockstep=True)
    bench.gate.arm()
    bench.observe()
    bench.command(0.0, 0.0)
    stamp = bench.stamp + 10 * MS
    bench.observe(stamp=stamp, channels=("near",))
    assert bench.command(0.1, 0.1, stamp=stamp) is None
    sent = bench.observe(stamp=stamp, channels=("far",))
    assert sent is not None and sent.stamp_ns == stamp and sent.reason == ""


def test_lockstep_follows_a_simulator_that_began_anew() -> None:
    bench = working(lockstep=True)
    bench.stamp = 0
    bench.run(2, 1.0)
    assert [o.reason for o in bench.sent[-2:]] == ["", ""] and bench.last.stamp_ns == 2 * PERIOD


def test_lockstep_limits_the_rate_by_simulated_time() -> None:
    bench = working(arm_contract(rate_limit=2.0), lockstep=True)
    start = bench.last.values
    for _ in range(3):
        bench.wait(3000)  # a slow machine changes nothing
        bench.observe()
        bench.command(1.0, 1.0)
    assert np.allclose(np.diff([start, *(o.values for o in bench.sent[-3:])], axis=0), 2.0 * 0.01)


def test_the_first_command_after_start_is_limited_from_where_the_robot_is() -> None:
    bench = Bench(arm_contract(rate_limit=2.0))
    bench.gate.arm()
    bench.observe(elbow=0.3, wrist=-0.6)
    bench.command(1.0, 1.0)
    assert np.allclose(bench.last.values, [-0.6 + 2.0 * 0.01, 0.3 + 2.0 * 0.01])


# ---- bumpless transfer -----------------------------------------------------------------------------------------------


def passed(bench: Bench) -> list[float]:
    """First joint of every command that was passed on, rounded."""
    return [round(float(o.values[0]), 9) for o in bench.sent if not o.reason]


@pytest.mark.parametrize("lockstep", [False, True])
def test_nothing_is_blended_where_nothing_switches_nor_at_the_start(lockstep: bool) -> None:
    bench, plain = Bench(cartpole(), lockstep, blend_s=0.1), Bench(cartpole(), lockstep)
    for each in (bench, plain):
        for _ in range(2):  # the second time after a disarm, as between two episodes
            assert each.gate.arm() == ""
            for force in (8.0, -8.0, 3.3):
                each.run(3, force)
            each.disarm()
            each.run(3, 5.0)
    assert [(o.values.tobytes(), o.stamp_ns, o.controller) for o in bench.sent] == [
        (o.values.tobytes(), o.stamp_ns, o.controller) for o in plain.sent
    ]
    assert bench.gate.interventions["blended"] == 0 and len(passed(bench)) == 18


def test_after_a_hold_that_interrupted_the_command_comes_back_step_by_step() -> None:
    bench = working(blend_s=0.1)
    bench.wait(60)
    assert bench.last.reason == "command_timeout" and bench.last.values.tolist() == [0.0]
    bench.sent.clear()
    bench.run(7, 5.0)
    assert passed(bench) == [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0]
    assert bench.gate.interventions["blended"] == 1


def test_between_two_sources_the_command_moves_from_the_ones_last_to_the_others() -> None:
    bench = working(blend_s=0.1)
    bench.run(1, -5.0)
    bench.gate.select("policy")
    bench.sent.clear()
    bench.run(6, 5.0, source="policy")
    assert passed(bench) == [-3.0, -1.0, 1.0, 3.0, 5.0, 5.0]


def test_hold_is_never_blended_also_in_the_middle_of_a_transfer() -> None:
    bench = working(blend_s=1.0)
    bench.run(5, 9.0)
    bench.wait(60)
    bench.run(5, 9.0)
    assert 0 < bench.last.values[0] < 9
    stop = bench.estop(True)
    assert stop is not None and stop.values.tolist() == [0.0]


def test_in_lockstep_the_transfer_runs_on_the_robots_time() -> None:
    bench = working(lockstep=True, blend_s=0.1)
    bench.observe()
    bench.wait(6000)
    assert bench.last.reason == "command_timeout"
    bench.sent.clear()
    for _ in range(6):
        bench.wait(400)
        bench.observe()
        bench.command(5.0)
    assert passed(bench) == [1.0, 2.0, 3.0, 4.0, 5.0, 5.0]


def test_a_transfer_stays_within_limits_and_rate_limit() -> None:
    bench = working(arm_contract(rate_limit=2.0), blend_s=0.05)
    bench.wait(60)
    begin = bench.last.values
    bench.sent.clear()
    bench.run(60, 99.0, 99.0)
    steps = np.diff(np.array([begin, *(o.values for o in bench.sent)]), axis=0)
    assert steps.max() <= 2.0 * 2 * 0.01 + 1e-9 and (steps >= 0).all()
    assert bench.last.values.tolist() == [j.high for j in bench.contract.action.joints]


def test_a_transfer_is_forgotten_where_a_simulator_begins_anew() -> None:
    bench = working(lockstep=True, blend_s=10.0)
    bench.observe()
    bench.wait(6000)
    bench.run(2, 5.0)
    bench.observe(stamp=10**8)  # time runs backwards: another simulator
    sent = bench.command(5.0)
    assert sent is not None and sent.values.tolist() == [5.0]


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("order", list(itertools.permutations(["joints", "camera", "command"])), ids="-".join)
def test_in_lockstep_a_tick_is_answered_once_it_is_whole_in_whatever_order_its_messages_come(every: int, order: tuple[str, ...]) -> None:
    """After a reset the last picture is seconds old: without waiting, hold would answer whenever the joints come first."""
    data = with_camera().model_dump(mode="json")
    data["simulator"]["cameras"] = {"camera": {"camera": "fixed", "every": every}}
    gate = Gate(schema.parse(data, "test"), lockstep=True)
    gate.arm()
    for reset in (10**9, 31 * 10**9):
        for tick in range(7):
            stamp = reset + tick * PERIOD
            do = {
                "joints": lambda stamp=stamp: gate.sensor("joints", joint_state(stamp, slider=0.0, hinge_1=0.0), stamp),
                "camera": lambda stamp=stamp: gate.sensor("camera", raw_image(scene(0), stamp=stamp), stamp),
                "command": lambda stamp=stamp: gate.command("mpc", Proposal(["slider"], [1.0], stamp, "test"), stamp),
            }
            sent = [answer for what in order if what != "camera" or tick % every == 0 if (answer := do[what]()) is not None]
            assert [(o.stamp_ns, o.reason, o.values.tolist()) for o in sent] == [(stamp, "", [1.0])]
    assert gate.held == 0 and not gate.interventions.total()
