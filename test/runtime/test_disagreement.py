"""A plan about which the ensemble disagrees more than it did about recorded data is reported, slowed, left to the policy, or held."""

from __future__ import annotations

import itertools
import json
import queue
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_controller as tiny

from wm_ros.contract import schema
from wm_ros.contract.assembler import Observation
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.runtime.answer import Answer
from wm_ros.runtime.calibrated_level import Level
from wm_ros.runtime.control_loop import ControlLoop
from wm_ros.runtime.controller import ControllerOutput, ControllerSession
from wm_ros.runtime.disagreement import PATIENCE, Watch, disagreement, rest_action

LEVEL = {"level": 2.0, "quantile": 0.99, "scale": [1.0, 2.0, 2.0, 4.0, 0.5], "windows": 50, "data": "held_out"}
OBSERVATION = np.array([0.1, 0.6, 0.8, 0.0, 0.0], np.float32)


def cautious(action: str, **safety: Any) -> Contract:
    data = json.loads(tiny.contract().canonical_json())
    data["safety"] |= {"on_disagreement": action, **safety}
    return schema.parse(data, "test")


def output(ratio: float, action: float = 4.0) -> ControllerOutput:
    """A plan whose disagreement is so many times the level."""
    spread = np.full((7, 1), 2.0 * ratio) * np.array(LEVEL["scale"])
    return ControllerOutput(np.array([action], np.float32), True, "", {"plan.spread": spread.astype(np.float32)})


def watch(action: str) -> Watch:
    made = Watch(cautious(action))
    made.begin(Level.model_validate(LEVEL))
    return made


def after(made: Watch, *ratios: float) -> ControllerOutput:
    for ratio in ratios:
        last = made.judge(output(ratio), OBSERVATION)
    return last


def test_disagreement_is_the_root_mean_square_of_the_spread_in_units_of_each_column() -> None:
    spread = np.array([[1.0, 0.0], [3.0, 8.0]], np.float32)
    assert disagreement(spread, np.array([1.0, 2.0])) == pytest.approx(np.sqrt((1 + 0 + 9 + 16) / 4))


def test_one_plan_above_the_level_changes_nothing_and_three_in_a_row_do_until_three_are_below() -> None:
    made = watch("hold")
    assert after(made, 5.0, 5.0, 0.5, 5.0, 5.0).ok and not made.above
    held = after(made, 5.0)
    assert not held.ok and "plans disagree 5.0 times as much as on recorded data: hold" in held.reason
    assert not after(made, 0.5, 0.5, 5.0, 0.5, 0.5).ok
    assert after(made, 0.5).ok and made.reason == ""


@pytest.mark.parametrize(
    ("action", "ok", "force"), [("report", True, 4.0), ("slow", True, 1.0), ("policy", False, 4.0), ("hold", False, 4.0)]
)
def test_each_action_does_what_the_contract_says(action: str, ok: bool, force: float) -> None:
    made = watch(action)
    last = after(made, *[4.0] * PATIENCE)
    assert last.ok is ok and last.action.tolist() == [force] and made.ratio == pytest.approx(4.0) and made.reason


def test_slowing_leads_towards_hold_also_where_hold_is_not_zero() -> None:
    made = Watch(cautious("slow", hold={"slider": 2.0}))
    made.begin(Level.model_validate(LEVEL))
    assert after(made, 2.0, 2.0, 2.0).action.tolist() == [3.0]


def test_a_measured_position_is_found_in_the_observation_also_as_sine_and_cosine() -> None:
    data = json.loads(tiny.contract().canonical_json())
    data["action"] |= {"interface": "position"}
    data["action"]["joints"] = [{"name": n, "low": -3.0, "high": 3.0, "units": "rad"} for n in ("hinge_1", "slider")]
    data["safety"] |= {"hold": "last_position"}
    data["simulator"] = None
    rest = rest_action(schema.parse(data, "test"), OBSERVATION)
    np.testing.assert_allclose(rest, [np.arctan2(0.6, 0.8), 0.1], rtol=1e-6)


def test_a_new_episode_and_a_new_controller_begin_without_a_past() -> None:
    for forget in (Watch.reset, lambda made: made.begin(None)):
        made = watch("hold")
        assert not after(made, 5.0, 5.0, 5.0).ok
        forget(made)
        assert after(made, 5.0, 5.0).ok and not made.above


def test_a_controller_without_a_level_is_not_judged() -> None:
    made = Watch(cautious("report"))
    made.begin(None)
    assert after(made, 99.0, 99.0, 99.0).ok and made.ratio is None


# ---- loading -----------------------------------------------------------------------------------------------------------


def test_a_contract_that_only_reports_keeps_the_hash_that_it_had_before_there_was_a_choice() -> None:
    assert "on_disagreement" not in tiny.contract().canonical_json()
    assert cautious("report").hash == tiny.contract().hash != cautious("hold").hash


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"level": -1.0}, "calibration.disagreement.level: "),
        ({"level": "high"}, "calibration.disagreement.level: "),
        ({"scale": [1.0]}, "calibration.disagreement.scale has 1 columns, the contract has 5"),
        ({"scale": [0.0] * 5}, "calibration.disagreement.scale.0: "),
        ({"more": 1}, "calibration.disagreement.more: "),
    ],
)
def test_a_damaged_level_is_refused_by_its_field(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    path = tiny.constant(tmp_path / "c.onnx", calibration={"disagreement": LEVEL | change})
    with pytest.raises(UserError, match=fault):
        ControllerSession.load(path, tiny.contract())


def test_an_ensemble_without_a_level_is_refused_where_the_contract_acts_on_it_and_one_without_an_ensemble_is_not(tmp_path: Path) -> None:
    contract = cautious("slow")
    with pytest.raises(UserError, match=r"has no calibrated disagreement, which the contract's safety\.on_disagreement: slow needs"):
        ControllerSession.load(tiny.feedback(tmp_path / "spread.onnx", for_contract=contract), contract)
    assert ControllerSession.load(tiny.constant(tmp_path / "none.onnx", for_contract=contract), contract).disagreement_level is None


# ---- in the loop ---------------------------------------------------------------------------------------------------------


def test_the_loop_leaves_the_robot_to_the_policy_and_takes_it_back_in_a_new_episode(tmp_path: Path) -> None:
    contract = cautious("policy")
    level = LEVEL | {"level": 1e-3}  # the tiny controller's spread is 0.25 everywhere
    path = tiny.feedback(tmp_path / "c.onnx", for_contract=contract, calibration={"disagreement": level})
    ready = [ControllerSession.load(path, contract)]
    served: queue.Queue[ControllerSession] = queue.Queue()
    told: queue.Queue[bool] = queue.Queue()
    sent: list[Answer] = []
    loop = ControlLoop(
        contract, 0, True, lambda: 0, sent.append, lambda _: None, lambda: ready.pop() if ready else None, served.put, told.put
    )
    loop.start()
    try:
        served.get(timeout=60)
        stamps = itertools.count(step=contract.control.period_ns)

        def act_until_told() -> bool:
            for _ in range(1000):
                loop.offer(Observation(OBSERVATION, next(stamps), 0), 0)
                with suppress(queue.Empty):
                    return told.get(timeout=0.05)
            raise AssertionError("never told")

        assert act_until_told() is True and "left to the policy" in loop.disagreement.reason
        assert len(sent) == PATIENCE - 1, "the plans before were not yet enough"
        stamps = itertools.count(10**12, contract.control.period_ns)  # a gap: a new episode
        assert act_until_told() is False
    finally:
        loop.close()
