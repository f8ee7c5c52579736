"""Writes a controller as one ONNX file, once it has been shown to be equal to torch and fast enough."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

import wm_ros
from wm_ros.agents.controller import Controller
from wm_ros.contract.announcements import ControllerNotice
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.export.look_ahead import imagined
from wm_ros.export.template import example_images, example_inputs, filled, write_atomically
from wm_ros.runtime.acting_graph import acting_graph
from wm_ros.runtime.artifact import METADATA_KEY, Carry, Latency, Metadata, Noise, Parity, TrainingBag
from wm_ros.runtime.signature import SigningKey, signature_path

PARITY_LIMIT = 1e-3
"""Largest difference between onnxruntime and torch, beside max(1, |value|), with which a file is written; 1e-5 is usual."""
PARITY_DRAWS = 5
LATENCY_RUNS = 50


@dataclass(frozen=True)
class Origin:
    """Where a controller comes from; it stands in the artifact."""

    version: int
    """Counts up with each export of one run."""
    seed: int
    episodes: int = 0
    """Training episodes it has learned from."""
    training_bags: tuple[TrainingBag, ...] = ()
    calibration: dict[str, Any] | None = None


@dataclass(frozen=True)
class Written:
    """An artifact that passed."""

    notice: ControllerNotice
    parity: float
    """Largest difference between onnxruntime and torch over the outputs, beside max(1, |value|)."""
    latency_p50_ms: float
    latency_p99_ms: float
    seconds: float
    """Filling, checking and writing."""


def versions() -> dict[str, str]:
    """Versions that shape a controller."""
    return {
        "wm_ros": wm_ros.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


def write(
    path: Path,
    graph: onnx.ModelProto,
    controller: Controller,
    contract: Contract,
    origin: Origin,
    signing_key: SigningKey | None = None,
) -> Written:
    """Fills the graph with the controller's weights, checks it and writes it in one step.

    Args:
        path: of the new file; its folder is made.
        graph: `export.template.template` of an equally configured controller.
        controller: with the weights to ship.
        contract: that it was made for.
        origin: provenance for the metadata.
        signing_key: makes `controller.onnx.sig` beside the file; None leaves it unsigned.

    Raises:
        UserError: onnxruntime and torch disagree, or a plan takes longer than the control period: nothing is written.
    """
    started = time.monotonic()
    model = filled(graph, controller)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    parity = _parity(session, controller, contract)
    if not parity <= PARITY_LIMIT:
        raise UserError(
            f"{path}: onnxruntime differs from torch by {parity:.2g} (limit {PARITY_LIMIT:g}): not written; keep the last controller"
        )
    acting = acting_graph(model.SerializeToString())
    if acting is not None:  # a robot does without what is only for people
        session = onnxruntime.InferenceSession(acting, options, providers=["CPUExecutionProvider"])
    best, p50, p99 = _latency_ms(session, controller, contract)
    if best > contract.control.period_s * 1e3:  # the best of many: a busy machine is no fault of the controller
        raise UserError(
            f"{path}: a plan takes {best:.1f} ms at best, "
            f"the control period of {contract.name} is {contract.control.period_s * 1e3:.1f} ms: not written; "
            "use fewer candidates, iterations, members or a smaller network"
        )
    metadata = Metadata(
        agent=controller.agent,
        config=controller.config,
        contract=contract.canonical_json(),
        contract_hash=contract.hash,
        version=origin.version,
        seed=origin.seed,
        episodes=origin.episodes,
        training_bags=origin.training_bags,
        versions=versions(),
        parity=Parity(max_abs_error=parity),
        latency_ms=Latency(p50=p50, p99=p99),
        carry={name: Carry(shape=shape) for name, shape in controller.carry.items()},
        noise={name: Noise(shape=spec.shape, distribution=spec.distribution) for name, spec in controller.noise.items()},
        plan_period_s=controller.plan_period_s,
        calibration=origin.calibration or {},
    )
    model.metadata_props.append(onnx.StringStringEntryProto(key=METADATA_KEY, value=metadata.to_json()))
    data = model.SerializeToString()
    path.parent.mkdir(parents=True, exist_ok=True)
    sha256 = hashlib.sha256(data).hexdigest()
    if signing_key is not None:
        write_atomically(signature_path(path), signing_key.sign(sha256))  # first: who finds the new controller finds it signed
    else:
        signature_path(path).unlink(missing_ok=True)  # of another file that had this name
    write_atomically(path, data)
    notice = ControllerNotice(
        path=str(path.resolve()),
        sha256=sha256,
        contract_hash=contract.hash,
        agent=controller.agent,
        version=origin.version,
        episodes=origin.episodes,
    )
    return Written(notice, parity, p50, p99, time.monotonic() - started)


def _feed(
    observation: torch.Tensor, carry: dict[str, torch.Tensor], noise: dict[str, torch.Tensor], images: dict[str, torch.Tensor]
) -> dict[str, NDArray[Any]]:
    values = {"observation": observation, **images, **{f"carry.{n}": v for n, v in carry.items()}}
    values |= {f"noise.{n}": v for n, v in noise.items()}
    return {name: value.numpy() for name, value in values.items()}


def _run(session: onnxruntime.InferenceSession, feed: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    taken = {i.name for i in session.get_inputs()}  # an input that the graph does not use is not in it
    results = session.run(None, {name: value for name, value in feed.items() if name in taken})
    return {output.name: np.asarray(value) for output, value in zip(session.get_outputs(), results, strict=True)}


def parity_errors(session: onnxruntime.InferenceSession, controller: Controller, contract: Contract, draws: Sequence[int]) -> list[float]:
    """For each seed in `draws`, the largest difference over all outputs, beside max(1, |value|), on random observation and noise."""
    errors = []
    for seed in draws:
        observation, carry, noise = example_inputs(controller, contract, seed)
        images = example_images(controller, seed)
        seen = (images,) if images else ()
        with torch.no_grad():
            carry = controller(observation, carry, noise, *seen)["next"]  # a carry as it is in use, not the empty one
            expected = dict(controller(observation, carry, noise, *seen))
            following = expected.pop("next")
            expected |= imagined(controller, following, noise)
        expected.update({f"next.{n}": v for n, v in following.items()})
        got = _run(session, _feed(observation, carry, noise, images))
        worst = 0.0
        for name, tensor in expected.items():
            ours, theirs = got[name].astype(np.float64), tensor.numpy().astype(np.float64)
            difference = np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs))
            if tensor.dtype == torch.uint8:  # a pixel at the border of two values is either, and both are right
                difference = np.where(np.abs(ours - theirs) <= 1.0, 0.0, difference)
            worst = max(worst, float(np.where(np.isfinite(difference), difference, np.inf).max(initial=0.0)))
        errors.append(worst)
    return errors


def _parity(session: onnxruntime.InferenceSession, controller: Controller, contract: Contract) -> float:
    # The median: where two candidates tie within rounding, torch and onnxruntime may rank them differently, and both are right.
    return float(np.median(parity_errors(session, controller, contract, range(PARITY_DRAWS))))


def _latency_ms(session: onnxruntime.InferenceSession, controller: Controller, contract: Contract) -> tuple[float, float, float]:
    feed = _feed(*example_inputs(controller, contract, seed=0), example_images(controller, seed=0))
    times = []
    for _ in range(LATENCY_RUNS):
        started = time.perf_counter()
        _run(session, feed)
        times.append((time.perf_counter() - started) * 1e3)
    return min(times), float(np.median(times)), float(np.quantile(times, 0.99))
