"""The robot contract: what a controller sees, does and wants on one robot, as data without code."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from typing_extensions import Self

from wm_ros.contract import resources
from wm_ros.contract.errors import UserError

FORMAT: Final = 1
MAX_FILE_BYTES = 1 << 20

MESSAGE_TYPES = (
    "sensor_msgs/msg/JointState",
    "sensor_msgs/msg/Imu",
    "nav_msgs/msg/Odometry",
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/TwistStamped",
    "geometry_msgs/msg/WrenchStamped",
    "geometry_msgs/msg/Twist",
    "geometry_msgs/msg/Wrench",
    "std_msgs/msg/Float64MultiArray",
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/CompressedImage",
)
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
UNSTAMPED_TYPES = ("geometry_msgs/msg/Twist", "geometry_msgs/msg/Wrench", "std_msgs/msg/Float64MultiArray")
"""Types without a header: no stamp, no frame."""


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _topic(value: str) -> str:
    parts = value.removeprefix("/").removeprefix("~/").split("/")
    if not all(p and (p[0].isalpha() or p[0] == "_") and p.replace("_", "a").isalnum() and p.isascii() for p in parts):
        raise ValueError("must be a ROS topic name such as joint_states or arm/joint_states")
    return value


Finite = Annotated[float, AfterValidator(_finite)]
Positive = Annotated[float, Field(gt=0), AfterValidator(_finite)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]
Topic = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_topic)]
LEARNED: Final = "learned"
ENVIRONMENT: Final = "environment"
ModuleFunction = Annotated[str, Field(pattern=rf"^({LEARNED}|{ENVIRONMENT}|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*)$")]


class Record(BaseModel):
    """Base of all contract parts: frozen, and unknown fields are faults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Control(Record):
    """The control loop."""

    rate_hz: Annotated[float, Field(gt=0, le=2000)]
    """Ticks per second; one action is held for one tick."""

    @property
    def period_s(self) -> float:
        return 1.0 / self.rate_hz

    @property
    def period_ns(self) -> int:
        return round(1e9 / self.rate_hz)


