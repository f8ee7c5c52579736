"""The invariant monitor sees each kind of unsafe command; the soak's schedule and page are what they claim."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from fault.harness import Result, write_contract
from fault.invariants import Invariants
from fault.scenarios import SCENARIOS
from fault.soak import BEGIN, END, schedule, table, write

from wm_ros.contract import schema

NOW = 10**12
MS = 10**6
PERIOD = 20 * MS


@pytest.fixture
def invariants(tmp_path: Path) -> Invariants:
    made = Invariants(schema.load(write_contract(tmp_path)))
    for k in range(-20, 1):
        made.sensor("joint_states", NOW + k * PERIOD, NOW + k * PERIOD)
    assert made.faults("tiny:1", ["slider"], [1.0], NOW, NOW + MS) == []
    return made


def test_a_good_command_a_step_within_the_rate_limit_and_hold_at_once_are_no_faults(invariants: Invariants) -> None:
    assert invariants.faults("tiny:1", ["slider"], [8.9], NOW - 50 * MS, NOW + MS) == []
    assert invariants.faults("hold:estop", ["slider"], [0.0], NOW, NOW + MS) == []


def test_a_row_of_a_plan_is_no_fault_while_the_observation_behind_it_is_young_enough(invariants: Invariants) -> None:
    # The newest observation but one counts, since the newest may be on its way to the gate.
    assert invariants.faults("tiny:1+120ms", ["slider"], [1.0], NOW, NOW + MS) == []
    assert invariants.faults("tiny:1+121ms", ["slider"], [1.0], NOW, NOW + MS) == ["computed from an observation that is 0.101 s old"]
    assert invariants.faults("tiny:1+81ms", ["slider"], [1.0], NOW - 40 * MS, NOW + MS) != []


@pytest.mark.parametrize(
    ("source", "names", "values", "stamp", "fault"),
    [
        ("tiny:1", ["slider"], [10.1], NOW, "outside [-10.0, 10.0]"),
        ("tiny:1", ["slider"], [-7.1], NOW, "more than 200.0 N/s"),
        ("tiny:1", ["slider"], [math.nan], NOW, "not finite"),
        ("tiny:1", ["hinge_1"], [1.0], NOW, "joints"),
        ("tiny:1", ["slider"], [], NOW, "with 0 values"),
        ("tiny:1", ["slider"], [1.0], NOW - 121 * MS, "0.101 s old"),
        ("hold:estop", ["slider"], [0.1], NOW, "hold is [0.1]"),
    ],
)
def test_every_kind_of_unsafe_command_is_seen(
    invariants: Invariants, source: str, names: list[str], values: list[float], stamp: int, fault: str
) -> None:
    assert any(fault in found for found in invariants.faults(source, names, values, stamp, NOW + MS))


def test_the_schedule_follows_from_its_seed_and_holds_every_fault_as_often_as_asked() -> None:
    planned = schedule(SCENARIOS, 3, 7)
    assert planned == schedule(SCENARIOS, 3, 7) and planned != schedule(SCENARIOS, 3, 8)
    assert sorted(s.name for s, _ in schedule(SCENARIOS, 7, 0)[: 5 * len(SCENARIOS)]) == sorted(s.name for s in SCENARIOS for _ in range(5))
    names = [s.name for s, _ in planned]
    assert sorted(names) == sorted(s.name for s in SCENARIOS for _ in range(3)) and len(set(names)) == len(SCENARIOS)


def test_the_page_takes_the_table_between_its_marks_and_keeps_the_rest(tmp_path: Path) -> None:
    page, begin, end = tmp_path / "page.md", BEGIN.format("soak"), END.format("soak")
    page.write_text(f"before\n{begin}\nlast week's\n{end}\nafter\n")
    hold = SCENARIOS[0]
    results = [Result(hold, 0.030, ()), Result(hold, 0.050, ("wrong",))]
    write(page, table(results, SCENARIOS, 0.02))
    text = page.read_text()
    assert text.startswith(f"before\n{begin}\n| fault |") and text.endswith(f"{end}\nafter\n") and "last week" not in text
    assert "| 1 of 2 | 40 ms | 49 ms | 50 ms | 60 ms | 2 of 2 |" in text and text.count("\n| ") == 2
