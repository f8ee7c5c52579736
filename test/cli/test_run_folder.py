"""The folder of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from wm_ros.cli.run_folder import fresh
from wm_ros.contract.errors import UserError


def test_an_older_run_is_moved_aside_with_everything_in_it(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "demo"
    for content in ("first", "second"):
        folder, moved = fresh(run)
        assert folder == run and list(run.iterdir()) == []
        (run / "bag").write_text(content)
    folder, moved = fresh(run)
    assert moved is not None and moved.name.startswith("demo-") and (moved / "bag").read_text() == "second"
    kept = sorted((p / "bag").read_text() for p in run.parent.iterdir() if p != run)
    assert kept == ["first", "second"]


def test_an_empty_folder_is_used_as_it_is(tmp_path: Path) -> None:
    assert fresh(tmp_path) == (tmp_path, None)


def test_a_file_in_the_way_is_named_and_left(tmp_path: Path) -> None:
    file = tmp_path / "demo"
    file.write_text("mine")
    with pytest.raises(UserError, match="demo is a file"):
        fresh(file)
    assert file.read_text() == "mine"
