"""Each short fault of the table once, through real processes; `make soak` plays all of them many times."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fault.harness import Cell, Scenario, play
from fault.scenarios import SCENARIOS

QUICK = [s for s in SCENARIOS if s.quick]


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    made = Cell("faults", tmp_path_factory.mktemp("faults"))
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("scenario", QUICK, ids=[s.name for s in QUICK])
def test_every_fault_has_its_outcome_and_its_named_reason_and_no_command_is_unsafe(cell: Cell, scenario: Scenario) -> None:
    assert play(cell, scenario).violations == ()
