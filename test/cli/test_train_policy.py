"""wm-ros train --bag with MBPO or SAC from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cartpole_bags import contract, write_cartpole
from one_thread import one_thread  # noqa: F401

from wm_ros.cli.main import run
from wm_ros.runtime.controller import ControllerSession
from wm_ros.training.offline_policy import OfflinePolicyTraining

AGENT = """
mbpo: {ensemble: {members: 3, elites: 2, layers: 2, width: 12}, rollouts: 4, model_every: 20, lengths: {first: 2, last: 2}}
sac: {layers: 2, width: 24}
fit: {batch: 32, warm_up: 64, updates_per_step: 1.0}
model_fit: {steps: 60, batch: 16, check_every: 20}
"""


@pytest.fixture
def begin(tmp_path: Path) -> list[str]:
    (tmp_path / "agent.yaml").write_text(AGENT)
    for number in range(3):
        write_cartpole(tmp_path / "bags" / f"episode_{number}", 40 + number)
    names = ["--contract", "cartpole_swingup", "--bag", str(tmp_path / "bags"), "--agent", str(tmp_path / "agent.yaml")]
    return ["train", *names, "--out", str(tmp_path / "run"), "--updates", "90", "--checkpoint-every", "25", "--seed", "3"]


@pytest.mark.parametrize("at", [30, 95])
def test_ctrl_c_and_resume_give_what_an_uninterrupted_training_gives(
    begin: list[str], at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped while the model is fitted, and while the policy learns."""
    assert run(begin) == 0
    assert "1 held out" in (out := capsys.readouterr().out) and "penalty " in out
    whole = {name: (tmp_path / "run" / name).read_bytes() for name in ("model.safetensors", "metrics.csv")}
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    session = ControllerSession.load(tmp_path / "run" / "controller.onnx", contract())
    assert {bag.path for bag in session.metadata.training_bags} == {bag["path"] for bag in metrics["training_bags"]}
    assert len(session.metadata.training_bags) == 2
    report = (tmp_path / "run" / "report.html").read_text()
    bag = Path(metrics["training_bags"][0]["path"]).name
    assert f"{metrics['pessimism']:.4g}" in report and "measured on held-out ticks" in report and bag in report

    step, steps = OfflinePolicyTraining.step, []

    def interrupted(self: OfflinePolicyTraining) -> str | None:
        steps.append(1)
        if len(steps) == at:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(OfflinePolicyTraining, "step", interrupted)
    other = [str(tmp_path / "other") if a == str(tmp_path / "run") else a for a in begin]
    assert run(other) == 130
    assert f"wm-ros train --out {tmp_path / 'other'} --resume" in capsys.readouterr().err
    assert run(["train", "--out", str(tmp_path / "other"), "--resume"]) == 0
    assert "going on after" in capsys.readouterr().out
    for name, data in whole.items():
        assert (tmp_path / "other" / name).read_bytes() == data
    again = json.loads((tmp_path / "other" / "metrics.json").read_text())
    assert again["pessimism_choice"] == metrics["pessimism_choice"]


def test_sac_from_bags_is_warned_of(begin: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "agent.yaml").write_text("sac: {layers: 2, width: 24}\nfit: {batch: 32, warm_up: 64}\n")
    assert run(begin) == 0
    assert "warning: sac from bags only guesses" in capsys.readouterr().out
    assert "Nothing: there is no model" in (tmp_path / "run" / "report.html").read_text()


def test_no_updates_are_refused(begin: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["0" if a == "90" else a for a in begin]) == 2
    assert "updates: 0 must be at least 1" in capsys.readouterr().err
