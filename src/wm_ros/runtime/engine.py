"""What computes a controller's graph: onnxruntime, or OpenVINO where it is installed and wanted."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from wm_ros.contract.errors import UserError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
EngineName = Literal["onnxruntime", "openvino"]
Precision = Literal["f32", "bf16"]
ENGINES, PRECISIONS = get_args(EngineName), get_args(Precision)

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[], None]
"""Reads the bound inputs and writes the bound outputs."""

onnxruntime.set_default_logger_severity(4)  # faults come as exceptions; the log would say them twice


@dataclass(frozen=True)
class Inference:
    """How a controller is computed."""

    threads: int = 1
    """Of one inference; 1 runs it on the caller's thread alone."""
    engine: EngineName = "onnxruntime"
    """`openvino` fuses activations into the matrix products, which pays for larger networks; it needs the package of that name."""
    precision: Precision = "f32"
    """`bf16` halves the time of large matrix products on processors that have it (OpenVINO only); plans then differ in the third digit."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads {self.threads} must be at least 1")
        if self.precision != "f32" and self.engine != "openvino":
            raise UserError(f"precision {self.precision} needs engine openvino; engine {self.engine} computes in f32")


class Engine(Protocol):
    """A loaded graph."""

    name: str
    """Where it is computed, for people."""

    def bind(self, inputs: Arrays, outputs: Arrays) -> Run:
        """Ties the graph to arrays that are read and written in place by every run."""

    def stop(self) -> None:
        """Ends a run that is in progress in another thread; that run raises."""


class OnnxRuntime:
    """onnxruntime on the processor or on a CUDA device."""

    def __init__(self, data: bytes, inference: Inference, provider: str = CPU) -> None:
        """Loads a graph; whatever onnxruntime finds wrong with it is raised as it comes."""
        self.session = onnxruntime.InferenceSession(data, _options(inference.threads), providers=[provider])
        self.name: str = self.session.get_providers()[0]
        self._run_options = onnxruntime.RunOptions()

    def bind(self, inputs: Arrays, outputs: Arrays) -> Run:
        """See `Engine.bind`."""
        # Bound buffers take 5.5 us a call beside 8.8 us of run() on a graph of five nodes.
        binding = self.session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        return lambda: self.session.run_with_iobinding(binding, self._run_options)

    def evaluate(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """All outputs by name, in arrays of their own; inputs that the graph lacks are left out."""
        names = [output.name for output in self.session.get_outputs()]
        taken = {i.name for i in self.session.get_inputs()}
        return dict(zip(names, self.session.run(names, {n: a for n, a in inputs.items() if n in taken}), strict=True))

    def stop(self) -> None:
        """See `Engine.stop`."""
        self._run_options.terminate = True


class OpenVino:
    """OpenVINO on the processor."""

    def __init__(self, data: bytes, inference: Inference) -> None:
        """Compiles a graph.

        Raises:
            UserError: the package is not installed.
        """
        try:
            import openvino
        except ImportError:
            raise UserError("engine openvino: the package is not installed: pip install openvino, or use engine onnxruntime") from None
        self._openvino = openvino
        options = {
            "INFERENCE_PRECISION_HINT": inference.precision,
            "INFERENCE_NUM_THREADS": inference.threads,
            "PERFORMANCE_HINT": "LATENCY",
            # The node's own affinity decides.
            "ENABLE_CPU_PINNING": False,
        }
        core = openvino.Core()
        self._model = core.compile_model(core.read_model(io.BytesIO(data)), "CPU", options)
        # An input that the graph does not use is not in the compiled model.
        self._used = {name for port in self._model.inputs for name in port.names}
        self._requests: list[Any] = []
        self.name = f"OpenVINO {inference.precision}"

    def bind(self, inputs: Arrays, outputs: Arrays) -> Run:
        """See `Engine.bind`."""
        request = self._model.create_infer_request()
        for name, array in {**{n: a for n, a in inputs.items() if n in self._used}, **outputs}.items():
            request.set_tensor(name, self._openvino.Tensor(array, shared_memory=True))
        self._requests.append(request)

        def run() -> None:
            request.infer(share_inputs=True, share_outputs=True)

        return run

    def stop(self) -> None:
        """See `Engine.stop`."""
        for request in self._requests:
            request.cancel()


def disagreement(ours: Arrays, theirs: Arrays, tolerance: float) -> str:
    """The first output in which two engines differ, beside max(1, |value|); empty where they agree."""
    for name in ours:
        expected = np.asarray(ours[name], np.float64)
        worst = float(np.max(np.abs(np.asarray(theirs[name], np.float64) - expected) / np.maximum(1.0, np.abs(expected)), initial=0.0))
        if not worst <= tolerance:
            return f"{name} differs by {worst:.2g}"
    return ""


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    # Not set_denormal_as_zero: it changes the arithmetic of the whole calling thread, for good.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options
