"""Milliseconds per plan: a planner's whole loop as one graph beside torchrl, pytorch_mppi and mbrl-lib at equal work.

The peers run in a process of their own, once as they come and once tuned: with an allocator that keeps large blocks, and on AMD processors
with MKL's fast path, which torch's build keeps for others. Half of a win over a peer as it comes is that and no merit of ours.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from benchmarks import planning_peers as peers
from numpy.typing import NDArray
from onnx import TensorProto, helper

from wm_ros.agents.pets import PetsConfig, PetsController
from wm_ros.cli.bench import Result
from wm_ros.contract import schema
from wm_ros.contract.schema import Contract
from wm_ros.export.template import filled, template
from wm_ros.models.dynamics import LimitCost
from wm_ros.models.ensemble import EnsembleConfig
from wm_ros.planners.cem import CEMConfig
from wm_ros.planners.mppi import MPPIConfig
from wm_ros.runtime.engine import CUDA, Engine, Inference, OnnxRuntime, OpenVino

PEERS_PYTHON = os.environ.get("WM_ROS_PEERS_PYTHON", sys.executable)
"""Interpreter of the environment that holds the peers."""
TUNED = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "268435456"}
FAST_MKL = "int mkl_serv_intel_cpu_true(void) { return 1; }\nint mkl_serv_intel_cpu(void) { return 1; }\n"
SIZE = 2048
"""Of the square matrices whose product tells the machine's peak."""


@dataclass(frozen=True)
class Work:
    """One planner at the sizes of `planning_peers`."""

    name: str
    config: PetsConfig
    plans: int
    """Rollouts of all candidates per plan."""
    rivals: tuple[tuple[str, str], ...]
    """(peer, its planner)."""

    @property
    def gflop(self) -> float:
        """Multiplications and additions of the networks' matrix products per plan, in 1e9, the same for the peers."""
        weights = peers.WIDTH * (peers.OBSERVATIONS + peers.ACTIONS + peers.OBSERVATIONS + (peers.LAYERS - 1) * peers.WIDTH)
        return 2e-9 * weights * peers.MEMBERS * peers.CANDIDATES * peers.HORIZON * self.plans


def run(quick: bool) -> Iterator[Result]:
    """Medians over repeats; ours and the peers take turns."""
    threads = min(2, os.cpu_count() or 1)
    contract, repeats = _robot(), 3 if quick else 15
    works = [
        Work(
            "CEM plan",
            _agent(CEMConfig(horizon=peers.HORIZON, elites=peers.ELITES)),
            peers.ITERATIONS,
            (("torchrl", "cem"), ("mbrl", "cem")),
        ),
        Work(
            "MPPI plan",
            _agent(MPPIConfig(horizon=peers.HORIZON, candidates=peers.CANDIDATES, iterations=1, noise_exponent=0.0)),
            1,
            (("torchrl", "mppi"), ("pytorch_mppi", "mppi"), ("mbrl", "mppi")),
        ),
    ]
    engines = _engines(threads)
    peaks = {name: _peak(make) for name, make in engines.items()}
    with tempfile.TemporaryDirectory() as folder:
        surroundings = {"as it comes": {}, "tuned": _tuned(Path(folder))}
        for work in works:
            controller = PetsController(contract, work.config)
            controller.model.network.initialize(torch.Generator().manual_seed(0))
            data = filled(template(controller, contract), controller).SerializeToString()
            plans = {name: _plan(make(data), controller, contract) for name, make in engines.items()}
            if torch.cuda.is_available():
                plans["torch CUDA graph f32"] = _cuda_graph(controller, contract)
            times: dict[str, list[float]] = {name: [] for name in plans}
            for _ in range(repeats):
                for name, plan in plans.items():
                    times[name].append(_ms(plan))
            theirs = {
                f"{version}, {how}": ms
                for rival in work.rivals
                for how, environment in surroundings.items()
                for ms, version in [_peer(*rival, repeats, threads, environment)]
            }
            for name, ours in times.items():
                rate = work.gflop / median(ours) * 1e3
                peak = f" of {peaks[name]:.0f} for a product of {SIZE}x{SIZE}" if name in peaks else ""
                settings = {
                    "engine": name,
                    "GFLOP": f"{work.gflop:.1f}",
                    "GFLOP/s": f"{rate:.0f}{peak}",
                    "members": peers.MEMBERS,
                    "layers": f"{peers.LAYERS}x{peers.WIDTH}",
                    "candidates": peers.CANDIDATES,
                    "horizon": peers.HORIZON,
                    "iterations": work.plans,
                    "threads": threads,
                    "repeats": repeats,
                }
                yield from (Result(work.name, median(ours), ms, peer, "ms", False, settings) for peer, ms in theirs.items())


def _agent(planner: Any) -> PetsConfig:
    ensemble = EnsembleConfig(members=peers.MEMBERS, elites=peers.MEMBERS, layers=peers.LAYERS, width=peers.WIDTH)
    return PetsConfig(stride=1, limits=LimitCost(weight=0.0), ensemble=ensemble, planner=planner)


