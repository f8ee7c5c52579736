"""What a camera may do to a robot that looks at it, through real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fault.harness import Cell, Scenario, play
from fault.scenarios import CAMERAS, SEEING
from gl import pictures_or_skip


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    pictures_or_skip()
    made = Cell("camera_faults", tmp_path_factory.mktemp("camera_faults"), SEEING)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("scenario", CAMERAS, ids=[s.name for s in CAMERAS])
def test_a_camera_that_fails_brings_the_safe_action_and_is_named(cell: Cell, scenario: Scenario) -> None:
    assert play(cell, scenario).violations == ()