class Feature(Record):
    """One scalar read from a channel's message, and how it enters the observation vector."""

    field: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*$")]
    """`position`, `velocity` or `effort` for a JointState; a dotted path such as `angular_velocity.x` otherwise."""
    joint: Annotated[str, Field(min_length=1)] | None = None
    """JointState only: the joint, by the name that stands in the message."""
    index: Annotated[int, Field(ge=0)] | None = None
    """Position within an array field, such as `data` of a Float64MultiArray."""
    units: str
    encoding: Literal["identity", "sin_cos"] = "identity"
    """`sin_cos` turns an angle into two columns and has no wrap-around."""
    low: Finite | None = None
    high: Finite | None = None
    """Values outside [low, high] are reported by the bag check; they are not clipped."""
    label: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.\[\]]*$", max_length=64)] | None = None
    """Name of its column, where the message gives values no names; by default made from joint, field and index."""

    @property
    def name(self) -> str:
        if self.label is not None:
            return self.label
        path = f"{self.joint}.{self.field}" if self.joint else self.field
        return path if self.index is None else f"{path}[{self.index}]"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of the observation vector that this feature fills."""
        return (self.name,) if self.encoding == "identity" else (f"{self.name}.sin", f"{self.name}.cos")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self

    @model_serializer(mode="wrap")
    def _without_empty_label(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Contracts that do without keep the hash that bags and controllers bear.
        record: dict[str, Any] = serialize(self)
        return record if self.label is not None else {k: v for k, v in record.items() if k != "label"}


class ImageFormat(Record):
    """How the controller sees a camera: every frame is made so, whatever the camera sends."""

    height: Annotated[int, Field(ge=1, le=4096)]
    width: Annotated[int, Field(ge=1, le=4096)]
    encoding: Literal["rgb8", "mono8"]
    full_scale: Annotated[int, Field(ge=1, le=65535)] = 65535
    """For cameras of 16 bits, such as depth in millimetres: the value that becomes 255; larger ones become 255 too."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """[H, W, C]; C is 3 for rgb8, 1 for mono8."""
        return self.height, self.width, 3 if self.encoding == "rgb8" else 1


class Channel(Record):
    """One sensor topic: the features taken from it, or the image that is made of it."""

    name: Name
    topic: Topic
    type: Literal[MESSAGE_TYPES]  # type: ignore[valid-type]
    frame: str | None = None
    """If given, messages with another header.frame_id are refused."""
    max_age_s: Positive
    """An observation that holds an older sample than this is stale, live and in a bag."""
    align: Literal["hold", "nearest", "linear"] = "hold"
    """How samples are brought onto the control period: live data can only be held."""
    clock: Annotated[Literal["header", "receive"], Field(validate_default=True)] = "header"
    """Which time a sample carries; types without a header need `receive`."""
    image: Annotated[ImageFormat | None, Field(validate_default=True)] = None
    """Image and CompressedImage only: what the controller sees of it, beside the observation vector."""
    features: Annotated[tuple[Feature, ...], Field(validate_default=True)] = ()
    """What enters the observation vector; none for images."""

    @field_validator("frame", "align", "clock", "image", "features")
    @classmethod
    def _fits_type(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("type")  # absent where the type itself is the fault
        fault = _FITS[str(info.field_name)](kind, value) if kind is not None else ""
        if fault:
            raise ValueError(fault)
        return value

    @model_serializer(mode="wrap")
    def _without_absent_image(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Contracts from before there were images keep their hash.
        data: dict[str, Any] = dump(self)
        if self.image is None:
            del data["image"]
        return data


def _frame_fault(kind: str, frame: str | None) -> str:
    return f"{kind} has no header and so no frame: remove it" if frame is not None and kind in UNSTAMPED_TYPES else ""


def _align_fault(kind: str, align: str) -> str:
    return "images cannot be interpolated: take hold or nearest" if kind in IMAGE_TYPES and align == "linear" else ""


def _clock_fault(kind: str, clock: str) -> str:
    return f"{kind} has no header: set clock: receive" if kind in UNSTAMPED_TYPES and clock == "header" else ""


def _image_fault(kind: str, image: ImageFormat | None) -> str:
    if kind in IMAGE_TYPES:
        return "missing: add height, width and encoding (rgb8 or mono8)" if image is None else ""
    return f"is for {' and '.join(IMAGE_TYPES)} only: remove it" if image is not None else ""


def _features_fault(kind: str, features: tuple[Feature, ...]) -> str:
    if kind in IMAGE_TYPES:
        return "images have none: remove them" if features else ""
    if not features:
        return "missing: add at least one"
    joint_state = kind == "sensor_msgs/msg/JointState"
    for feature in features:
        if joint_state and (feature.joint is None or feature.field not in ("position", "velocity", "effort")):
            return f"feature {feature.name!r}: a JointState feature needs 'joint' and a field position, velocity or effort"
        if not joint_state and feature.joint is not None:
            return f"feature {feature.name!r}: 'joint' is for JointState channels only"
        if kind == "std_msgs/msg/Float64MultiArray" and (feature.field != "data" or feature.index is None):
            return "a Float64MultiArray feature needs field 'data' and an 'index'"
    return ""


_FITS: Final[dict[str, Callable[[str, Any], str]]] = {
    "frame": _frame_fault,
    "align": _align_fault,
    "clock": _clock_fault,
    "image": _image_fault,
    "features": _features_fault,
}


class ActionJoint(Record):
    """One commanded joint and its limits, in the units of the contract."""

    name: Annotated[str, Field(min_length=1)]
    low: Finite
    high: Finite
    units: str
    rate_limit: Positive | None = None
    """Largest change of the command per second, in units/s; null for none."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"joint {self.name!r}: low {self.low} must be below high {self.high}")
        return self


