"""Episodes in lockstep without ROS: the same observations, actions and rewards as through the nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.data.episode import Episode, Provenance
from wm_ros.sim.simulator import Simulator
from wm_ros.sim.timeline import Timeline
from wm_ros.sim.world import LOCKSTEP_ORIGIN_NS, SimulatedRobot, World

Act = Callable[[NDArray[np.float32]], NDArray[Any]]
"""observation [O] → action [A] in contract units."""


def reset_seed(seed: int, resets: int) -> np.random.SeedSequence:
    """Seed of the start state after so many resets, the first being 1."""
    return np.random.SeedSequence([seed, resets])


def run_episode(simulator: Simulator, act: Act, ticks: int | None = None, *, seed: int = 0, resets: int = 1) -> Episode:
    """Resets the simulator and drives it for one episode.

    Args:
        simulator: the robot.
        act: the controller.
        ticks: longest episode (T); the contract's own length if None.
        seed: as the parameter `seed` of the node `sim`.
        resets: which start state of that seed.

    Returns:
        An episode of at most `ticks` steps, shorter where the contract's termination ends it.

    Raises:
        UserError: the contract needs sensors that the simulator lacks, or the simulation became unstable.
    """
    return drive(SimulatedRobot(simulator), act, ticks, seed=seed, resets=resets)


def drive(world: World, act: Act, ticks: int | None = None, *, seed: int = 0, resets: int = 1) -> Episode:
    """`run_episode` in any world."""
    contract = world.contract
    timeline = Timeline(contract.control.period_ns, LOCKSTEP_ORIGIN_NS)
    observations, actions, rewards, stamps = [world.reset(reset_seed(seed, resets))], [], [], [timeline.now_ns]
    pictures, terminated = [world.images()], False
    for _ in range(contract.episode_ticks if ticks is None else ticks):
        action = np.asarray(act(observations[-1]), dtype=np.float32)
        if action.shape != (contract.action_size,) or not np.isfinite(action).all():
            raise ValueError(f"the controller gave {action!r}, expected [{contract.action_size}] finite values")
        tick = world.step(action)
        timeline.tick()
        observations.append(tick.observation)
        pictures.append(world.images())
        actions.append(action)
        stamps.append(timeline.now_ns)
        rewards.append(tick.reward)
        terminated = tick.terminated
        if terminated or tick.cut:
            break
    ends = np.zeros(len(actions), dtype=np.bool_)
    ends[-1] = terminated
    return Episode(
        observation=np.stack(observations),
        action=np.stack(actions),
        reward=np.array(rewards, dtype=np.float32),
        terminated=ends,
        truncated=not terminated,
        stamp=np.array(stamps, dtype=np.int64),
        provenance=Provenance(contract_hash=contract.hash, seed=seed),
        images={name: np.stack([shown[name] for shown in pictures]) for name in contract.images},
    )
