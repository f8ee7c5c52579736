"""Which pictures may be acted on: none that is too old, and in lockstep none where the next one is under way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wm_ros.contract.assembler import Observation
from wm_ros.contract.schema import Contract


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
