"""The evidence of a learning check as files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from wm_ros.viz.learning_curve import published, write_results


def summary(seed: int) -> dict[str, Any]:
    returns = {"training_returns": [100.0, 500.0 + seed], "evaluation_returns": [800.0 + seed, 820.0 + seed]}
    return {"seed": seed, "contract_hash": "ab", **returns}


def test_every_episode_of_every_seed_is_a_row_with_the_frames_that_its_controller_had_learned_from(tmp_path: Path) -> None:
    rows_path, facts, picture, page = write_results([summary(0), summary(4)], "cartpole_swingup_pets", tmp_path, "the command", "| table |")
    with rows_path.open() as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows[:4] == [
        ("0", "train", "0", "0", "100.0"),
        ("0", "train", "1", "1000", "500.0"),
        ("0", "evaluate", "2", "2000", "800.0"),
        ("0", "evaluate", "3", "2000", "820.0"),
    ]
    assert len(rows) == 8 and rows[4][0] == "4"
    assert [fact["seed"] for fact in json.loads(facts.read_text())] == [0, 4]
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "`the command`" in text and "**812**" in text and "**810**" in text and "| table |" in text


def test_published_curves_are_found_by_the_task_and_averaged_over_their_rows() -> None:
    curves = published("cartpole_swingup_pets")
    assert dict(curves["tdmpc2 (tdmpc2 repository)"])[100000.0] == 839.4
    assert all(frames == sorted(frames) for frames in ([x for x, _ in points] for points in curves.values()))
    assert published("another_task") == {}
