"""What a controller artifact is: the names of its inputs and outputs, and its metadata."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wm_ros.contract.announcements import Sha256
from wm_ros.contract.errors import UserError

FORMAT = 1
METADATA_KEY = "wm_ros"
"""ONNX metadata property that holds the JSON of `Metadata`."""

OBSERVATION, ACTION, VALUE, OK = "observation", "action", "value", "ok"
PLAN_ACTION, PLAN_OBSERVATION, PLAN_SPREAD = "plan.action", "plan.observation", "plan.spread"
PLAN_ITERATIONS = "plan.iterations"
CANDIDATES_OBSERVATION, CANDIDATES_RETURN = "candidates.observation", "candidates.return"
CARRY_PREFIX, NEXT_PREFIX, NOISE_PREFIX = "carry.", "next.", "noise."
IMAGINED_PREFIX = "imagined_"
"""Of an output with the frames that a camera is imagined to show: `imagined_<channel>` [H, h, w, C] uint8, one frame for each row of the
plan. A camera's own input is named as its channel, [1, h, w, C] uint8, and normalized inside the graph."""

MAX_VALUES = 1 << 26
"""Most values of one carry or noise input: beyond it a file is broken or hostile."""

TensorName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$", max_length=64)]
Size = Annotated[int, Field(ge=1, le=MAX_VALUES)]
Shape = Annotated[tuple[Size, ...], Field(max_length=8)]


class Part(BaseModel):
    """Base: frozen, unknown fields refused, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Carry(Part):
    """What a controller remembers from one tick to the next, input `carry.<name>` and output `next.<name>`."""

    shape: Shape
    initial: float = 0.0
    """Every value of it at the first tick of an episode."""


class Noise(Part):
    """Random numbers that a controller is given, input `noise.<name>`."""

    shape: Shape
    distribution: Literal["normal", "uniform"]
    """`normal`: mean 0, deviation 1; `uniform`: [0, 1)."""


class TrainingBag(Part):
    """A bag that the controller has learned from."""

    path: str
    sha256: Sha256


class Parity(Part):
    """How far onnxruntime is from torch on the same inputs."""

    max_abs_error: Annotated[float, Field(ge=0)]


class Latency(Part):
    """Inference time at export, in milliseconds."""

    p50: Annotated[float, Field(ge=0)]
    p99: Annotated[float, Field(ge=0)]


class Metadata(Part):
    """Everything that travels with a controller besides its graph."""

    format: Literal[1] = 1
    agent: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=64)]
    config: dict[str, Any] = {}
    contract: str
    """The contract's canonical JSON."""
    contract_hash: Sha256
    version: Annotated[int, Field(ge=0)]
    """Counts up with each export of one run; 0 explores at random."""
    seed: int = 0
    episodes: Annotated[int, Field(ge=0)] = 0
    """Training episodes it has learned from."""
    training_bags: tuple[TrainingBag, ...] = ()
    versions: dict[str, str] = {}
    parity: Parity | None = None
    latency_ms: Latency | None = None
    carry: dict[TensorName, Carry] = {}
    noise: dict[TensorName, Noise] = {}
    plan_period_s: Annotated[float, Field(gt=0)] | None = None
    """Time between two rows of the plan; None where there is no plan."""
    calibration: dict[str, Any] = {}

    def to_json(self) -> str:
        return self.model_dump_json()


def read_metadata(text: str, where: str) -> Metadata:
    """Parses and validates the metadata property.

    Raises:
        UserError: not JSON, another format, or a field that does not fit.
    """
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{where}: metadata {METADATA_KEY!r} is not JSON ({error}): export the controller again") from None
    given = data.get("format") if isinstance(data, dict) else None
    if given != FORMAT:
        raise UserError(f"{where}: artifact format {given!r}, this version reads format {FORMAT}: export the controller again")
    try:
        metadata = Metadata.model_validate(data)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"])
        raise UserError(f"{where}: metadata: {field}: {fault['msg']}: export the controller again") from None
    for kind, specs in (("carry", metadata.carry), ("noise", metadata.noise)):
        for name, spec in specs.items():
            if math.prod(spec.shape) > MAX_VALUES:
                raise UserError(f"{where}: metadata: {kind}.{name}: shape {spec.shape} has more than {MAX_VALUES} values")
    return metadata