class Action(Record):
    """The command channel. Actions are always in the joints' own units, never normalized."""

    topic: Topic = "command"
    type: Literal["sensor_msgs/msg/JointState"] = "sensor_msgs/msg/JointState"
    interface: Literal["effort", "velocity", "position"]
    joints: Annotated[tuple[ActionJoint, ...], Field(min_length=1)]
    mirror_topic: Topic | None = None
    """If set, the gate repeats every command there as a Float64MultiArray, for ros2_control's forward controllers."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(j.name for j in self.joints)


class Function(Record):
    """A pure function in an installed Python package, and its constants."""

    function: ModuleFunction
    """`package.module:name`; a path to a file is refused. `learned`: there is none; models learn it from recorded steps.
    `environment`: an environment of another package gives it (`sim.adapters`); to models it is `learned` as well."""
    parameters: dict[str, Finite | str | bool] = {}

    @property
    def learned(self) -> bool:
        """Nobody can compute it: what was recorded on the topic `step` is what models are fitted to."""
        return self.function in (LEARNED, ENVIRONMENT)

    @model_validator(mode="before")
    @classmethod
    def _one_word(cls, data: Any) -> Any:
        return {"function": LEARNED} if data == LEARNED else data

    @model_validator(mode="after")
    def _nothing_to_set(self) -> Self:
        if self.function == LEARNED and self.parameters:
            raise ValueError("parameters: what is learned has none: remove them")
        return self


class Reward(Function):
    """Reward per control tick as a function of (observation, action, next observation)."""

    scale: Finite = 1.0
    """Factor on every reward, for instance to count on the scale of a published benchmark."""


class Episode(Record):
    """When an episode ends by itself."""

    duration_s: Positive
    """Then it is truncated, not terminated."""


class Safety(Record):
    """What the gate does when something is wrong."""

    hold: Literal["zero", "last_position"] | dict[str, Finite] = "zero"
    """The safe action: zero, the joints' measured positions (position interface), or a value for every joint."""
    max_observation_age_s: Positive
    max_plan_age_s: Positive
    """Longest time that a command, or the buffered plan behind it, may lag the observation it was computed from."""
    command_timeout_s: Positive
    """What the actuator itself waits before it falls back to hold, should the gate die."""
    estop_topic: Topic = "estop"
    """std_msgs/Bool, true stops; once stopped, the gate needs a new `~/arm`."""
    on_disagreement: Literal["report", "slow", "policy", "hold"] = "report"
    """While plans disagree more than the level that came with the controller: say so; also scale commands towards hold; also leave the
    robot to `policy/command`; also send no command, so that the gate holds."""

    @model_serializer(mode="wrap")
    def _without_mere_report(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Contracts from before there was a choice keep their hash.
        data: dict[str, Any] = dump(self)
        if self.on_disagreement == "report":
            del data["on_disagreement"]
        return data


class Start(Record):
    """Normal distribution of one start coordinate."""

    mean: Finite = 0.0
    std: Annotated[float, Field(ge=0), AfterValidator(_finite)] = 0.0


class Actuator(Record):
    """Which MuJoCo actuator drives a joint of the action."""

    actuator: str
    scale: Positive = 1.0
    """Contract units per unit of MuJoCo control: the actuator's gear for effort."""


class SimulatedCamera(Record):
    """What stands in for a camera of the robot."""

    camera: Annotated[str, Field(min_length=1)]
    """Camera of the MJCF; the picture has the size that the contract's channel asks for."""
    every: Annotated[int, Field(ge=1, le=1000)] = 1
    """Control ticks from one picture to the next."""


class Simulator(Record):
    """The MuJoCo stand-in for this robot."""

    mjcf: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*\.xml$")]
    """File beside the contract, or one that ships in the package's sim/ folder."""
    actuators: dict[str, Actuator]
    """Action joint name → actuator."""
    start_position: dict[str, Start] = {}
    """MuJoCo joint name → start; joints not named start at the model's default."""
    start_velocity: dict[str, Start] = {}
    camera: str | None = None
    """Camera of the MJCF for pictures that are for people; none: MuJoCo's free camera."""
    cameras: dict[str, SimulatedCamera] = {}
    """Image channel of the observation → what stands in for its camera."""

    @model_serializer(mode="wrap")
    def _without_absent_cameras(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Contracts from before there were cameras keep their hash.
        data: dict[str, Any] = dump(self)
        if not self.cameras:
            del data["cameras"]
        return data

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if ".." in Path(self.mjcf).parts:
            raise ValueError("mjcf: must not leave its folder with '..'")
        return self


class Contract(Record):
    """Everything a controller and a robot agree on; its hash travels in every bag, checkpoint and ONNX file."""

    format: Literal[1] = FORMAT
    name: Name
    robot: Name
    control: Control
    observation: Annotated[tuple[Channel, ...], Field(min_length=1)]
    action: Action
    reward: Reward
    termination: Function | None = None
    episode: Episode
    safety: Safety
    simulator: Simulator | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for what, names in (
            ("observation channel names", [c.name for c in self.observation]),
            ("observation topics", [c.topic for c in self.observation]),
            ("observation columns", list(self.observation_names)),
            ("action joints", list(self.action.names)),
        ):
            doubled = sorted({n for n in names if names.count(n) > 1})
            if doubled:
                raise ValueError(f"{what} must be different, but {doubled} occur more than once")
        if "observation" in self.images:
            raise ValueError("observation: no camera may be called 'observation', as the vector of all other channels is: rename it")
        if not self.observation_names:
            raise ValueError("observation: only images: add a channel with features, such as the joints, which times the control")
        hold = self.safety.hold
        if isinstance(hold, dict):
            if set(hold) != set(self.action.names):
                raise ValueError(f"safety.hold: names {sorted(hold)}, but the action's joints are {sorted(self.action.names)}")
            for joint in self.action.joints:
                if not joint.low <= hold[joint.name] <= joint.high:
                    raise ValueError(f"safety.hold: {joint.name} = {hold[joint.name]} is outside [{joint.low}, {joint.high}]")
        if hold == "zero" and any(not j.low <= 0 <= j.high for j in self.action.joints):
            raise ValueError("safety.hold: zero is outside the limits of a joint; give a value for every joint")
        if hold == "last_position":
            if self.action.interface != "position":
                raise ValueError("safety.hold: last_position needs action.interface: position")
            seen = {f.joint for c in self.observation for f in c.features if f.field == "position"}
            unseen = sorted(set(self.action.names) - seen)
            if unseen:
                raise ValueError(f"safety.hold: last_position needs the position of {unseen} in the observation")
        if self.simulator is not None and set(self.simulator.actuators) != set(self.action.names):
            raise ValueError(
                f"simulator.actuators: names {sorted(self.simulator.actuators)}, but the action's joints are {sorted(self.action.names)}"
            )
        for name, standin in (self.simulator.cameras if self.simulator is not None else {}).items():
            channel = next((c for c in self.observation if c.name == name and c.image is not None), None)
            if channel is None:
                raise ValueError(f"simulator.cameras: {name!r} is no image channel of the observation; there are {sorted(self.images)}")
            oldest = (standin.every - 1) * self.control.period_s
            allowed = min(channel.max_age_s, self.safety.max_observation_age_s)
            if oldest > allowed:
                raise ValueError(
                    f"simulator.cameras.{name}.every: a picture gets {oldest:g} s old, and at most {allowed:g} s are allowed "
                    f"(observation.{name}.max_age_s, safety.max_observation_age_s): lower every, or raise these"
                )
        return self

    @property
    def observation_names(self) -> tuple[str, ...]:
        """Column names of the observation vector, in order (O of them)."""
        return tuple(column for c in self.observation for f in c.features for column in f.columns)

    @property
    def observation_size(self) -> int:
        return len(self.observation_names)

    @property
    def images(self) -> dict[str, ImageFormat]:
        """Channel name → what the controller sees of it, for the image channels."""
        return {c.name: c.image for c in self.observation if c.image is not None}

    @property
    def dating_channels(self) -> tuple[str, ...]:
        """Names of the channels whose stamps date an observation: those with features and header stamps.

        Cameras are slower than the control loop, and times of reception are on another clock: such samples are held, and their age is
        watched channel by channel. Where no channel with features has stamps, its times of reception count.
        """
        vectors = [c for c in self.observation if c.image is None]
        return tuple(c.name for c in vectors if c.clock == "header") or tuple(c.name for c in vectors)

    @property
    def action_size(self) -> int:
        return len(self.action.joints)

    @property
    def episode_ticks(self) -> int:
        """Control ticks of a full episode (T)."""
        return round(self.episode.duration_s * self.control.rate_hz)

    def canonical_json(self) -> str:
        """The contract as JSON with sorted keys and every default written out: equal contracts, equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


def _explain(error: ValidationError, where: str) -> UserError:
    lines = []
    for fault in error.errors():
        field = ".".join(str(part) for part in fault["loc"]) or "contract"
        message = {
            "extra_forbidden": "unknown field: remove it or correct its spelling",
            "missing": "missing: add it",
        }.get(fault["type"], fault["msg"].removeprefix("Value error, "))
        given = fault.get("input")
        plain = given is not None and not isinstance(given, (dict, list, tuple, BaseModel))
        shown = f" (got {given!r})" if plain and fault["type"] not in ("missing", "extra_forbidden") else ""
        lines.append(f"{where}: {field}: {message}{shown}")
    return UserError("\n".join(lines))


def parse(data: Any, where: str) -> Contract:
    """Validates plain data as a contract.

    Args:
        data: what YAML or JSON gave.
        where: named in every message, for instance the file.

    Raises:
        UserError: one line for every fault, each with its field.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected a mapping of contract fields, found {type(data).__name__}")
    try:
        return Contract.model_validate(data)
    except ValidationError as error:
        raise _explain(error, where) from None


def load(name: str | Path) -> Contract:
    """Reads a contract from a file, or by the name of one that ships in `config/contracts`.

    Raises:
        UserError: the file is missing, too large, no YAML, or no valid contract.
    """
    path = resources.find("config/contracts", name, ".yaml")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"{path}: larger than {MAX_FILE_BYTES} bytes: this is no contract")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except Exception as error:  # not only YAMLError: PyYAML lets through what the conversion of a scalar raises, such as `2026-99-99`
        raise UserError(f"{path}: not readable as YAML: {error}") from None
    return parse(data, str(path))


def from_json(text: str, where: str) -> Contract:
    """Reads a contract from its canonical JSON, as bags and controllers carry it.

    Raises:
        UserError: not JSON, or no valid contract.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: the contract is not readable as JSON: {error}") from None
    return parse(data, where)


def difference(ours: Contract, theirs: Contract) -> list[str]:
    """Field by field, what differs: lines such as `control.rate_hz: 50.0 here, 100.0 there`."""

    def flat(value: Any, prefix: str) -> dict[str, Any]:
        if isinstance(value, dict) and value:
            return {k: v for key, item in value.items() for k, v in flat(item, f"{prefix}.{key}" if prefix else str(key)).items()}
        if isinstance(value, list) and value:
            return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{prefix}[{i}]").items()}
        return {prefix: value}

    here, there = (flat(c.model_dump(mode="json"), "") for c in (ours, theirs))
    absent = object()
    return [
        f"{key}: {here.get(key, 'absent')!r} here, {there.get(key, 'absent')!r} there"
        for key in sorted(here.keys() | there.keys())
        if here.get(key, absent) != there.get(key, absent)
    ]
