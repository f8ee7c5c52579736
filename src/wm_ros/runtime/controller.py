"""A controller artifact at work: the only reader of the ONNX file, with its carry and its noise held inside."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from wm_ros.contract import schema
from wm_ros.contract.announcements import ControllerNotice
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.runtime import artifact
from wm_ros.runtime.acting_graph import acting_graph
from wm_ros.runtime.artifact import Metadata
from wm_ros.runtime.calibrated_level import Level, level_of
from wm_ros.runtime.engine import CPU, CUDA, Engine, Inference, OnnxRuntime, OpenVino, Run, disagreement
from wm_ros.runtime.onnx_check import check_self_contained
from wm_ros.runtime.signature import TrustedKey

MAX_FILE_BYTES = 1 << 30
_NO_IMAGES: Mapping[str, NDArray[np.uint8]] = {}
WARM_UP_RUNS = 3
WARM_UP_LIMIT_S = 30.0
"""A first inference that takes longer never becomes a control loop; without a limit an endless Loop would hang the loader."""
DEFAULT = Inference()
ENGINE_TOLERANCE = {"f32": 1e-3, "bf16": 0.1}
"""Largest difference of another engine's action and value from onnxruntime's, beside max(1, |value|), with which it may serve."""


@dataclass(frozen=True)
class ControllerOutput:
    """What one tick gave. Arrays are copied when they are asked for: ask before the session's next `act`."""

    action: NDArray[np.float32]
    """[A] in contract units; meaningless unless `ok`."""
    ok: bool
    reason: str
    """Why not ok; empty where ok."""
    arrays: Mapping[str, NDArray[Any]]
    """The session's own output buffers by name."""

    def _copy(self, name: str) -> NDArray[np.float32] | None:
        array = self.arrays.get(name)
        return None if array is None else array.copy()

    @property
    def value(self) -> float | None:
        """The controller's own estimate of the return from here."""
        return float(self.arrays[artifact.VALUE]) if artifact.VALUE in self.arrays else None

    @property
    def plan_action(self) -> NDArray[np.float32] | None:
        """[H, A]."""
        return self._copy(artifact.PLAN_ACTION)

    @property
    def plan_observation(self) -> NDArray[np.float32] | None:
        """[H, O]."""
        return self._copy(artifact.PLAN_OBSERVATION)

    @property
    def plan_spread(self) -> NDArray[np.float32] | None:
        """[H, O], ensemble standard deviation."""
        return self._copy(artifact.PLAN_SPREAD)

    @property
    def plan_iterations(self) -> int | None:
        """Iterations that the planner did."""
        return int(self.arrays[artifact.PLAN_ITERATIONS]) if artifact.PLAN_ITERATIONS in self.arrays else None

    @property
    def candidates_observation(self) -> NDArray[np.float32] | None:
        """[K, H, O], the first is the plan."""
        return self._copy(artifact.CANDIDATES_OBSERVATION)

    @property
    def candidates_return(self) -> NDArray[np.float32] | None:
        """[K]."""
        return self._copy(artifact.CANDIDATES_RETURN)


