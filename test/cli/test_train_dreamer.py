"""wm-ros train --bag with Dreamer from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cartpole_bags import contract, write_cartpole
from one_thread import one_thread  # noqa: F401

from wm_ros.cli.main import run
from wm_ros.runtime.controller import ControllerSession
from wm_ros.training.offline_dreamer import OfflineDreamerTraining

AGENT = """
dreamer:
  rssm: {deter: 24, hidden: 16, groups: 4, classes: 5, blocks: 4}
  world: {units: 16, encoder_layers: 1, decoder_layers: 1}
  units: 16
fit: {batch: 4, length: 8, horizon: 3}
"""


def test_ctrl_c_and_resume_give_what_an_uninterrupted_training_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agent.yaml").write_text(AGENT)
    for number in range(2):
        write_cartpole(tmp_path / "bags" / f"episode_{number}", 40 + number)

    def begin(out: str) -> int:
        names = ["--contract", "cartpole_swingup", "--bag", str(tmp_path / "bags"), "--agent", str(tmp_path / "agent.yaml")]
        return run(["train", *names, "--out", str(tmp_path / out), "--updates", "10", "--checkpoint-every", "4", "--seed", "3"])

    assert begin("whole") == 0
    assert ControllerSession.load(tmp_path / "whole" / "controller.onnx", contract()).metadata.agent == "dreamer"
    step, steps = OfflineDreamerTraining.step, []

    def interrupted(self: OfflineDreamerTraining) -> str | None:
        steps.append(1)
        if len(steps) == 7:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(OfflineDreamerTraining, "step", interrupted)
    assert begin("other") == 130
    assert run(["train", "--out", str(tmp_path / "other"), "--resume"]) == 0
    assert "going on after 6" in capsys.readouterr().out
    for name in ("model.safetensors", "metrics.csv"):
        assert (tmp_path / "other" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not any((tmp_path / "other").glob("checkpoint*"))