def _robot() -> Contract:
    """The cheetah without its position along the track, which no reward needs: 17 observations, 6 actions."""
    data = schema.load("cheetah_run").model_dump(mode="json")
    (channel,) = data["observation"]
    features = [f for f in channel["features"] if (f["joint"], f["field"]) != ("rootx", "position")]
    return schema.parse({**data, "name": "bench", "simulator": None, "observation": [{**channel, "features": features}]}, "bench planning")


# ---- ours -----------------------------------------------------------------------------------------------------------------


def _engines(threads: int) -> dict[str, Callable[[bytes], Engine]]:
    engines: dict[str, Callable[[bytes], Engine]] = {
        f"onnxruntime {onnxruntime.__version__} f32": lambda data: OnnxRuntime(data, Inference(threads))
    }
    if CUDA in onnxruntime.get_available_providers():
        engines[f"onnxruntime {onnxruntime.__version__} CUDA"] = lambda data: OnnxRuntime(data, Inference(threads), CUDA)
    try:
        import openvino
    except ImportError:
        return engines
    version = openvino.__version__.split("-")[0]
    engines[f"openvino {version} f32"] = lambda data: OpenVino(data, Inference(threads, "openvino"))
    engines[f"openvino {version} bf16"] = lambda data: OpenVino(data, Inference(threads, "openvino", "bf16"))
    return engines


def _plan(engine: Engine, controller: PetsController, contract: Contract) -> Callable[[], None]:
    """One tick as the robot has it: noise drawn, graph run."""
    session = engine.session if isinstance(engine, OnnxRuntime) else None
    rng = np.random.default_rng(0)
    noise = {f"noise.{n}": np.zeros(spec.shape, np.float32) for n, spec in controller.noise.items()}
    carry = {f"carry.{n}": np.zeros(shape, np.float32) for n, shape in controller.carry.items()}
    inputs: dict[str, NDArray[Any]] = {"observation": np.zeros(contract.observation_size, np.float32), **carry, **noise}
    outputs: dict[str, NDArray[Any]] = {}
    if session is not None:
        kinds = {"tensor(bool)": np.bool_, "tensor(float)": np.float32, "tensor(int64)": np.int64}
        outputs = {o.name: np.zeros(o.shape, kinds[o.type]) for o in session.get_outputs()}
    compute = engine.bind(inputs, outputs)

    def plan() -> None:
        for array in noise.values():
            rng.standard_normal(out=array, dtype=np.float32)
        compute()

    plan()
    return plan


def _cuda_graph(controller: PetsController, contract: Contract) -> Callable[[], None]:
    """The torch module itself on the GPU, captured once and replayed; the action comes back to the processor."""
    module = copy.deepcopy(controller).cuda().eval()
    observation = torch.zeros(contract.observation_size, device="cuda")
    carry = {n: torch.zeros(shape, device="cuda") for n, shape in controller.carry.items()}
    noise = {n: torch.zeros(spec.shape, device="cuda") for n, spec in controller.noise.items()}

    def forward() -> torch.Tensor:
        for array in noise.values():
            array.normal_()
        action: torch.Tensor = module(observation, carry, noise)["action"]
        return action

    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.no_grad():
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                forward()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            action = forward()

    def plan() -> None:
        graph.replay()
        action.cpu()

    return plan


def _ms(plan: Callable[[], None]) -> float:
    started = time.perf_counter()
    plan()
    return 1e3 * (time.perf_counter() - started)


def _peak(make: Callable[[bytes], Engine]) -> float:
    """GFLOP/s of one large matrix product on this engine."""
    value = helper.make_tensor_value_info
    a, b, c = (value(name, TensorProto.FLOAT, [SIZE, SIZE]) for name in "abc")
    model = helper.make_model(helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "peak", [a, b], [c]), ir_version=10)
    model.opset_import[0].version = 20
    onnx.checker.check_model(model)
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((SIZE, SIZE), dtype=np.float32) for name in "ab"}
    product = make(model.SerializeToString()).bind(arrays, {"c": np.zeros((SIZE, SIZE), np.float32)})
    product()
    return 2e-9 * SIZE**3 / (1e-3 * min(_ms(product) for _ in range(5)))


# ---- theirs ---------------------------------------------------------------------------------------------------------------


def _peer(name: str, planner: str, repeats: int, threads: int, environment: dict[str, str]) -> tuple[float, str]:
    """Median milliseconds and version; 0 and what to install where the peer is missing."""
    command = [PEERS_PYTHON, str(Path(peers.__file__).resolve()), name, planner, str(repeats), str(threads)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return 0.0, f"{name} did not run ({reason}): pip install {name} into an environment, its python in WM_ROS_PEERS_PYTHON"
    report = json.loads(done.stdout.strip().splitlines()[-1])
    return median(report["ms"]), report["version"]


def _tuned(folder: Path) -> dict[str, str]:
    """Environment in which torch is at its best on this processor."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or "AuthenticAMD" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        return dict(TUNED)
    source, library = folder / "mkl.c", folder / "libmkl.so"
    source.write_text(FAST_MKL)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return {**TUNED, "LD_PRELOAD": str(library)}
