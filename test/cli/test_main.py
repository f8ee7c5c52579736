"""The command wm-ros: help, mistakes, interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wm_ros.cli import main
from wm_ros.contract import resources

CONTRACT = resources.share_directory() / "config" / "contracts" / "cartpole_swingup.yaml"
COMMANDS = ("demo", "up", "contract", "report", "train", "key", "sign", "bench", "learn-check")


def wm_ros(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wm_ros.cli", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main.run(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main.run([command, "--help"])
    assert end.value.code == 0 and len(capsys.readouterr().out.splitlines()) > 5


def test_help_loads_neither_torch_nor_rclpy_nor_onnxruntime() -> None:
    code = (
        "import sys; from wm_ros.cli.main import run\n"
        "try: run(['contract', 'check', 'cartpole_swingup'])\n"
        "finally: print([m for m in ('torch', 'rclpy', 'onnxruntime', 'mujoco', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_sound_contract_is_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["contract", "check", "cartpole_swingup"]) == 0
    assert "ok, cartpole_swingup for cartpole" in capsys.readouterr().out


def test_every_fault_of_a_contract_is_named_with_its_field_and_exit_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "faulty.yaml"
    file.write_text(CONTRACT.read_text().replace("rate_hz: 50", "rate_hz: -1\n  rate: 3").replace("interface: effort", "interface: torque"))
    assert main.run(["contract", "check", str(file)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(line.startswith(f"error: {file}") for line in errors)
    assert all(any(field in line for line in errors) for field in ("control.rate_hz", "control.rate:", "action.interface"))


def test_a_reward_that_is_not_installed_is_a_fault_of_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "faulty.yaml"
    file.write_text(CONTRACT.read_text().replace("wm_ros.contract.rewards:cartpole_swingup", "not_installed_here.rewards:swing"))
    assert main.run(["contract", "check", str(file)]) == 2
    assert "reward.function" in capsys.readouterr().err


def test_one_faulty_file_among_sound_ones_is_still_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["contract", "check", "cartpole_swingup", str(tmp_path / "nothing.yaml")]) == 2
    captured = capsys.readouterr()
    assert "ok" in captured.out and "nothing.yaml" in captured.err


def test_contract_show_names_topics_limits_and_hash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["contract", "show", "cartpole_swingup"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("joint_states", "slider -10 to 10 N", "hash", "hinge_1.position.sin", "50 Hz"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["up", "--controller", "/no/such.onnx"], "/no/such.onnx"),
        (["up", "--contract", "no_such_contract"], "no_such_contract"),
        (["demo", "--contract", "no_such_contract"], "no_such_contract"),
        (["demo", "--episodes", "0"], "episodes"),
        (["demo", "--run-dir", "/dev/null"], "/dev/null"),
        (["report", "/no/such/run"], "/no/such/run"),
        (["bench", "no_such_benchmark"], "no_such_benchmark"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.run(arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: ") and named in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_a_faulty_domain_is_said_before_an_old_run_is_moved(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    done = wm_ros("demo", "--run-dir", str(tmp_path), ROS_DOMAIN_ID="here")
    assert done.returncode == 2 and "ROS_DOMAIN_ID" in done.stderr and (tmp_path / "old").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupts_are_one_line_and_status_130(number: signal.Signals) -> None:
    code = (
        "import sys, time; from wm_ros.cli import main, bench\n"
        "bench.Bench.run = lambda self: (print('up', flush=True), time.sleep(600))\n"
        "main.main(['bench', 'x'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and errors == "interrupted\n"
