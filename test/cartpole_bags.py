"""Makes bags for tests: a cart-pole that is driven by known numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from wm_ros.contract import schema
from wm_ros.contract.announcements import EpisodeState
from wm_ros.contract.schema import Contract
from wm_ros.data.bag_writer import BagOptions, BagWriter
from wm_ros.data.qos import Qos
from wm_ros.data.ros_types import standard_store

JOINT_STATE = "sensor_msgs/msg/JointState"
STRING = "std_msgs/msg/String"
NUMBERS = "std_msgs/msg/Float64MultiArray"
START = 1_000_000_000
PERIOD = 20_000_000

store = standard_store()


def message(kind: str, *fields: Any) -> Any:
    return store.types[kind](*fields)


def header(stamp_ns: int, frame: str = "") -> Any:
    return message("std_msgs/msg/Header", message("builtin_interfaces/msg/Time", stamp_ns // 10**9, stamp_ns % 10**9), frame)


def cdr(kind: str, value: Any, **options: Any) -> bytes:
    return bytes(store.serialize_cdr(value, kind, **options))


def joint_state(
    stamp_ns: int, names: list[str], position: Any = (), velocity: Any = (), effort: Any = (), frame: str = "", **options: Any
) -> bytes:
    columns = [np.asarray(c, np.float64) for c in (position, velocity, effort)]
    return cdr(JOINT_STATE, message(JOINT_STATE, header(stamp_ns, frame), names, *columns), **options)


def numbers(values: list[float]) -> bytes:
    dimension = message("std_msgs/msg/MultiArrayDimension", "stamp_s,reward,terminated,truncated,return", len(values), len(values))
    layout = message("std_msgs/msg/MultiArrayLayout", [dimension], 0)
    return cdr(NUMBERS, message(NUMBERS, layout, np.asarray(values, np.float64)))


@lru_cache
def contract() -> Contract:
    return schema.load("cartpole_swingup")


def custom_data(of: Contract) -> dict[str, str]:
    return {"wm_ros.contract": of.canonical_json(), "wm_ros.contract_hash": of.hash, "wm_ros.controller_version": "3"}


def state(kind: str, ticks: int, start_ns: int = START, **fields: Any) -> EpisodeState:
    end = start_ns + ticks * PERIOD if kind == "ended" else 0
    return EpisodeState(episode=4, state=kind, purpose="train", seed=7, start_stamp_ns=start_ns, end_stamp_ns=end, **fields)  # type: ignore[arg-type]


def raw_state(k: int) -> tuple[list[float], list[float]]:
    """Position and velocity of slider and hinge at tick k; different at every tick."""
    return [0.001 * k, 0.1 * k], [0.01 * k, -0.02 * k]


def force(k: int) -> float:
    return float(np.sin(0.3 * k))


def write_cartpole(
    path: Path,
    ticks: int,
    *,
    announce: bool = True,
    namespace: str = "",
    skip_sensor: frozenset[int] = frozenset(),
    skip_command: frozenset[int] = frozenset(),
    jitter_ns: int = 0,
    close: bool = True,
    options: BagOptions | None = None,
    of: Contract | None = None,
    judge: Callable[[int], tuple[float, bool] | None] | None = None,
) -> Path:
    """A bag of `ticks` steps: sensors at every tick 0..ticks, commands at 0..ticks-1, and `step` with what `judge` says of a tick."""
    writer = BagWriter(path, custom_data(of or contract()), options)
    sensor = writer.add_topic(f"{namespace}/joint_states", JOINT_STATE, Qos("best_effort", depth=5))
    command = writer.add_topic(f"{namespace}/command", JOINT_STATE, Qos(depth=1))
    episode = writer.add_topic(f"{namespace}/episode", STRING, Qos(durability="transient_local", depth=1))
    step = writer.add_topic(f"{namespace}/step", NUMBERS, Qos()) if judge is not None else 0

    def say(what: EpisodeState, at: int) -> None:
        writer.write(episode, cdr(STRING, message(STRING, what.to_json())), at, at)

    for k in range(ticks + 1):
        stamp = START + k * PERIOD
        if announce and k == 0:
            say(state("running", ticks), stamp + 1000)
        position, velocity = raw_state(k)
        if k not in skip_sensor:
            at = stamp + (jitter_ns if k % 2 else -jitter_ns)
            # hinge first: the contract has the slider first, so order matters
            writer.write(sensor, joint_state(at, ["hinge_1", "slider"], position[::-1], velocity[::-1]), stamp + 2000, at)
        if judge is not None and k < ticks and (judged := judge(k)) is not None:
            writer.write(step, numbers([stamp * 1e-9, judged[0], judged[1], False, 0.0]), stamp + 5000, stamp + 5000)
        if k < ticks and k not in skip_command:
            writer.write(command, joint_state(stamp, ["slider"], effort=[force(k)], frame="pets:3:1f2e3d4c"), stamp + 3000, stamp)
    if announce and close:
        say(state("ended", ticks), START + ticks * PERIOD + 4000)
    if close:
        writer.close()
    else:
        writer._file.close_chunk()
        writer.abandon()
    return path
