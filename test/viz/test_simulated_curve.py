"""Several trainings in simulation as one curve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wm_ros.cli.main import run
from wm_ros.contract.errors import UserError
from wm_ros.viz.simulated_curve import read, write_curve


def training(folder: Path, seed: int, last: float, **changed: Any) -> Path:
    folder.mkdir()
    metrics = {"seed": seed, "frames": 100000, "updates": 49000, "train_s": 200.0, "evaluations": 5, "agent": "sac"}
    metrics |= {"contract": "dm_control_cartpole_swingup", "contract_hash": "a", "config": {}, "versions": {"torch": "2"}}
    (folder / "metrics.json").write_text(json.dumps(metrics | changed))
    rows = ["frames,updates,seconds,mean_return", "50000,24000,100,400.5", f"100000,49000,200,{last}"]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_the_page_has_every_seed_their_mean_and_what_was_published(tmp_path: Path) -> None:
    runs = [read(training(tmp_path / str(seed), seed, 700.0 + 100 * seed)) for seed in range(2)]
    paths = write_curve(runs, "dm_control_cartpole_swingup_sac", tmp_path / "results", "wm-ros train --seed SEED")
    assert [p.suffix for p in paths] == [".csv", ".json", ".png", ".md"] and all(p.is_file() for p in paths)
    page = paths[3].read_text()
    assert "| 0 | 100000 | 49000 | 700 | 700 | 200 | 245 |" in page and "each: **750**" in page
    assert "| sac (tdmpc2 repository) | 100000 | 835 |" in page
    assert paths[0].read_text().splitlines()[1] == "0,50000,24000,400.5"


def test_times_that_say_nothing_are_left_out_and_frames_to_a_return_are_counted(tmp_path: Path) -> None:
    runs = [read(training(tmp_path / str(seed), seed, 300.0 + 100 * seed)) for seed in range(2)]
    paths = write_curve(runs, "x", tmp_path / "results", "", bar=400.5, timed=False, note="Beside other work.")
    page = paths[3].read_text()
    assert "| seed | frames | updates | last return | best return | frames to 400.5 |" in page and "\nBeside other work.\n" in page
    assert "| 0 | 100000 | 49000 | 300 | 400 | 50000 |" in page
    assert all("train_s" not in metrics for metrics in json.loads(paths[1].read_text()))
    higher = write_curve(runs, "y", tmp_path / "results", "", bar=500.0)[3].read_text()
    assert "| 1 | 100000 | 49000 | 400 | 400 | not reached | 200 | 245 |" in higher


def test_labels_compare_settings_on_one_task(tmp_path: Path) -> None:
    runs = [read(training(tmp_path / "a", 0, 700.0)), read(training(tmp_path / "b", 0, 100.0, config={"symlog": False}))]
    paths = write_curve(runs, "x", tmp_path / "results", "", labels=["as shipped", "no symlog"])
    assert paths[0].read_text().splitlines()[:3:2] == ["label,seed,frames,updates,mean_return", "as shipped,0,100000,49000,700"]
    page = paths[3].read_text()
    assert "| no symlog | 0 | 100000 | 49000 | 100 | 400 |" in page and "Mean over seeds" not in page
    assert [metrics["label"] for metrics in json.loads(paths[1].read_text())] == ["as shipped", "no symlog"]


@pytest.mark.parametrize(
    ("labels", "changed", "said"),
    [
        (["x"], {}, "labels: 1 for 2 runs"),
        (["x", "x"], {"seed": 1, "config": {"symlog": False}}, "seed 1 has another config than seed 0: .* or --labels"),
        (["x", "y"], {"contract_hash": "b"}, "another contract_hash"),
        (["x", "x"], {}, "x 0, x 0 are not all different"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: list[str], changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    runs = [read(training(tmp_path / "a", 0, 1.0)), read(training(tmp_path / "b", **({"seed": 0, "last": 1.0} | changed)))]
    with pytest.raises(UserError, match=said):
        write_curve(runs, "x", tmp_path, "", labels=labels)


@pytest.mark.parametrize(
    ("seed", "changed", "said"), [(1, {"contract_hash": "b"}, "another contract_hash"), (0, {}, "not all different")]
)
def test_runs_that_are_no_one_curve_are_refused(seed: int, changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    runs = [read(training(tmp_path / "a", 0, 1.0)), read(training(tmp_path / "b", seed, 1.0, **changed))]
    with pytest.raises(UserError, match=said):
        write_curve(runs, "x", tmp_path, "")


def test_the_command_names_a_folder_that_holds_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["curve", str(training(tmp_path / "a", 0, 1.0)), "--command", "x", "--results", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "dm_control_cartpole_swingup_sac.md").is_file()
    assert run(["curve", str(tmp_path), "--command", "x"]) == 2
    assert f"{tmp_path}: no finished training" in capsys.readouterr().err
