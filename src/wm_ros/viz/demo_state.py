"""What is known of a running demo, kept up to date by its events; drawn by `viz.console`."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from wm_ros.contract import announcements
from wm_ros.contract.announcements import Announcement, ControllerNotice, EpisodeState, Progress, Segment

LIVE_SAMPLES = 240
"""Rewards of the running episode that are kept for its sparkline."""


def number(value: Any) -> float:
    """A float out of anything that came over a topic; NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


@dataclass
class EpisodeRow:
    """One line of the table of episodes."""

    episode: int
    purpose: str
    ordinal: int
    """Counts from 1 within its purpose."""
    state: str = "starting"
    total: float = 0.0
    ticks: int = 0
    start_s: float = math.nan
    """Robot time of its first observation."""
    elapsed_s: float = 0.0
    """Robot time since then."""
    version: int = -1
    """Controller that drove it."""
    outcome: str = ""
    model_error: float = math.nan
    """Held-out loss of the model that was trained after this episode."""
    train_s: float = math.nan
    p50_ms: float = math.nan
    p99_ms: float = math.nan
    messages: int = 0
    dropped: int = 0


@dataclass
class Health:
    """What a node last said of itself."""

    level: int
    message: str
    values: dict[str, str]
    heard_s: float


@dataclass
class DemoState:
    """The demo as its events have told it.

    Only `apply`, `enter` and `tick` change it; everything else reads.
    """

    total_episodes: int
    """Training episodes planned."""
    evaluation_episodes: int
    rows: list[EpisodeRow] = field(default_factory=list)
    phases: list[tuple[str, float]] = field(default_factory=list)
    """(name, time at which it began), oldest first."""
    rewards: deque[float] = field(default_factory=lambda: deque(maxlen=LIVE_SAMPLES))
    progress: Progress | None = None
    newest: ControllerNotice | None = None
    serving: ControllerNotice | None = None
    nodes: dict[str, Health] = field(default_factory=dict)

    @property
    def current(self) -> EpisodeRow | None:
        """The episode under way, if any."""
        return self.rows[-1] if self.rows and self.rows[-1].state in ("starting", "running") else None

    @property
    def best(self) -> float:
        """Highest return so far; 0 when there is none."""
        return max((row.total for row in self.rows if math.isfinite(row.total)), default=0.0)

    def done(self, purpose: str) -> int:
        """Episodes of one purpose that ended and were kept."""
        return sum(row.purpose == purpose and row.state == "ended" for row in self.rows)

    def enter(self, phase: str, now: float) -> None:
        """A new phase of the demo begins; it may have other processes."""
        self.phases.append((phase, now))
        self.nodes.clear()

    def apply(self, event: Mapping[str, Any], now: float) -> str | None:
        """Takes one event in.

        Args:
            event: {"event": kind, "time": s, "data": {...}}; an unknown kind is left alone.
            now: time on the display's own clock, in seconds.

        Returns:
            One line that says what happened, or None where it is not worth one (a step, unchanged health).

        Raises:
            UserError: the data are not what the kind of event promises.
        """
        kind, data = str(event.get("event", "")), event.get("data", {})
        handler = getattr(self, f"_on_{kind}", None)
        return None if handler is None else handler(data, now)

    # ---- one method per kind of event -----------------------------------------------------------------------------

    def _on_episode(self, data: Mapping[str, Any], now: float) -> str:
        state = _read(EpisodeState, data)
        row = self._row(state)
        if row.state != "running" and state.state == "running":
            self.rewards.clear()
        if state.start_stamp_ns:
            row.start_s = state.start_stamp_ns * 1e-9
        row.state, row.ticks, row.outcome = state.state, max(row.ticks, state.ticks), state.outcome
        if state.state in ("ended", "discarded"):
            row.total = state.total_reward
        if state.controller_version >= 0:
            row.version = state.controller_version
        what = f"episode {row.episode:04d} ({self.label(row)})"
        if state.state == "ended":
            return f"{what}: return {row.total:.1f} in {row.ticks} ticks, {row.outcome or 'ended'}"
        if state.state == "discarded":
            return f"{what}: discarded"
        driver = f", controller version {row.version}" if row.version >= 0 else ""
        return f"{what}: {state.state}{driver}"

    def _on_step(self, data: Mapping[str, Any], now: float) -> None:
        row = self.current
        if row is None:
            return
        row.total = number(data.get("return"))
        # Not counted: events are thinned out on their way here.
        stamp_s = number(data.get("stamp_s"))
        row.start_s = row.start_s if math.isfinite(row.start_s) else stamp_s
        row.elapsed_s = max(0.0, stamp_s - row.start_s)
        self.rewards.append(number(data.get("reward")))

    def _on_model(self, data: Mapping[str, Any], now: float) -> str:
        self.newest = _read(ControllerNotice, data)
        notice = self.newest
        return f"controller version {notice.version} is written ({notice.agent}, learned from {plural(notice.episodes, 'episode')})"

    def _on_controller(self, data: Mapping[str, Any], now: float) -> str:
        self.serving = _read(ControllerNotice, data)
        return f"controller version {self.serving.version} drives now ({self.serving.sha256[:8]})"

    def _on_progress(self, data: Mapping[str, Any], now: float) -> str | None:
        before, progress = self.progress, _read(Progress, data)
        self.progress = progress
        row = self._trained_row(progress)
        if row is not None and progress.phase in ("training", "exporting", "ready"):
            row.train_s = progress.seconds or row.train_s
            if progress.holdout_loss is not None:
                row.model_error = progress.holdout_loss
        if before is not None and (before.phase, before.version) == (progress.phase, progress.version):
            return None
        loss = "" if progress.holdout_loss is None else f", held-out loss {progress.holdout_loss:.3g}"
        text = f": {progress.message}" if progress.message else ""
        data_so_far = plural(progress.episodes, "episode")
        took = f", {progress.seconds:.1f} s" if progress.seconds else ""
        return f"trainer: {progress.phase}, version {progress.version}, {data_so_far}{loss}{took}{text}"

    def _on_segment(self, data: Mapping[str, Any], now: float) -> str:
        segment = _read(Segment, data)
        row = self._row(segment.episode)
        row.messages, row.dropped = segment.messages, segment.dropped
        lost = f", {segment.dropped} DROPPED" if segment.dropped else ""
        return f"bag {segment.path}: {segment.messages} messages, {segment.bytes / 1e6:.1f} MB{lost}"

    def _on_diagnostics(self, data: Mapping[str, Any], now: float) -> str | None:
        lines = []
        for name, said in data.items():
            before = self.nodes.get(name)
            health = Health(int(said.get("level", 0)), str(said.get("message", "")), dict(said.get("values", {})), now)
            self.nodes[name] = health
            if name.rpartition("/")[2] in ("mpc", "policy_server") and self.current is not None:
                self.current.p50_ms = number(health.values.get("latency_p50_ms"))
                self.current.p99_ms = number(health.values.get("latency_p99_ms"))
            if (0 if before is None else before.level) != health.level:
                lines.append(f"{name}: {LEVELS[min(health.level, 3)]}: {health.message}")
        return "; ".join(lines) or None

    # ---- helpers --------------------------------------------------------------------------------------------------

    def label(self, row: EpisodeRow) -> str:
        """For instance `learning 2/6` or `evaluation 1/3`."""
        total = self.evaluation_episodes if row.purpose == "evaluate" else self.total_episodes
        return f"{'evaluation' if row.purpose == 'evaluate' else 'learning'} {row.ordinal}/{max(total, row.ordinal)}"

    def next_step(self) -> str:
        """What comes next, in a few words."""
        learned, evaluated = self.done("train"), self.done("evaluate")
        if learned >= self.total_episodes and evaluated >= self.evaluation_episodes:
            return "the report"
        row = self.current
        if row is None and self.progress is not None and self.progress.phase in ("reading", "training", "exporting"):
            return f"controller version {self.progress.version} drives " + (
                f"learning {learned + 1}/{self.total_episodes}"
                if learned < self.total_episodes
                else f"evaluation 1/{self.evaluation_episodes}"
            )
        if row is not None and row.purpose == "train":
            return f"the trainer learns from the bag of episode {row.episode:04d}"
        if learned < self.total_episodes:
            return f"learning {learned + 1}/{self.total_episodes}"
        nth = evaluated + 1 + (row is not None)
        return f"evaluation {nth}/{self.evaluation_episodes} in real time" if nth <= self.evaluation_episodes else "the report"

    def _row(self, state: EpisodeState) -> EpisodeRow:
        for row in self.rows:
            if row.episode == state.episode:
                return row
        ordinal = 1 + sum(row.purpose == state.purpose and row.state != "discarded" for row in self.rows)
        self.rows.append(EpisodeRow(state.episode, state.purpose, ordinal))
        return self.rows[-1]

    def _trained_row(self, progress: Progress) -> EpisodeRow | None:
        """The row of the last training episode that went into the model, if it has one."""
        trained = [row for row in self.rows if row.purpose == "train" and row.state != "discarded"]
        return trained[progress.episodes - 1] if 0 < progress.episodes <= len(trained) else None


A = TypeVar("A", bound=Announcement)


def _read(kind: type[A], data: Mapping[str, Any]) -> A:
    return announcements.read(kind, json.dumps(data), f"event {kind.__name__}")


LEVELS = ("ok", "warning", "ERROR", "stale")


def plural(count: int, noun: str) -> str:
    """1 episode, 2 episodes."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
