"""Artifacts: equal to torch, whole or absent, and refused where they would not do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from cartpole_models import contract
from small_agents import PETS, explorer, pets

from wm_ros.agents.controller import Controller
from wm_ros.contract.errors import UserError
from wm_ros.export import controller as export
from wm_ros.export import template
from wm_ros.export.controller import Origin
from wm_ros.runtime.artifact import TrainingBag
from wm_ros.runtime.controller import ControllerSession

SAMPLING = replace(PETS, sample=True, propagation="TS1", planner=replace(PETS.planner, pessimism=0.5))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def graphs(cache: Path) -> dict[str, onnx.ModelProto]:
    """Exported once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        return {
            "pets": template.template(pets(0), contract()),
            "sampling": template.template(pets(0, SAMPLING), contract()),
            "explore": template.template(explorer(), contract()),
        }


def made(name: str, seed: int = 1) -> Controller:
    if name == "explore":
        return explorer()
    return pets(seed, SAMPLING if name == "sampling" else PETS)


@pytest.mark.parametrize("name", ["pets", "sampling", "explore"])
def test_onnxruntime_and_torch_agree_tick_after_tick(name: str, graphs: dict[str, onnx.ModelProto], tmp_path: Path) -> None:
    controller = made(name)
    written = export.write(tmp_path / "c.onnx", graphs[name], controller, contract(), Origin(version=3, seed=0))
    assert written.parity <= 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "c.onnx", providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    _, carry, _ = template.example_inputs(controller, contract(), 0)
    carried = {f"carry.{n}": v.numpy() for n, v in carry.items()}
    for tick in range(8):
        observation, _, noise = template.example_inputs(controller, contract(), 100 + tick)
        feed = {"observation": observation.numpy(), **carried, **{f"noise.{n}": v.numpy() for n, v in noise.items()}}
        wanted = {i.name for i in session.get_inputs()}
        got = dict(zip(names, session.run(None, {n: v for n, v in feed.items() if n in wanted}), strict=True))
        with torch.no_grad():
            expected = controller(observation, carry, noise)
        carry = expected["next"]
        carried = {f"carry.{n}": got[f"next.{n}"] for n in carry}
        flat = {**{n: v for n, v in expected.items() if n != "next"}, **{f"next.{n}": v for n, v in carry.items()}}
        assert set(flat) == set(got)
        for key, value in flat.items():
            np.testing.assert_allclose(got[key], value.numpy(), atol=1e-5, rtol=1e-5, err_msg=f"{key}, tick {tick}")


def test_one_graph_serves_every_training_by_its_weights_alone(graphs: dict[str, onnx.ModelProto], tmp_path: Path) -> None:
    actions = []
    before = graphs["pets"].SerializeToString()
    for seed in (1, 2):
        controller = pets(seed)
        export.write(tmp_path / f"{seed}.onnx", graphs["pets"], controller, contract(), Origin(version=seed, seed=0))
        session = ControllerSession.load(tmp_path / f"{seed}.onnx", contract())
        session.reset(0)
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(0)))
        carry = {n: torch.zeros(s) for n, s in controller.carry.items()}
        driven = []
        for observation in np.random.default_rng(3).standard_normal((10, 5)).astype(np.float32):
            noise = {n: torch.from_numpy(generator.standard_normal(s.shape, dtype=np.float32)) for n, s in controller.noise.items()}
            with torch.no_grad():
                expected = controller(torch.from_numpy(observation), carry, noise)
            carry = expected["next"]
            driven.append(float(session.act(observation).action[0]))
            assert driven[-1] == pytest.approx(float(expected["action"][0]), abs=1e-4)
        actions.append(driven)
    assert actions[0] != actions[1]
    assert graphs["pets"].SerializeToString() == before, "the graph is shared and must stay empty"


def test_every_trained_number_is_an_initializer_of_the_file(graphs: dict[str, onnx.ModelProto]) -> None:
    controller = pets(1)
    model = template.filled(graphs["pets"], controller)
    found = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    for name, value in controller.model.named_parameters(prefix="model"):
        if "log_variance" not in name:  # means alone are planned with
            np.testing.assert_array_equal(found[f"weights.{name}"], value.detach().numpy())
    assert not [i.name for i in model.graph.input if i.name.startswith("weights.")]
    onnx.checker.check_model(model)


