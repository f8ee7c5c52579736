"""Which pictures may be acted on: none that is too old, and none where the next one is under way, in real time for a while."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wm_ros.contract.assembler import Observation
from wm_ros.contract.schema import Contract

_JITTER = 0.1
"""Of the interval between two pictures."""


def lockstep_lives_ns(contract: Contract) -> dict[str, int]:
    """Image channel → the age at which a picture's successor is due in lockstep, where the simulator sends each with its tick.

    The messages of one tick come in any order. Who waits until every picture is younger than this sees the same ones every time.
    """
    cameras = contract.simulator.cameras if contract.simulator is not None else {}
    stamped = {c.name for c in contract.observation if c.clock == "header"}
    return {name: camera.every * contract.control.period_ns for name, camera in cameras.items() if name in stamped}


class PictureWatch:
    """Judges the pictures of observations by their age."""

    def __init__(self, contract: Contract) -> None:
        most = contract.safety.max_observation_age_s
        self._limits = {c.name: (c.topic, min(c.max_age_s, most)) for c in contract.observation if c.image is not None}
        self._lives = lockstep_lives_ns(contract)

    def incomplete(self, observation: Observation) -> bool:
        """Lockstep: a picture of this tick has yet to come."""
        ages = observation.image_age_ns
        return any(ages[name] >= life for name, life in self._lives.items())

    def fault(self, observation: Observation, looked_at: Iterable[str]) -> str:
        """Why a controller that looks at these channels must not act on an observation; empty where it may."""
        for name in looked_at:
            topic, limit_s = self._limits[name]
            if name not in observation.image_age_ns:
                return f"no image of channel {name}: check {topic}"
            age_s = observation.image_age_ns[name] * 1e-9
            if age_s > limit_s:
                return f"image of channel {name} is {age_s:.2f} s old, at most {limit_s:g} s are allowed: check {topic}"
        return ""


class PictureWait:
    """Real time: holds an observation back whose picture has been taken, but has not come yet.

    Drawing or sending a picture takes longer than a few numbers do. A controller that acted when the numbers come would see the picture of
    the tick before, every time; it has learned with that of the same time, in simulation and from bags, which go by stamps.

    A camera's next picture is expected one interval of its stamps after the last; a slower camera than the control is not waited for in
    between. Where its clock is that of reception, nobody knows when a picture was taken, and none is waited for.

    Args:
        contract: names cameras and limits.
        longest_ns: an observation is held so long at most, on the steady clock.
    """

    def __init__(self, contract: Contract, longest_ns: int) -> None:
        self.longest_ns = longest_ns
        self._limits_ns = {c.name: round(1e9 * c.max_age_s) for c in contract.observation if c.image is not None and c.clock == "header"}
        self._taken: dict[str, tuple[int, int]] = {}
        """Camera → stamp of its newest picture, and the interval before it; 0 where that is not known."""
        self._held: tuple[Observation, int] | None = None

    def come(self, observation: Observation, now_ns: int, looked_at: Iterable[str]) -> tuple[Observation, int] | None:
        """The newest observation, and since when it has been waited with, where it is to be acted on now.

        Args:
            observation: may be one that came before, with another picture.
            now_ns: steady time.
            looked_at: image channels that the controller looks at.

        Returns:
            None where it is held: ask `patience_over` after `longest_ns`.
        """
        self._note(observation)
        since_ns = now_ns if self._held is None else self._held[1]
        self._held = (observation, since_ns) if self.longest_ns and any(self._due(observation, name) for name in looked_at) else None
        return (observation, since_ns) if self._held is None else self.patience_over(now_ns)

    def patience_over(self, now_ns: int) -> tuple[Observation, int] | None:
        """The observation that has been held for the longest time allowed, and since when; None where there is none."""
        held = self._held
        if held is None or now_ns - held[1] < self.longest_ns:
            return None
        self._held = None
        return held

    @property
    def holds(self) -> bool:
        """Whether an observation is held."""
        return self._held is not None

    def forget(self) -> None:
        """Time has jumped."""
        self._held = None
        self._taken.clear()

    def _note(self, observation: Observation) -> None:
        for name, limit_ns in self._limits_ns.items():
            stamp = observation.stamp_ns - observation.image_age_ns[name]
            before, interval = self._taken.get(name, (stamp, 0))
            if stamp != before:
                interval = stamp - before if 0 < stamp - before <= limit_ns else 0
            self._taken[name] = (stamp, interval)

    def _due(self, observation: Observation, name: str) -> bool:
        """A later picture than the newest was taken by the time of the observation, or the newest must not be acted on any more."""
        if name not in self._limits_ns:
            return False
        age, (_, interval) = observation.image_age_ns[name], self._taken[name]
        return age > self._limits_ns[name] or 0.0 < (1.0 - _JITTER) * interval <= age


def missing_channels(contract: Contract, missing: Iterable[str], complaints: Mapping[str, str]) -> str:
    """One line for people about the channels that an observation lacks or that were refused last; empty where all is well.

    Args:
        contract: names their topics.
        missing: channels that have not been heard.
        complaints: channel → what was wrong with its last message.
    """
    topics = {c.name: c.topic for c in contract.observation}
    lines = [complaints.get(name, f"no {name} yet on {topics[name]}") for name in missing]
    lines += [text for name, text in complaints.items() if name not in missing]
    return "; ".join(lines)
