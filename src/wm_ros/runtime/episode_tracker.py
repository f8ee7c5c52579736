"""Follows an episode from its observations and commands: control ticks, rewards, and why it ended."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.functions import reward_function, termination_function
from wm_ros.contract.schema import Contract

PATIENCE = 3
"""Observations that a tick waits for its command: topics overtake each other."""

Outcome = Literal["", "truncated", "terminated", "stopped"]


@dataclass(frozen=True)
class Step:
    """One control tick."""

    stamp_ns: int
    """Stamp of the observation that the tick began with."""
    reward: float
    terminated: bool
    truncated: bool
    total_reward: float
    """The return, this tick included."""


class EpisodeTracker:
    """Turns the observations and commands of one episode into steps.

    A tick is complete when the observation after it and the command stamped with it are there. A command that has not come `PATIENCE`
    observations later is given up, and the one before it counts as still in force. Ticks whose observation was lost get the reward of the
    transition that spans them. A gap longer than `safety.max_observation_age_s` stops the episode at the last observation before it.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        # What is learned is judged by somebody else, and recorded from there.
        learned_end = contract.termination is not None and contract.termination.learned
        self._reward = None if contract.reward.learned else reward_function(contract)
        self._termination = None if learned_end else termination_function(contract)
        self._period_ns = contract.control.period_ns
        self._max_gap_ns = max(round(contract.safety.max_observation_age_s * 1e9), 2 * self._period_ns)
        self.begin()

    def begin(self) -> None:
        """Forgets everything: the next observation is tick 0."""
        self._observations: deque[tuple[int, NDArray[np.float32]]] = deque()
        self._commands: deque[tuple[int, NDArray[np.float32]]] = deque()
        self._seen_ns = 0
        self._in_force = np.zeros(self._contract.action_size, dtype=np.float32)
        self.outcome: Outcome = ""
        """Why the episode ended; empty while it goes on."""
        self.start_stamp_ns = 0
        """Stamp of tick 0; 0 before."""
        self.last_stamp_ns = 0
        """Stamp of the last observation that counts."""
        self.ticks = 0
        self.total_reward = 0.0
        self.lost_observations = 0
        self.lost_commands = 0

    @property
    def begun(self) -> bool:
        """True from tick 0 on."""
        return self.start_stamp_ns != 0

    def command(self, stamp_ns: int, action: NDArray[np.floating]) -> None:
        """A command, with the stamp of its observation.

        Args:
            stamp_ns: header stamp.
            action: [A] in contract units.
        """
        self._commands.append((stamp_ns, np.asarray(action, dtype=np.float32)))

    def observe(self, stamp_ns: int, vector: NDArray[np.float32]) -> list[Step]:
        """An observation; gives the steps that it completes.

        Args:
            stamp_ns: robot time; sensors may be faster than control, observations between two ticks are left out.
            vector: [O].
        """
        if self.outcome:
            return []
        if not self._observations:
            self._observations.append((stamp_ns, vector))
            self.start_stamp_ns = self.last_stamp_ns = self._seen_ns = stamp_ns
            return []
        newest = self._observations[-1][0]
        # Half a sensor period of tolerance, as when a bag is read: a sensor at the control rate may be a little early by its jitter.
        tolerance = min(stamp_ns - self._seen_ns, self._period_ns) // 2
        self._seen_ns = stamp_ns
        if stamp_ns + tolerance < self.start_stamp_ns + (self._tick(newest) + 1) * self._period_ns:
            return []
        if stamp_ns - newest > self._max_gap_ns:
            steps = self._complete(patient=False)
            self.outcome = self.outcome or "stopped"
            return steps
        self._observations.append((stamp_ns, vector))
        return self._complete(patient=True)

    def _tick(self, stamp_ns: int) -> int:
        return round((stamp_ns - self.start_stamp_ns) / self._period_ns)

    def _complete(self, patient: bool) -> list[Step]:
        """Steps of all transitions whose command is there; without patience, of all transitions."""
        steps: list[Step] = []
        while len(self._observations) >= 2 and not self.outcome:
            (stamp, before), (next_stamp, after) = self._observations[0], self._observations[1]
            action = self._command_of(stamp)
            if action is None:
                if patient and len(self._observations) < 2 + PATIENCE:
                    break
                self.lost_commands += 1
                action = self._in_force
            self._in_force = action
            self._observations.popleft()
            steps += self._transition(stamp, before, action, next_stamp, after)
        return steps

    def _command_of(self, stamp_ns: int) -> NDArray[np.float32] | None:
        half = self._period_ns / 2
        found = None
        while self._commands and self._commands[0][0] < stamp_ns + half:
            command_stamp, action = self._commands.popleft()
            if command_stamp >= stamp_ns - half:
                found = action
        return found

    def _transition(
        self, stamp: int, before: NDArray[np.float32], action: NDArray[np.float32], next_stamp: int, after: NDArray[np.float32]
    ) -> list[Step]:
        reward = 0.0 if self._reward is None else float(self._reward(before, action, after))
        terminated = self._termination is not None and bool(self._termination(before, action, after))
        ticks = self._tick(next_stamp) - self._tick(stamp)
        self.lost_observations += ticks - 1
        steps = []
        for i in range(ticks):
            self.ticks += 1
            self.total_reward += reward
            last = i == ticks - 1
            truncated = self.ticks >= self._contract.episode_ticks and not (last and terminated)
            steps.append(Step(stamp + i * self._period_ns, reward, last and terminated, truncated, self.total_reward))
            if truncated:
                self.outcome = "truncated"
                break
        if not self.outcome and terminated:
            self.outcome = "terminated"
        self.last_stamp_ns = next_stamp
        return steps
