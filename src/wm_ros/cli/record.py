"""What a demo's events add up to: returns, bags, controllers, latencies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

LATENCY_KEYS = {"p50": "latency_p50_ms", "p99": "latency_p99_ms", "max": "latency_max_ms"}
WHOLE = ("truncated", "terminated")
"""Outcomes of episodes that count; the episode manager runs another one in place of one that was broken off."""


@dataclass
class Record:
    """Fed with every event of one phase of a demo."""

    purpose: str
    """train or evaluate: episodes of the other kind are left out."""
    episodes: int
    """How many there will be."""
    driver: Literal["mpc", "policy_server"] = "mpc"
    """Node whose controller drives, and whose deadlines count."""
    returns: list[float] = field(default_factory=list)
    ticks: int = 0
    bags: list[str] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    """Newest announced controller."""
    serving: dict[str, Any] = field(default_factory=dict)
    """Controller that drives."""
    progress: dict[str, Any] = field(default_factory=dict)
    running: dict[str, Any] = field(default_factory=dict)
    """Last state of an episode."""
    stopped: str = ""
    """Why the series cannot be finished, where that is so."""
    diagnostics: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Node → what it last said of itself."""
    heard: Counter[str] = field(default_factory=Counter)
    """Node → how many diagnostics it has sent."""
    _before: tuple[int, int] | None = None
    """Deadlines and misses before the first episode, while the system came up."""

    def take(self, event: Mapping[str, Any]) -> None:
        """Takes one event in."""
        kind, data = event["event"], event["data"]
        if kind == "episode" and data["purpose"] == self.purpose:
            new = data["state"] == "ended" and (self.running.get("episode"), self.running.get("state")) != (data["episode"], "ended")
            if self._before is None and data["state"] == "running":
                self._before = self._counted()
            self.running = data
            if new and data["outcome"] in WHOLE:
                self.returns.append(data["total_reward"])
                self.ticks += data["ticks"]
            if data["outcome"] not in WHOLE and data["finished"]:
                self.stopped = f"episode {data['episode']} was broken off ({data['outcome']}), and none follows"
        elif kind == "segment" and data["episode"]["purpose"] == self.purpose and data["path"] not in self.bags:
            if data["episode"]["outcome"] in WHOLE:
                self.bags.append(data["path"])
        elif kind == "model":
            self.model = data
        elif kind == "controller":
            self.serving = data
        elif kind == "progress":
            self.progress = data
            if data["phase"] == "failed":
                self.stopped = f"the trainer gave up: {data['message']}"
        elif kind == "diagnostics":
            self.diagnostics.update(data)
            self.heard.update(data.keys())

    @property
    def episodes_done(self) -> bool:
        """All episodes have ended, their bags are closed, and who drove is known: of that, a busy machine tells late."""
        return len(self.returns) >= self.episodes and len(self.bags) >= self.episodes and bool(self.serving)

    @property
    def learned(self) -> bool:
        """The newest controller has learned from every episode."""
        return self.episodes_done and int(self.model.get("episodes", 0)) >= self.episodes

    def awaited(self) -> str:
        """What must come next, in words."""
        done = len(self.returns)
        if not self.serving:
            return f"a controller: {self.driver} has announced none on {self.driver.removesuffix('_server')}/controller"
        if done >= self.episodes:
            if len(self.bags) < self.episodes:
                return f"bag {len(self.bags) + 1} of {self.episodes} from logger"
            return f"the controller that has learned from {self.episodes} episodes, from trainer ({self._training()})"
        state = self.running.get("state", "starting")
        if self.purpose == "train" and state in ("ended", "starting") and int(self.serving.get("version", -1)) < done:
            return f"controller version {done} from trainer ({self._training()})"
        return f"episode {done + 1} of {self.episodes} ({state}) from episode_manager and sim"

    def _training(self) -> str:
        phase = self.progress.get("phase", "nothing heard of it")
        return f"{phase}, epoch {self.progress.get('epoch', 0)} of {self.progress.get('epochs', 0)}" if phase == "training" else str(phase)

    def latency_ms(self) -> dict[str, dict[str, float]]:
        """Node → p50, p99 and max of its latency in ms, of nodes that report one."""
        found = {}
        for node, health in self.diagnostics.items():
            values = {name: _number(health["values"].get(key)) for name, key in LATENCY_KEYS.items()}
            if all(math.isfinite(value) for value in values.values()):
                found[node] = values
        return found

    def deadlines(self) -> tuple[int, int]:
        """Control deadlines and how many of them were missed since the first episode began, as the node that drives counts them.

        It counts from its start, and says so once a second: the second before the first episode may be in it.
        """
        before, now = self._before or (0, 0), self._counted()
        return now[0] - before[0], now[1] - before[1]

    def _counted(self) -> tuple[int, int]:
        values = self.diagnostics.get(self.driver, {}).get("values", {})
        return int(_number(values.get("deadlines"), 0)), int(_number(values.get("deadline_misses"), 0))


def _number(text: Any, otherwise: float = math.nan) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return otherwise
    return value if math.isfinite(value) else otherwise