class ControllerSession:
    """A verified controller. One thread at a time may use it.

    A tick is `act`; `prepare` draws the noise of the next one and belongs behind the sending of the command. `reset` starts an episode.
    Between the two, `inputs` is what the tick was computed from, for `imagine`, which another thread may call.
    """

    def __init__(self, engine: OnnxRuntime, metadata: Metadata, contract: Contract, path: Path, sha256: str) -> None:
        self.metadata = metadata
        self.contract = contract
        self.path = path
        self.sha256 = sha256
        self.provider = ""
        """Where inference runs: an execution provider of onnxruntime, or OpenVINO."""
        self.warm_up_ms = 0.0
        """Fastest inference of the warm-up."""
        self.disagreement_level: Level | None = None
        """Beside which its plans are judged; None where it came with none."""
        self._imagination: OnnxRuntime | None = None
        """The whole graph, where what is for people was cut off the one that acts."""
        self._observation = np.zeros(contract.observation_size, np.float32)
        taken = {i.name for i in engine.session.get_inputs()}
        self._images = {name: np.zeros((1, *form.shape), np.uint8) for name, form in contract.images.items() if name in taken}
        self._noise = {name: np.zeros(spec.shape, np.float32) for name, spec in metadata.noise.items()}
        self._outputs: dict[str, NDArray[Any]] = {
            o.name: np.zeros(o.shape, np.bool_ if o.type == "tensor(bool)" else np.float32)
            for o in engine.session.get_outputs()
            if not o.name.startswith(artifact.NEXT_PREFIX)
        }
        # Two buffers per carry, and a binding for each direction: what one tick writes is what the next one reads, without a copy.
        self._carry = [{name: np.zeros(spec.shape, np.float32) for name, spec in metadata.carry.items()} for _ in range(2)]
        self._use(engine)
        self._turn = 0
        self._prepared = False
        self._finite_outputs = [a for n, a in self._outputs.items() if n not in (artifact.OK, *_CANDIDATES)]
        self._rng = np.random.default_rng(0)
        self.reset(0)

    @property
    def name(self) -> str:
        """Agent, version and the first digits of the file's hash, such as `pets:3:1f2e3d4c`."""
        return f"{self.metadata.agent}:{self.metadata.version}:{self.sha256[:8]}"

    @property
    def cameras(self) -> tuple[str, ...]:
        """Image channels that it looks at: those that its graph has an input for."""
        return tuple(self._images)

    @property
    def plans(self) -> bool:
        """Whether its answers come with actions for later ticks, and it is known when those are due."""
        return self.metadata.plan_period_s is not None and artifact.PLAN_ACTION in self._outputs

    @property
    def notice(self) -> ControllerNotice:
        """The announcement of this controller."""
        return ControllerNotice(
            path=str(self.path),
            sha256=self.sha256,
            contract_hash=self.metadata.contract_hash,
            agent=self.metadata.agent,
            version=self.metadata.version,
            episodes=self.metadata.episodes,
        )

    @classmethod
    def load(
        cls,
        path: str | Path,
        contract: Contract,
        inference: Inference = DEFAULT,
        expected_sha256: str | None = None,
        trusted: TrustedKey | None = None,
    ) -> ControllerSession:
        """Verifies, loads and warms up an artifact.

        Args:
            path: the ONNX file.
            contract: what the controller must have been made for.
            inference: how it is computed.
            expected_sha256: refuse any other file; None accepts what is there.
            trusted: refuse what this key has not signed; None accepts unsigned files.

        Raises:
            UserError: a line for everything that is wrong with the file.
        """
        path = Path(path).expanduser().absolute()
        data = _read(path)
        sha256 = hashlib.sha256(data).hexdigest()
        if expected_sha256 is not None and sha256 != expected_sha256:
            raise UserError(f"{path}: sha256 {sha256[:16]}… is not the announced {expected_sha256[:16]}…: announce the file as it is now")
        if trusted is not None:
            trusted.check(path, sha256)  # before any parser sees the file
        check_self_contained(data, str(path))
        imagination = None
        acting = acting_graph(data)
        if acting is not None:
            imagination = cls._engine_of(data, path, contract, DEFAULT, CPU)[0]
            data = acting
        controller = cls._open(data, path, contract, inference, sha256, CPU)
        if inference.engine == "openvino":
            controller._change_engine(data, inference)
        elif CUDA in onnxruntime.get_available_providers():
            # A small plan is faster on the processor, a large one on the GPU: the warm-up of this very controller decides.
            with contextlib.suppress(UserError):  # a GPU that cannot serve is no reason not to serve
                on_gpu = cls._open(data, path, contract, inference, sha256, CUDA)
                if on_gpu.provider == CUDA and on_gpu.warm_up_ms < controller.warm_up_ms:
                    controller = on_gpu
        controller._imagination = imagination
        return controller

    @classmethod
    def _open(cls, data: bytes, path: Path, contract: Contract, inference: Inference, sha256: str, provider: str) -> ControllerSession:
        engine, metadata = cls._engine_of(data, path, contract, inference, provider)
        has_spread = any(output.name == artifact.PLAN_SPREAD for output in engine.session.get_outputs())
        level = level_of(metadata, contract, has_spread, str(path))
        controller = cls(engine, metadata, contract, path, sha256)
        controller.disagreement_level = level
        controller._warm_up()
        return controller

    @staticmethod
    def _engine_of(data: bytes, path: Path, contract: Contract, inference: Inference, provider: str) -> tuple[OnnxRuntime, Metadata]:
        """A graph that fits its metadata and the contract, ready to run."""
        try:
            engine = OnnxRuntime(data, inference, provider)
            properties = engine.session.get_modelmeta().custom_metadata_map
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            raise UserError(f"{path}: onnxruntime cannot load it: {_first_line(error)}: export it again") from None
        if artifact.METADATA_KEY not in properties:
            raise UserError(f"{path}: no metadata {artifact.METADATA_KEY!r}: this is an ONNX file, but no wm_ros controller")
        metadata = artifact.read_metadata(properties[artifact.METADATA_KEY], str(path))
        _check_contract(metadata, contract, str(path))
        _check_signature(engine.session, metadata, contract, str(path))
        return engine, metadata

    def _change_engine(self, data: bytes, inference: Inference) -> None:
        """Serves with OpenVINO from now on, once it has given the same answer as onnxruntime.

        Raises:
            UserError: the package is missing, cannot compile the graph, or computes something else.
        """
        expected = self._first_answer()
        try:
            self._use(OpenVino(data, inference))
        except RuntimeError as error:
            raise UserError(f"{self.path}: OpenVINO cannot compile it: {_first_line(error)}: use engine onnxruntime") from None
        self._warm_up()
        fault = disagreement(expected, self._first_answer(), ENGINE_TOLERANCE[inference.precision])
        if fault:
            raise UserError(f"{self.path}: {self.provider} computes something else than onnxruntime ({fault}): use engine onnxruntime")

    def _first_answer(self) -> dict[str, NDArray[Any]]:
        """Action and value at the observation zero, with black images, right after a reset."""
        self.reset(0)
        output = self.act(np.zeros_like(self._observation), self._black())
        answer = {artifact.ACTION: output.action}
        if output.value is not None:
            answer[artifact.VALUE] = np.array(output.value)
        self.reset(0)
        return answer

    def reset(self, seed: int | Sequence[int]) -> None:
        """Starts an episode: initial carry, and noise drawn anew from `SeedSequence(seed)`."""
        self._rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        self._forget()
        self._prepared = False
        self.prepare()

    def prepare(self) -> None:
        """Draws the noise of the next tick; does nothing where that is done already."""
        if self._prepared:
            return
        for name, spec in self.metadata.noise.items():
            if spec.distribution == "normal":
                self._rng.standard_normal(out=self._noise[name], dtype=np.float32)
            else:
                self._rng.random(out=self._noise[name], dtype=np.float32)
        self._prepared = True

    def act(self, observation: NDArray[np.float32], images: Mapping[str, NDArray[np.uint8]] = _NO_IMAGES) -> ControllerOutput:
        """One tick.

        Args:
            observation: [O].
            images: channel → [H, W, C]; those of channels that the controller does not look at are left alone. Where one is missing that
                it looks at, the output is not ok, as after any other fault, but nothing has happened to the carry.

        Raises:
            ValueError: another shape.
        """
        if observation.shape != self._observation.shape:
            raise ValueError(f"observation {observation.shape}, the contract {self.contract.name} has {self._observation.shape}")
        for name, buffer in self._images.items():
            if name not in images:
                return self.refuse(f"no image of channel {name}")
            if images[name].shape != buffer.shape[1:] or images[name].dtype != np.uint8:
                given = f"{images[name].dtype}{list(images[name].shape)}"
                raise ValueError(f"image {name} is {given}, the contract {self.contract.name} has uint8{list(buffer.shape[1:])}")
            buffer[0] = images[name]
        self.prepare()
        self._observation[:] = observation
        try:
            self._runs[self._turn]()
        except Exception as error:  # whatever fails inside the graph, the robot's process goes on and holds
            self._forget()
            return self.refuse(f"inference failed: {_first_line(error)}")
        finally:
            self._prepared = False
        self._turn = 1 - self._turn
        reason = self._fault()
        if reason:
            # What a failed tick would hand on is as doubtful as its action.
            self._forget()
        return ControllerOutput(self._outputs[artifact.ACTION].copy(), not reason, reason, self._outputs)

    @property
    def imagines(self) -> bool:
        """Whether there is more to `imagine` than `act` gives."""
        return self._imagination is not None

    @property
    def imagined_cameras(self) -> tuple[str, ...]:
        """Image channels whose future frames it can imagine."""
        outputs = self._imagination.session.get_outputs() if self._imagination is not None else ()
        return tuple(o.name.removeprefix(artifact.IMAGINED_PREFIX) for o in outputs if o.name.startswith(artifact.IMAGINED_PREFIX))

    def inputs(self) -> dict[str, NDArray[Any]]:
        """Copies of what the last tick was computed from; only between `act` and the next `prepare`."""
        return {name: array.copy() for name, array in self._inputs(1 - self._turn).items()}

    def imagine(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All that the controller can say to `inputs`, what is only for people included: see `acting_graph`. Takes its time.

        Raises:
            RuntimeError: the graph fails.
        """
        if self._imagination is None:
            raise ValueError(f"{self.name} has nothing to imagine")
        return self._imagination.evaluate(inputs)

    def refuse(self, reason: str) -> ControllerOutput:
        """What a tick gives that must not be acted on; carry and noise stay as they are."""
        return ControllerOutput(self._outputs[artifact.ACTION].copy(), False, reason, {})

    def _fault(self) -> str:
        if artifact.OK in self._outputs and not self._outputs[artifact.OK]:
            return "the controller found no finite plan"
        if not all(np.isfinite(a).all() for a in self._finite_outputs):
            return "an output is not finite"
        if not all(np.isfinite(a).all() for a in self._carry[self._turn].values()):
            return "the carry is not finite"
        return ""

    def _forget(self) -> None:
        for name, spec in self.metadata.carry.items():
            self._carry[self._turn][name].fill(spec.initial)

    def _use(self, engine: Engine) -> None:
        self._engine, self.provider = engine, engine.name
        self._runs = [self._bind(read=0, write=1), self._bind(read=1, write=0)]

    def _inputs(self, read: int) -> dict[str, NDArray[Any]]:
        inputs: dict[str, NDArray[Any]] = {artifact.OBSERVATION: self._observation, **self._images}
        inputs |= {artifact.CARRY_PREFIX + n: a for n, a in self._carry[read].items()}
        inputs |= {artifact.NOISE_PREFIX + n: a for n, a in self._noise.items()}
        return inputs

    def _bind(self, read: int, write: int) -> Run:
        return self._engine.bind(self._inputs(read), self._outputs | {artifact.NEXT_PREFIX + n: a for n, a in self._carry[write].items()})

    def _black(self) -> dict[str, NDArray[np.uint8]]:
        return {name: np.zeros(buffer.shape[1:], np.uint8) for name, buffer in self._images.items()}

    def _warm_up(self) -> None:
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._engine.stop()

        timer = threading.Timer(WARM_UP_LIMIT_S, stop)
        timer.daemon = True
        timer.start()
        times = []
        try:
            for _ in range(WARM_UP_RUNS):
                start = time.perf_counter()
                output = self.act(np.zeros_like(self._observation), self._black())
                times.append(time.perf_counter() - start)
                if output.reason.startswith("inference failed"):
                    what = f"no answer within {WARM_UP_LIMIT_S:g} s" if late.is_set() else output.reason
                    raise UserError(f"{self.path}: {what}: export it again")
        finally:
            timer.cancel()
        self.warm_up_ms = 1e3 * min(times)
        self.reset(0)


_FLOAT, _UINT8 = "tensor(float)", "tensor(uint8)"
_CANDIDATES = (artifact.CANDIDATES_OBSERVATION, artifact.CANDIDATES_RETURN)


def _read(path: Path) -> bytes:
    try:
        # Without waiting: opening a named pipe would hang until somebody writes into it.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError(f"{path}: not a regular file: give the ONNX file itself")
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot read the controller: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB: this is no controller")
    if not data:
        raise UserError(f"{path}: the file is empty: export the controller again")
    return data


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _check_contract(metadata: Metadata, contract: Contract, where: str) -> None:
    theirs = schema.from_json(metadata.contract, where)
    if theirs.hash != metadata.contract_hash:
        hashes = f"the contract inside has hash {theirs.hash[:16]}…, its metadata says {metadata.contract_hash[:16]}…"
        raise UserError(f"{where}: {hashes}: export it again")
    if theirs.hash != contract.hash:
        hashes = f"{theirs.name} {theirs.hash[:16]}…, this robot has {contract.name} {contract.hash[:16]}…"
        lines = [f"{where}: made for another contract ({hashes}): export one for this robot, or start the node with the other contract"]
        lines += [f"{where}: {line}" for line in schema.difference(contract, theirs)]
        raise UserError("\n".join(lines))


def _check_signature(session: Any, metadata: Metadata, contract: Contract, where: str) -> None:
    faults: list[str] = []
    o, a = contract.observation_size, contract.action_size
    inputs: dict[str, tuple[int, ...]] = {artifact.OBSERVATION: (o,)}
    inputs |= {artifact.CARRY_PREFIX + n: s.shape for n, s in metadata.carry.items()}
    inputs |= {artifact.NOISE_PREFIX + n: s.shape for n, s in metadata.noise.items()}
    given = {i.name: i for i in session.get_inputs()}
    images = {name: form.shape for name, form in contract.images.items()}
    inputs |= {name: (1, *shape) for name, shape in images.items() if name in given}  # none must look at every camera
    faults += [f"input {n} is missing" for n in sorted(inputs.keys() - given.keys())]
    faults += [f"input {n} is unknown" for n in sorted(given.keys() - inputs.keys())]
    for name in sorted(given.keys() & inputs.keys()):
        faults += _type_fault("input", given[name], inputs[name], _UINT8 if name in images else _FLOAT)

    results = {r.name: r for r in session.get_outputs()}
    pictures = {artifact.IMAGINED_PREFIX + name: shape for name, shape in images.items()}
    plans = (artifact.PLAN_ACTION, artifact.PLAN_OBSERVATION, *pictures)
    horizon = next((_first_dimension(results[name]) for name in plans if name in results), 0)
    count = _first_dimension(results.get(artifact.CANDIDATES_OBSERVATION))
    required: dict[str, tuple[int, ...]] = {artifact.ACTION: (a,)}
    required |= {artifact.NEXT_PREFIX + n: s.shape for n, s in metadata.carry.items()}
    optional: dict[str, tuple[int, ...]] = {
        artifact.VALUE: (),
        artifact.OK: (),
        artifact.PLAN_ACTION: (horizon, a),
        artifact.PLAN_OBSERVATION: (horizon, o),
        artifact.PLAN_SPREAD: (horizon, o),
        artifact.PLAN_ITERATIONS: (),
        artifact.CANDIDATES_OBSERVATION: (count, horizon, o),
        artifact.CANDIDATES_RETURN: (count,),
        **{name: (horizon, *shape) for name, shape in pictures.items()},
    }
    faults += [f"output {n} is missing" for n in sorted(required.keys() - results.keys())]
    faults += [f"output {n} is unknown" for n in sorted(results.keys() - required.keys() - optional.keys())]
    for name in sorted(results.keys() & (required | optional).keys()):
        wanted = "tensor(bool)" if name == artifact.OK else _UINT8 if name in pictures else _FLOAT
        faults += _type_fault("output", results[name], (required | optional)[name], wanted)
    if faults:
        raise UserError("\n".join(f"{where}: {fault}" for fault in faults) + ": export it again")


def _first_dimension(value: Any) -> int:
    shape = [] if value is None else value.shape
    return shape[0] if shape and isinstance(shape[0], int) else 0


def _type_fault(kind: str, value: Any, shape: tuple[int, ...], wanted: str) -> list[str]:
    if value.type != wanted:
        return [f"{kind} {value.name} is {value.type}, expected {wanted}"]
    if list(value.shape) != list(shape):
        return [f"{kind} {value.name} has shape {list(value.shape)}, expected {list(shape)}"]
    return []