def test_the_metadata_tells_the_robot_where_its_controller_comes_from(graphs: dict[str, onnx.ModelProto], tmp_path: Path) -> None:
    bag = TrainingBag(path="bags/episode_0000", sha256="ab" * 32)
    origin = Origin(version=7, seed=11, episodes=2, training_bags=(bag,), calibration={"spread_99": 0.5})
    written = export.write(tmp_path / "deep" / "c.onnx", graphs["pets"], pets(1), contract(), origin)
    session = ControllerSession.load(written.notice.path, contract(), expected_sha256=written.notice.sha256)
    metadata = session.metadata
    assert session.notice == written.notice and session.name == f"pets:7:{written.notice.sha256[:8]}"
    assert (metadata.agent, metadata.version, metadata.seed, metadata.episodes) == ("pets", 7, 11, 2)
    assert metadata.training_bags == (bag,) and dict(metadata.calibration) == {"spread_99": 0.5}
    assert metadata.config["planner"]["horizon"] == PETS.planner.horizon and metadata.plan_period_s == pytest.approx(0.04)
    assert metadata.contract_hash == contract().hash and metadata.contract == contract().canonical_json()
    assert metadata.parity.max_abs_error == written.parity and metadata.latency_ms.p50 == written.latency_p50_ms > 0.0
    assert {"wm_ros", "torch", "onnxruntime"} <= set(metadata.versions)
    assert hashlib.sha256(Path(written.notice.path).read_bytes()).hexdigest() == written.notice.sha256
    output = session.act(np.array([0.0, 0.0, -1.0, 0.0, 0.0], np.float32))
    assert output.ok and output.plan_observation is not None and output.plan_observation.shape == (PETS.planner.horizon, 5)
    assert output.plan_iterations == PETS.planner.iterations


@pytest.mark.parametrize("name", ["pets", "explore"])
def test_nothing_of_the_exporting_machine_is_in_the_file(name: str, graphs: dict[str, onnx.ModelProto], tmp_path: Path) -> None:
    export.write(tmp_path / "c.onnx", graphs[name], made(name), contract(), Origin(version=1, seed=0))
    data = (tmp_path / "c.onnx").read_bytes()
    root = Path(export.__file__).resolve().parents[3]
    for trace in (str(root), str(Path.home()) + "/", str(tmp_path), "site-packages", ".py", "File \"", "stack_trace", "Traceback"):
        assert trace.encode() not in data, trace


def refused(graphs: dict[str, onnx.ModelProto], path: Path, match: str) -> None:
    path.write_bytes(b"the last good one")
    with pytest.raises(UserError, match=match):
        export.write(path, graphs["pets"], pets(1), contract(), Origin(version=2, seed=0))
    assert path.read_bytes() == b"the last good one" and [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_controller_that_differs_from_torch_is_not_written(
    graphs: dict[str, onnx.ModelProto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PARITY_LIMIT", -1.0)
    refused(graphs, tmp_path / "c.onnx", match=r"c\.onnx: onnxruntime differs from torch by .*not written")


def test_weights_that_are_not_numbers_are_not_written(graphs: dict[str, onnx.ModelProto], tmp_path: Path) -> None:
    controller = pets(1)
    with torch.no_grad():
        controller.model.network.weights[0].fill_(float("nan"))
    with pytest.raises(UserError, match="not written"):
        export.write(tmp_path / "c.onnx", graphs["pets"], controller, contract(), Origin(version=2, seed=0))
    assert not list(tmp_path.iterdir())


def test_another_controllers_weights_are_found_out(
    graphs: dict[str, onnx.ModelProto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill: Callable[..., onnx.ModelProto] = template.filled
    monkeypatch.setattr(export, "filled", lambda graph, controller: fill(graph, pets(9)))
    refused(graphs, tmp_path / "c.onnx", match="differs from torch")


def test_a_controller_slower_than_its_control_period_is_not_written(
    graphs: dict[str, onnx.ModelProto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_latency_ms", lambda *arguments: (20.1, 25.0, 30.0))
    refused(graphs, tmp_path / "c.onnx", match=r"a plan takes 20\.1 ms at best, the control period of cartpole_swingup is 20\.0 ms")


def test_a_write_that_fails_half_way_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    template.write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        template.write_atomically(path, b"new" * 1000)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_configuration_is_exported_once(
    graphs: dict[str, onnx.ModelProto], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*arguments: Any) -> None:
        raise AssertionError("exported again")

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(template, "export", again)
    assert template.template(pets(5), contract()) == graphs["pets"]
    with pytest.raises(AssertionError, match="exported again"):
        template.template(pets(5, replace(PETS, stride=1)), contract())


def test_a_damaged_cache_is_made_anew(graphs: dict[str, onnx.ModelProto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(template, "export", lambda *arguments: graphs["explore"])
    template.template(explorer(), contract())
    (entry,) = (tmp_path / "wm_ros" / "graphs").iterdir()
    entry.write_bytes(entry.read_bytes()[:100])
    assert template.template(explorer(), contract()) == graphs["explore"]
    assert onnx.load(entry) == graphs["explore"]
