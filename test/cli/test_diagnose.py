"""wm-ros diagnose: a model and bags in, tables, pictures and JSON out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from cartpole_bags import contract, write_cartpole

from wm_ros.cli import main
from wm_ros.training import stored_model
from wm_ros.training.fit import Fit

AGENT = """
pets:
  stride: 2
  ensemble: {members: 3, elites: 2, layers: 1, width: 8}
  planner: {horizon: 3, candidates: 8, iterations: 1, elites: 4, kept: 2}
fit: {steps: 60, check_every: 20, batch: 16}
"""


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bags, a finished training in `run`, and one that was killed in `stopped`."""
    folder, threads = tmp_path_factory.mktemp("diagnose"), torch.get_num_threads()
    (folder / "agent.yaml").write_text(AGENT)
    for number in range(2):
        write_cartpole(folder / "bags" / f"episode_{number}", 40 + number)
    write_cartpole(folder / "other", 30)
    common = ["train", "--contract", "cartpole_swingup", "--bag", str(folder / "bags"), "--agent", str(folder / "agent.yaml"), "--out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        assert main.run([*common, str(folder / "run")]) == 0
        step = Fit.step

        def until_stopped(self: Fit) -> bool:
            if self.done == 30:
                raise KeyboardInterrupt
            return step(self)

        patch.setattr(Fit, "step", until_stopped)
        assert main.run([*common, str(folder / "stopped")]) == 130
    torch.set_num_threads(threads)
    return folder


def diagnosed(room: Path, *more: str) -> int:
    return main.run(["diagnose", "--model", str(room / "run"), "--bag", str(room / "bags"), "--starts", "20", *more])


def test_a_diagnosis_has_tables_pictures_and_json_with_its_origin(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diagnosed(room, "--bag", str(room / "other"), "--out", str(tmp_path / "d"), "--horizon", "5", "--seed", "7") == 0
    out = capsys.readouterr().out
    assert "gaussian model, 2 elites of 3 members, 2 ticks per model step" in out and "3 bags, 3 episodes" in out
    assert "learned from 1 of these bags" in out and "hinge_1.position.sin" in out and "growth of the error: " in out
    pictures = {p.name for p in (tmp_path / "d").iterdir()}
    assert pictures == {"diagnosis.json", "error.png", "calibration.png", "growth.png", "disagreement.png"}
    assert all((tmp_path / "d" / name).read_bytes().startswith(b"\x89PNG") for name in pictures if name.endswith("png"))
    record = json.loads((tmp_path / "d" / "diagnosis.json").read_text())
    assert (record["seed"], record["contract_hash"], record["family"]) == (7, contract().hash, "gaussian")
    assert [b["learned_from"] for b in record["bags"]].count(True) == 1 and all(len(b["sha256"]) == 64 for b in record["bags"])
    assert "torch" in record["versions"] and len(record["model_sha256"]) == 64
    result = record["result"]
    assert len(result["rmse"]) == 5 and result["columns"] == list(contract().observation_names)
    assert set(result["coverage"]) == {"50", "90", "95"} and len(result["by_group"]) == 3


def test_the_horizon_is_the_planners_unless_given_and_the_result_lies_beside_the_model(room: Path) -> None:
    assert diagnosed(room) == 0
    assert len(json.loads((room / "run" / "diagnosis" / "diagnosis.json").read_text())["result"]["rmse"]) == 3


@pytest.mark.parametrize("model", ["run/model.safetensors", "run/controller.onnx", "stopped", "stopped/checkpoint.safetensors"])
def test_a_model_is_found_by_any_of_its_files_and_in_a_checkpoint(room: Path, model: str) -> None:
    found = stored_model.load(room / model)
    assert found.contract == contract() and len(found.training_bags) >= 1
    assert found.what == ("3 members after 30 of 60 steps" if "stopped" in model else "2 elites of 3 members")


def test_of_a_run_with_versions_the_newest_model_is_taken(room: Path, tmp_path: Path) -> None:
    for version in ("0001", "0002"):
        shutil.copytree(room / "run", tmp_path / "models" / version, ignore=shutil.ignore_patterns("tensorboard", "diagnosis"))
    assert stored_model.load(tmp_path).path == tmp_path / "models" / "0002" / "model.safetensors"
    assert stored_model.load(tmp_path / "models" / "0001").path.parent.name == "0001"


def test_the_stored_model_predicts_as_the_trained_elites_did(room: Path) -> None:
    from safetensors.torch import load_file

    elites = json.loads((room / "run" / "metrics.json").read_text())["elites"]
    weights, model = load_file(room / "run" / "model.safetensors"), stored_model.load(room / "run").model
    assert torch.equal(model.network.weights[0], weights["network.weights.0"][elites[:2]])
    assert torch.equal(model.observation_mean, weights["observation_mean"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--horizon", "0"], "horizon: 0 must be at least 1"),
        (["--horizon", "100"], "look at most 20 steps ahead"),
        (["--starts", "0"], "starts: 0 must be at least 1"),
        (["--model", "nowhere"], "nowhere: no such file or folder"),
        (["--model", "bags"], "bags: no model.safetensors in it"),
        (["--model", "agent.yaml"], "agent.yaml: no model"),
        (["--bag", "gone"], "gone: no such file or folder"),
        (["--bag", "idle"], "idle: "),
        (["--bag", "foreign"], "recorded under another contract"),
    ],
)
def test_what_is_wrong_is_said_with_its_remedy(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    monkeypatch.chdir(room)
    if not (room / "idle").exists():
        from wm_ros.contract import schema

        write_cartpole(room / "idle", 20, skip_command=frozenset(range(20)))
        data = json.loads(contract().canonical_json())
        data["control"]["rate_hz"] = 25.0
        write_cartpole(room / "foreign", 20, of=schema.parse(data, "test"))
    given = {"--model": "run", "--bag": "bags", "--out": str(tmp_path), **dict(zip(options[::2], options[1::2], strict=True))}
    assert main.run(["diagnose", *(part for pair in given.items() for part in pair)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


def test_damaged_files_are_named(room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(name: str, content: bytes | None) -> str:
        copy = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(room / "run", copy, ignore=shutil.ignore_patterns("tensorboard", "diagnosis"))
        if content is None:
            (copy / name).unlink()
        else:
            (copy / name).write_bytes(content)
        assert main.run(["diagnose", "--model", str(copy), "--bag", str(room / "bags")]) == 2
        return capsys.readouterr().err

    assert "model.safetensors: cannot be read" in broken("model.safetensors", b"damaged")
    assert "metrics.json: not readable as JSON" in broken("metrics.json", b"{")
    assert "of a training that leaves no world model behind" in broken("metrics.json", b'{"config": {"sac": {}}}')
    assert "metrics.json: not of this version" in broken("metrics.json", b'{"config": {"pets": {"strid": 1}}, "elites": [0]}')
    assert "controller.onnx: no such file: the model's contract stands in it" in broken("controller.onnx", None)


def test_bag_is_asked_for(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["diagnose", "--model", str(room / "run")]) == 2
    assert "bag: missing" in capsys.readouterr().err
