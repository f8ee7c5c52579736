"""The JSON that std_msgs/String topics carry: small, validated records with one schema each."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wm_ros.contract.errors import UserError

MAX_BYTES = 1 << 20
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Index = Annotated[int, Field(ge=0)]


class Announcement(BaseModel):
    """Base: frozen, unknown fields refused, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> str:
        return self.model_dump_json()


class EpisodeState(Announcement):
    """Topic `episode` (latched), from episode_manager at every change."""

    episode: Index
    state: Literal["starting", "running", "ended", "discarded"]
    purpose: Literal["train", "evaluate"]
    seed: int
    start_stamp_ns: int = 0
    """Robot time of the first observation; 0 while starting."""
    end_stamp_ns: int = 0
    """Robot time of the last observation; 0 until ended."""
    ticks: Index = 0
    outcome: Literal["", "truncated", "terminated", "stopped", "discarded"] = ""
    total_reward: float = 0.0
    """The episode's return so far, on the contract's scale."""
    controller_sha256: str = ""
    controller_version: int = -1
    finished: bool = False
    """True with the last episode of a series: nothing follows by itself."""


class Segment(Announcement):
    """Topic `log/segment` (latched, depth 100), from logger when a bag is closed and readable."""

    path: str
    """The rosbag2 directory, absolute."""
    episode: EpisodeState
    contract_hash: Sha256
    messages: Index
    bytes: Index
    dropped: Index = 0


class ControllerNotice(Announcement):
    """Topics `model` (latched, from trainer: the newest), `mpc/controller` and `policy/controller` (latched: the one that serves)."""

    path: str
    sha256: Sha256
    contract_hash: Sha256
    agent: str
    version: int
    """Counts up with each export of one run; 0 explores at random."""
    episodes: Index = 0
    """Training episodes it has learned from."""


class Progress(Announcement):
    """Topic `train/progress`, from trainer."""

    phase: Literal["waiting", "reading", "training", "exporting", "ready", "failed"]
    version: int
    episodes: Index = 0
    transitions: Index = 0
    epoch: Index = 0
    epochs: Index = 0
    train_loss: float | None = None
    holdout_loss: float | None = None
    seconds: float = 0.0
    message: str = ""
    metrics: dict[str, Any] = {}


A = TypeVar("A", bound=Announcement)


def read(kind: type[A], text: str, where: str) -> A:
    """Parses and validates one announcement.

    Args:
        kind: which record is expected.
        text: the JSON.
        where: named in the error, for instance the topic.

    Raises:
        UserError: too long, not JSON, or other fields than expected.
    """
    if len(text) > MAX_BYTES:
        raise UserError(f"{where}: {len(text)} characters: longer than {MAX_BYTES}, ignored")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(p) for p in fault["loc"]) or "text"
        raise UserError(f"{where}: {field}: {fault['msg']}") from None
