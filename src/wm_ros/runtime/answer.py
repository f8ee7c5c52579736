"""What a controller said to one control tick."""

from __future__ import annotations

from dataclasses import dataclass

from wm_ros.runtime.control_ticks import Tick
from wm_ros.runtime.controller import ControllerOutput, ControllerSession
from wm_ros.runtime.plan_age import source_name


@dataclass(frozen=True)
class Answer:
    """An action for a tick: the controller's own, or a row of a plan that it has made for an earlier one."""

    session: ControllerSession
    tick: Tick
    """Whose action this is."""
    output: ControllerOutput
    age_ns: int = 0
    """How much older than the tick the observation is that this was computed from; 0 unless a plan is followed."""

    @property
    def source(self) -> str:
        """For the command's `frame_id`, such as `pets:3:1f2e3d4c`, or `pets:3:1f2e3d4c+40ms` where a plan is followed."""
        return source_name(self.session.name, self.age_ns)
