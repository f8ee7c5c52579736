"""wm-ros train --sim from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from one_thread import one_thread  # noqa: F401

from wm_ros.cli.main import run
from wm_ros.contract import schema
from wm_ros.training.simulated import SimulatedTraining


@pytest.fixture
def begin(tmp_path: Path) -> list[str]:
    """A short training of small networks on a short task."""
    data = schema.load("cartpole_swingup").model_dump(mode="json")
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({**data, "episode": {"duration_s": 0.6}}))
    agent = {"sac": {"layers": 2, "width": 24}, "fit": {"batch": 32, "warm_up": 64}}
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(agent))
    names = ["--contract", str(tmp_path / "task.yaml"), "--agent", str(tmp_path / "agent.yaml"), "--out", str(tmp_path / "run")]
    return ["train", "--sim", *names, "--frames", "300", "--evaluate-every", "200", "--evaluations", "2", "--seed", "3"]


def test_ctrl_c_and_resume_give_what_an_uninterrupted_training_gives(
    begin: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(begin) == 0
    out = capsys.readouterr().out
    assert "frame 200 of 300: mean return" in out and str(tmp_path / "run" / "controller.onnx") in out
    whole = {name: (tmp_path / "run" / name).read_bytes() for name in ("returns.csv", "model.safetensors")}
    report = (tmp_path / "run" / "report.html").read_text()
    assert "training in simulation" in report and report.count("<svg") == 2

    step, steps = SimulatedTraining.step, []

    def interrupted(self: SimulatedTraining) -> object:
        steps.append(1)
        if len(steps) == 110:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(SimulatedTraining, "step", interrupted)
    other = [str(tmp_path / "other") if a == str(tmp_path / "run") else a for a in begin]
    assert run(other) == 130
    said = capsys.readouterr().err
    assert "stopped after 218 of 300 frames" in said and f"wm-ros train --out {tmp_path / 'other'} --resume" in said
    assert run(["train", "--out", str(tmp_path / "other"), "--resume"]) == 0
    assert "going on after 218 of 300 frames" in capsys.readouterr().out
    for name, data in whole.items():
        assert (tmp_path / "other" / name).read_bytes() == data
    assert run(["train", "--out", str(tmp_path / "other"), "--resume"]) == 0
    assert "finished after 300 frames: --resume with more --frames makes this training longer" in capsys.readouterr().out
    for name, data in whole.items():
        assert (tmp_path / "other" / name).read_bytes() == data


def test_a_finished_training_made_longer_is_one_that_was_as_long_from_the_start(begin: list[str], tmp_path: Path) -> None:
    long = [{"300": "400", str(tmp_path / "run"): str(tmp_path / "long")}.get(a, a) for a in begin]
    assert run(long) == 0
    short = ["200" if a == "300" else a for a in begin]
    assert run(short) == 0
    assert run(["train", "--out", str(tmp_path / "run"), "--resume", "--frames", "400"]) == 0
    for name in ("returns.csv", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "long" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sim", "--bag", "bags", "--contract", "cartpole_swingup"], "bag: --sim learns from simulation alone"),
        (["--sim"], "contract: give either --contract or --env"),
        (["--sim", "--contract", "cartpole_swingup", "--env", "dm_control/walker_walk"], "contract: give either"),
        (["--sim", "--contract", "cartpole_swingup", "--action-repeat", "2"], "action_repeat: is for --env"),
        (["--sim", "--contract", "cartpole_swingup", "--frames", "0"], "frames: 0 must be at least 1"),
        (["--sim", "--contract", "cartpole_swingup", "--frames", "500"], "frames: 500 give 250 steps"),
        (["--sim", "--contract", "cartpole_swingup", "--agent", "pets"], "pets: unknown field; there are sac, fit"),
        (["--env", "dm_control/no_task"], "no such task"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", *arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_an_agent_with_a_wrong_field_is_refused_with_the_field(
    begin: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, said in (
        ("fit: {discount: 1.5}", "fit: discount 1.5 must be at least 0 and below 1"),
        ("fit: {batch: 64, warm_up: 10}", "fit: warm_up 10 must be at least the batch of 64"),
        ("sac: {depth: 3}", "sac.depth: unknown field"),
    ):
        (tmp_path / "agent.yaml").write_text(text)
        assert run(begin) == 2
        assert said in capsys.readouterr().err


def test_a_training_can_end_sooner_but_not_before_what_it_has_learned_from(
    begin: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = SimulatedTraining.step

    def stop(self: SimulatedTraining) -> object:
        if self.frames == 220:
            raise KeyboardInterrupt
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimulatedTraining, "step", stop)
        assert run(begin) == 130
    resume = ["train", "--out", str(tmp_path / "run"), "--resume", "--frames"]
    assert run([*resume, "200"]) == 2
    assert "frames: 200, and" in (said := capsys.readouterr().err) and "has learned from 220: give at least as many" in said
    assert run(begin) == 2
    assert "has a training in it" in capsys.readouterr().err
    assert run([*resume, "240"]) == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["frames"] == 240
