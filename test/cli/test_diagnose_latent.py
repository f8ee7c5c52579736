"""wm-ros diagnose of a latent model: finished, stopped, and with a camera."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
import yaml
from camera_bags import every, raw_image, scene, with_camera, write_with_camera
from PIL import Image

from wm_ros.cli import main
from wm_ros.training import stored_model
from wm_ros.training.offline_dreamer import OfflineDreamerTraining

AGENT = """
dreamer:
  rssm: {deter: 16, hidden: 8, groups: 2, classes: 4, blocks: 2}
  world: {units: 8, image_depth: 4}
  units: 8
fit: {batch: 2, length: 8, horizon: 3, warm_up: 30}
"""
TICKS = 40


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A camera's bag, a finished training in `run`, and one that was stopped in `stopped`."""
    folder, threads = tmp_path_factory.mktemp("latent"), torch.get_num_threads()
    contract = with_camera(image={"height": 8, "width": 8})
    (folder / "contract.yaml").write_text(yaml.safe_dump(contract.model_dump(mode="json")))
    (folder / "agent.yaml").write_text(AGENT)
    write_with_camera(folder / "bag", TICKS, contract, every(TICKS, lambda number, stamp: raw_image(scene(number, 8, 8), stamp=stamp)))
    common = ["train", "--contract", str(folder / "contract.yaml"), "--bag", str(folder / "bag"), "--agent", str(folder / "agent.yaml")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        assert main.run([*common, "--updates", "3", "--out", str(folder / "run")]) == 0
        step = OfflineDreamerTraining.step

        def until_stopped(self: OfflineDreamerTraining) -> str | None:
            if self.updates == 2:
                raise KeyboardInterrupt
            return step(self)

        patch.setattr(OfflineDreamerTraining, "step", until_stopped)
        assert main.run([*common, "--updates", "9", "--out", str(folder / "stopped")]) == 130
    torch.set_num_threads(threads)
    return folder


def test_reward_pictures_and_films_are_measured_and_drawn(room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["diagnose", "--model", str(room / "run"), "--bag", str(room / "bag"), "--out", str(tmp_path)]
    assert main.run([*asked, "--starts", "5", "--context", "6", "--horizon", "4"]) == 0
    out = capsys.readouterr().out
    assert "recurrent model, 16 units and 2 x 4 categories, 1 tick per model step" in out
    assert "camera: error of the pictures" in out and "reward" in out and "learned from 1 of these bags" in out
    record = json.loads((tmp_path / "diagnosis.json").read_text())
    assert (record["family"], record["context"], record["result"]["columns"][-1]) == ("recurrent", 6, "reward")
    assert len(record["result"]["pictures"]["camera"]["rmse"]) == 4 and record["result"]["disagreement"] is None
    assert {p.name for p in tmp_path.iterdir()} >= {"error.png", "calibration.png", "growth.png", "open_loop_camera.png"}
    (film,) = [p for p in tmp_path.glob("open_loop_camera.*") if p.suffix != ".png"]
    frames = Image.open(io.BytesIO(film.read_bytes()))
    assert getattr(frames, "n_frames", 0) == 5 + 4 and str(film) in out


def test_a_training_under_way_is_measured_by_its_checkpoint(room: Path) -> None:
    stored = stored_model.load(room / "stopped")
    assert stored.what == "16 units and 2 x 4 categories, after 2 updates" and len(stored.training_bags) == 1
    finished = stored_model.load(room / "run")
    assert stored.model.state_dict().keys() == finished.model.state_dict().keys() and finished.horizon == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--context", "-1"], "context: -1 must not be negative"),
        (["--horizon", "30"], "30 ticks behind a context of 20, and the longest episode has 40: look at most 20 steps ahead"),
    ],
)
def test_what_is_wrong_is_said_with_its_remedy(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main.run(["diagnose", "--model", str(room / "run"), "--bag", str(room / "bag"), "--out", str(tmp_path), *options]) == 2
    assert message in capsys.readouterr().err
