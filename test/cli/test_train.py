"""wm-ros train: bags in, a controller out, whatever comes between."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cartpole_bags import contract, write_cartpole

from wm_ros.cli import main
from wm_ros.cli.train import Display
from wm_ros.export.template import write_atomically
from wm_ros.runtime.controller import ControllerSession
from wm_ros.training import offline
from wm_ros.training.fit import Fit

AGENT = """
pets:
  stride: 2
  ensemble: {members: 3, elites: 2, layers: 2, width: 8}
  planner: {horizon: 3, candidates: 8, iterations: 2, elites: 4, kept: 2}
fit: {steps: 120, check_every: 20, batch: 16}
"""
KILLED_AT = """
import os, signal, sys
from wm_ros.cli import main
from wm_ros.training.fit import Fit
step = Fit.step
def until_killed(self):
    if self.done == 77:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self)
Fit.step = until_killed
main.run(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    (folder / "agent.yaml").write_text(AGENT)
    for number in range(3):
        write_cartpole(folder / "bags" / f"episode_{number}", 40 + number)
    write_cartpole(folder / "bags" / "idle", 20, skip_command=frozenset(range(20)))
    return folder


@pytest.fixture(autouse=True)
def one_thread_and_signals(room: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("XDG_CACHE_HOME", str(room / "cache"))
    threads = torch.get_num_threads()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def command(room: Path, out: Path, *more: str) -> list[str]:
    agent = str(room / "agent.yaml")
    begin = ["train", "--contract", "cartpole_swingup", "--bag", str(room / "bags"), "--agent", agent, "--out", str(out)]
    return [*begin, "--checkpoint-every", "50", *more]


@pytest.fixture(scope="module")
def whole(room: Path) -> Path:
    """A training that nobody interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(room / "cache"))
        assert main.run(command(room, room / "whole")) == 0
    return room / "whole"


def test_a_folder_of_bags_becomes_a_controller_with_metrics_and_a_report(whole: Path) -> None:
    files = {p.name for p in whole.iterdir()}
    assert files == {"controller.onnx", "model.safetensors", "metrics.json", "metrics.csv", "report.html", "tensorboard"}
    metrics = json.loads((whole / "metrics.json").read_text())
    session = ControllerSession.load(whole / "controller.onnx", contract())
    assert session.metadata.episodes == metrics["episodes"] == 2 and len(metrics["held_out"]) == 1
    learned, held = {bag.path for bag in session.metadata.training_bags}, {e["bag"] for e in metrics["held_out"]}
    assert len(learned) == 2 and not learned & held, "the controller names what it has learned from, and nothing else"
    assert len(metrics["open_loop"]["coverage_90"]) == len(metrics["open_loop"]["rmse"]) == 3
    rows = (whole / "metrics.csv").read_text().splitlines()
    assert rows[0] == "step,train_loss,validation_error,learning_rate"
    assert [int(row.split(",")[0]) for row in rows[1:]] == [20, 40, 60, 80, 100, 120]
    report = (whole / "report.html").read_text()
    assert "Open-loop error and calibration" in report and "inside the 90 % interval" in report and "idle: /command: no messages" in report


def test_a_single_bag_is_learned_from_and_the_report_says_that_nothing_was_measured(room: Path, tmp_path: Path) -> None:
    out, only = tmp_path / "run", str(room / "bags" / "*_1")
    begin = ["train", "--contract", "cartpole_swingup", "--bag", only, "--agent", str(room / "agent.yaml"), "--out", str(out)]
    assert main.run(begin) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["episodes"], metrics["transitions"], metrics["held_out"], metrics["open_loop"]) == (1, 41, [], None)
    assert "the model was not measured" in (out / "report.html").read_text()


def test_tensorboard_reads_the_same_figures(whole: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole / "tensorboard")).Reload()
    metrics = json.loads((whole / "metrics.json").read_text())
    assert [e.step for e in events.Scalars("fit/train_loss")] == [20, 40, 60, 80, 100, 120]
    assert [e.value for e in events.Scalars("fit/validation_error")] == pytest.approx(metrics["holdout_loss"], rel=1e-6)
    assert len(events.Scalars("open_loop/coverage_90_by_model_step")) == 3


def test_without_a_terminal_progress_is_plain_lines(room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(command(room, tmp_path / "run")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("not used: ") and "idle" in line for line in lines) == 1
    assert any(line.startswith("3 of 4 bags, 2 episodes with ") and line.endswith("1 held out") for line in lines)
    assert [line.split(":")[0] for line in lines if line.startswith("step ")] == [f"step {n} of 120" for n in range(20, 121, 20)]
    assert not any("\x1b" in line for line in lines)


def test_a_killed_training_goes_on_bit_for_bit(room: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    killed = subprocess.run([sys.executable, "-c", KILLED_AT, *command(room, out)], capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL and not (out / "model.safetensors").exists()
    assert main.run(command(room, out, "--resume")) == 0
    assert "going on after 50 of 120 steps" in capsys.readouterr().out
    for name in ("model.safetensors", "metrics.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (out / "checkpoint.safetensors").exists()


def test_ctrl_c_says_how_to_go_on_and_loses_no_step(
    room: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, step = tmp_path / "run", Fit.step

    def interrupted(fit: Fit) -> bool:
        if fit.done == 77:
            os.kill(os.getpid(), signal.SIGINT)  # takes effect after the step
        return step(fit)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "step", interrupted)
        assert main.run(command(room, out)) == 130
    again = f"wm-ros train --out {out} --resume"
    assert f"stopped after 78 of 120 steps; the checkpoint is in {out}; go on with: {again}" in capsys.readouterr().err
    assert main.run(again.split()[1:]) == 0
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert main.run(again.split()[1:]) == 0
    assert "this training is finished" in capsys.readouterr().out


def test_a_full_disk_is_said_and_the_training_goes_on_when_there_is_room(
    room: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"

    def full(path: Path, data: bytes) -> None:
        if data.count(b"\n") > 4:  # the fourth look
            raise OSError(28, "No space left on device")
        write_atomically(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(offline, "write_atomically", full)
        assert main.run(command(room, out)) == 2
    assert f"error: {out}: cannot be written to: No space left on device" in capsys.readouterr().err
    new = write_cartpole(tmp_path / "new", 30)
    assert main.run(command(room, out, "--bag", str(new), "--resume")) == 0
    assert f"not learned from, since they were not there when this training began: {new}" in capsys.readouterr().out.splitlines()
    assert (out / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_on_a_terminal_there_is_a_bar_and_lines_stay_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", screen)
    show = Display()
    show.begin("training", 3)
    show.advance()
    show.line("not used: [bold] is a name here")
    show.look("loss 1.5", "step 1 of 3")
    show.close()
    text = screen.getvalue()
    assert "training" in text and "1/3" in text and "loss 1.5" in text and "step 1 of 3" not in text
    assert "not used: [bold] is a name here\n" in text


def test_a_training_is_not_overwritten(room: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "controller.onnx").read_bytes()
    assert main.run(command(room, whole)) == 2
    assert "has a training in it" in capsys.readouterr().err and (whole / "controller.onnx").read_bytes() == before


def test_going_on_with_something_else_is_refused(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, bags = tmp_path / "run", tmp_path / "bags"
    for number in range(2):
        write_cartpole(bags / f"episode_{number}", 30 + number)
    begin = ["train", "--contract", "cartpole_swingup", "--bag", str(bags), "--agent", str(room / "agent.yaml"), "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(Fit, "step", lambda fit: os.kill(os.getpid(), signal.SIGINT))
        assert main.run(begin) == 130
    assert main.run([*begin, "--resume", "--seed", "3"]) == 2
    assert "begun with another seed" in capsys.readouterr().err
    write_cartpole(tmp_path / "other" / "episode_1", 33)
    (bags / "episode_1" / "episode_1_0.mcap").write_bytes((tmp_path / "other" / "episode_1" / "episode_1_0.mcap").read_bytes())
    assert main.run([*begin, "--resume"]) == 2
    assert f"{bags / 'episode_1'}: changed: not as it was when this training began" in capsys.readouterr().err


def test_mistakes_are_named_with_their_remedy(room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        assert main.run(["train", "--out", str(tmp_path / "run"), *arguments]) == 2
        return capsys.readouterr().err

    assert "contract: missing" in refused("--bag", str(room / "bags"))
    assert "bag: missing" in refused("--contract", "cartpole_swingup")
    assert "leave --resume away to begin" in refused("--resume")
    begin = ("--contract", "cartpole_swingup", "--agent", str(room / "agent.yaml"))
    assert "no such file or folder" in refused(*begin, "--bag", str(tmp_path / "nowhere"))
    assert "bag: none of 1 can train cartpole_swingup" in refused(*begin, "--bag", str(room / "bags" / "idle"))
    assert "holdout: 1.5" in refused(*begin, "--bag", str(room / "bags"), "--holdout", "1.5")
