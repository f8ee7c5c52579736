"""What can be driven tick by tick without ROS: a contract's simulator, or an environment of another package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.assembler import Assembler, ChannelReader
from wm_ros.contract.errors import UserError
from wm_ros.contract.functions import reward_function, termination_function
from wm_ros.contract.schema import Contract
from wm_ros.sim.cameras import Cameras
from wm_ros.sim.sensors import check_channels, image_sample, read_channels
from wm_ros.sim.simulator import Simulator
from wm_ros.sim.timeline import Timeline

LOCKSTEP_ORIGIN_NS = 1_000_000_000
"""Where time starts in lockstep."""


@dataclass(frozen=True)
class Tick:
    """What one control period gave."""

    observation: NDArray[np.float32]
    """[O], after it."""
    reward: float
    terminated: bool
    """The task's final state is reached."""
    cut: bool = False
    """The world cannot go on for another reason; the contract's own length is the caller's to count."""


class World(Protocol):
    """One robot in its task. What it does follows from the seed of the reset and the actions since, bit for bit."""

    @property
    def contract(self) -> Contract:
        """What it is a world of."""

    @property
    def frames_per_tick(self) -> int:
        """Frames, as published results count them, in one control period."""

    def reset(self, seed: np.random.SeedSequence) -> NDArray[np.float32]:
        """A new start state; the first observation [O]."""

    def step(self, action: NDArray[np.float32]) -> Tick:
        """One control period under an action [A] in contract units."""

    def images(self) -> dict[str, NDArray[np.uint8]]:
        """Image channel → what its camera shows now [H, W, C], as the controller sees it. Drawn when it is asked for."""


class SimulatedRobot:
    """A contract's MuJoCo simulator, seen through the contract's sensors and rewarded by its functions."""

    def __init__(self, simulator: Simulator) -> None:
        """Takes the simulator over.

        Raises:
            UserError: the contract needs sensors that the simulator lacks.
        """
        self.contract = simulator.contract
        self.frames_per_tick = simulator.frames_per_tick
        check_channels(self.contract, simulator)
        self._simulator = simulator
        self._cameras = Cameras(self.contract, simulator.beside)
        # Pictures are drawn only when they are asked for: the assembler shall not wait for them.
        self._blind = self.contract.model_copy(update={"observation": tuple(c for c in self.contract.observation if c.image is None)})
        self._pose: dict[str, NDArray[np.float64]] = {}
        self._drawn: dict[str, NDArray[np.uint8]] = {}
        self._readers = {c.name: ChannelReader(c) for c in self.contract.observation if c.image is not None}
        self._reward, self._termination = reward_function(self.contract), termination_function(self.contract)

    def reset(self, seed: np.random.SeedSequence) -> NDArray[np.float32]:
        """See `World.reset`."""
        self._assembler = Assembler(self._blind)
        self._drawn.clear()
        self._ticks = 0
        self._timeline = Timeline(self.contract.control.period_ns, LOCKSTEP_ORIGIN_NS)
        self._simulator.reset(seed)
        self._seen = self._observe()
        return self._seen

    def step(self, action: NDArray[np.float32]) -> Tick:
        """See `World.step`.

        Raises:
            UserError: the simulation became unstable.
        """
        self._simulator.command(action)
        self._simulator.step_tick()
        if self._simulator.fault is not None:
            raise UserError(f"contract {self.contract.name}: {self._simulator.fault}")
        self._timeline.tick()
        self._ticks += 1
        before, self._seen = self._seen, self._observe()
        step = before, action, self._seen
        terminated = self._termination is not None and bool(self._termination(*step))
        return Tick(self._seen, float(self._reward(*step)), terminated)

    def images(self) -> dict[str, NDArray[np.uint8]]:
        """See `World.images`.

        Raises:
            UserError: no GL library works here.
        """
        for name in self._readers.keys() - self._drawn.keys():
            for channel, picture in self._cameras.draw(self._pose[name], (name,)).items():
                # Through the message, so that a controller sees the same as on the robot.
                sample = image_sample(self.contract, channel, picture, self._timeline.now_ns)
                self._drawn[channel] = self._readers[channel].image(sample)
        return {name: self._drawn[name] for name in self._readers}

    def _observe(self) -> NDArray[np.float32]:
        for name in self._cameras.due(self._ticks):
            self._pose[name] = self._simulator.data.qpos.copy()
            self._drawn.pop(name, None)
        for name, sample in read_channels(self.contract, self._simulator, self._timeline.now_ns).items():
            self._assembler.update(name, sample, self._timeline.now_ns)
        observation = self._assembler.observe()
        assert observation is not None
        return observation.vector


def make(contract: Contract, beside: Path | None = None) -> World:
    """The world of a contract: the environment that its reward comes from, or its simulator.

    Args:
        contract: with a simulator, or made by `sim.adapters.contract_of`.
        beside: the contract's folder, searched for its MJCF.

    Raises:
        UserError: there is no such environment, no simulator, or it does not fit the contract.
    """
    from wm_ros.sim import adapters

    if adapters.is_adapted(contract):
        return adapters.Environment(contract)
    return SimulatedRobot(Simulator(contract, beside))
