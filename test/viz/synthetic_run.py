"""A run directory as the demo leaves it, made without ROS: the simulator, a hand-written swing-up and the real bag writer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from wm_ros.contract.announcements import EpisodeState
from wm_ros.contract.assembler import encode
from wm_ros.contract.schema import Contract
from wm_ros.data.bag_writer import BagWriter
from wm_ros.data.qos import Qos
from wm_ros.data.ros_types import standard_store
from wm_ros.sim.simulator import Simulator

HORIZON = 25
PLAN_STRIDE = 2
SYSTEM_START_NS = 1_790_000_000_000_000_000


def _header(stamp_ns: int, frame_id: str = "") -> Any:
    types = standard_store().types
    stamp = types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def _joint_state(stamp_ns: int, names: list[str], frame_id: str = "", **fields: Any) -> bytes:
    arrays = {k: np.asarray(fields.get(k, []), dtype=np.float64) for k in ("position", "velocity", "effort")}
    message = standard_store().types["sensor_msgs/msg/JointState"](header=_header(stamp_ns, frame_id), name=names, **arrays)
    return bytes(standard_store().serialize_cdr(message, "sensor_msgs/msg/JointState"))


def _string(text: str) -> bytes:
    return bytes(standard_store().serialize_cdr(standard_store().types["std_msgs/msg/String"](data=text), "std_msgs/msg/String"))


def _array(array: np.ndarray) -> bytes:
    types = standard_store().types
    dims = [
        types["std_msgs/msg/MultiArrayDimension"](label=label, size=size, stride=math.prod(array.shape[i:]))
        for i, (label, size) in enumerate(zip(("horizon", "column"), array.shape, strict=True))
    ]
    layout = types["std_msgs/msg/MultiArrayLayout"](dim=dims, data_offset=0)
    message = types["std_msgs/msg/Float32MultiArray"](layout=layout, data=array.astype(np.float32).ravel())
    return bytes(standard_store().serialize_cdr(message, "std_msgs/msg/Float32MultiArray"))


def swing_up(raw: np.ndarray, skill: float, generator: np.random.Generator) -> float:
    """A force in newtons: pumps energy, catches the pole near the top; `skill` 0 is noise, 1 is good.

    Args:
        raw: cart position, angle, cart velocity, angular velocity.
        skill: share of the controller in the force.
        generator: of the noise.
    """
    cart, angle, speed, turn = raw
    angle = (angle + math.pi) % (2 * math.pi) - math.pi
    if abs(angle) < 0.5:
        force = 45 * angle + 9 * turn + 1.8 * cart + 3 * speed
    else:
        # Energy of the pole about its hinge per unit inertia, zero when it stands.
        energy = 0.5 * turn**2 + 14.7 * (math.cos(angle) - 1)
        force = 1.2 * energy * math.copysign(1.0, turn * math.cos(angle) + 1e-6) - 3.0 * cart - 1.0 * speed
    noise = generator.normal(0, 3.0)
    return float(np.clip(skill * np.clip(force, -10, 10) + (1 - skill) * noise, -10, 10))


def write_episode(
    directory: Path,
    contract: Contract,
    number: int,
    purpose: str,
    skill: float,
    ticks: int,
    plans: bool = True,
    noted: Contract | None = None,
) -> Path:
    """Simulates and records one episode; the bag says that it was recorded under `noted`, if that is given."""
    noted = noted or contract
    generator = np.random.default_rng(number)
    simulator = Simulator(contract)
    simulator.reset(np.random.SeedSequence([7, number]))
    period = contract.control.period_ns
    start = 1_000_000_000 * (1 + 20 * number)
    names = list(simulator.joints().names)
    raws, actions = [], []
    for _ in range(ticks):
        joints = simulator.joints()
        raw = np.array([*joints.position, *joints.velocity])
        raws.append(raw)
        actions.append(swing_up(raw, skill, generator))
        simulator.command(np.array([actions[-1]]))
        simulator.step_tick()
    joints = simulator.joints()
    raws.append(np.array([*joints.position, *joints.velocity]))
    observed = encode(contract, np.array(raws))

    state = EpisodeState(
        episode=number,
        state="running",
        purpose=purpose,
        seed=7,
        start_stamp_ns=start,
        controller_sha256="ab" * 32,
        controller_version=number,
    )
    bag = BagWriter(
        directory / f"episode_{number:04d}",
        {"wm_ros.contract": noted.canonical_json(), "wm_ros.contract_hash": noted.hash, "wm_ros.controller_version": str(number)},
    )
    sensor = bag.add_topic("/joint_states", "sensor_msgs/msg/JointState", Qos("best_effort", depth=5))
    command = bag.add_topic("/command", "sensor_msgs/msg/JointState", Qos(depth=1))
    planned = bag.add_topic("/mpc/command", "sensor_msgs/msg/JointState", Qos(depth=1))
    episode = bag.add_topic("/episode", "std_msgs/msg/String", Qos(durability="transient_local", depth=1))
    plan = bag.add_topic("/mpc/plan", "std_msgs/msg/Float32MultiArray", Qos(depth=1)) if plans else None
    system = SYSTEM_START_NS + 20 * 10**9 * number
    bag.write(episode, _string(state.to_json()), system, system)
    for k in range(ticks + 1):
        stamp = start + k * period
        came = system + k * period + int(generator.gamma(2.0, 0.1) * 1e6)
        raw = raws[k]
        bag.write(sensor, _joint_state(stamp, names, position=raw[:2], velocity=raw[2:], effort=[0.0, 0.0]), came, stamp)
        if k == ticks:
            break
        answered = came + int((8.0 + generator.gamma(3.0, 0.5)) * 1e6)
        force = _joint_state(stamp, list(contract.action.names), "pets:3:abababab", effort=[actions[k]])
        if plan is not None:
            rows = np.minimum(k + PLAN_STRIDE * (1 + np.arange(HORIZON)), ticks)
            error = 0.02 * np.arange(HORIZON)[:, None] * generator.normal(size=observed.shape[1])
            imagined = np.concatenate([observed[rows] + error, np.zeros((HORIZON, contract.action_size))], axis=1)
            bag.write(plan, _array(imagined), answered - 50_000, answered - 50_000)
        bag.write(planned, force, answered, stamp)
        bag.write(command, force, answered + 300_000, stamp)
    ended = state.model_copy(update={"state": "ended", "end_stamp_ns": start + ticks * period, "ticks": ticks, "outcome": "truncated"})
    bag.write(episode, _string(ended.to_json()), system + ticks * period + 10**7, system + ticks * period + 10**7)
    bag.close()
    return bag.path


def metrics(contract: Contract, version: int) -> dict[str, Any]:
    """A metrics.json as the trainer writes it."""
    horizon = (np.arange(HORIZON) + 1) * PLAN_STRIDE * contract.control.period_s
    growth = (horizon[:, None] / horizon[-1]) ** 1.3 * np.array([0.05, 0.12, 0.1, 0.3, 0.9])[: contract.observation_size] / version
    return {
        "version": version,
        "episodes": version,
        "transitions": 500 * version,
        "train_s": 6.0 + 0.4 * version,
        "export_s": 0.31,
        "parity": 2.4e-6,
        "latency_ms": {"p50": 8.9, "p99": 11.2},
        "train_loss": [1.0, 0.2, -0.8, -1.3],
        "holdout_loss": [1.1, 0.3, -0.6, -1.0],
        "open_loop": {
            "horizon_s": horizon.tolist(),
            "columns": list(contract.observation_names),
            "rmse": growth.tolist(),
            "coverage_90": (0.95 - 0.2 * horizon).tolist(),
            "normalized_rmse": (0.3 * horizon / version).tolist(),
        }
        if version > 1
        else None,
    }


def write_run(directory: Path, contract: Contract, training: int, evaluations: int, ticks: int) -> Path:
    """A whole run without controller.onnx."""
    for number in range(training):
        write_episode(directory / "bags", contract, number, "train", number / max(1, training - 1), ticks, plans=False)
    for number in range(training, training + evaluations):
        write_episode(directory / "bags", contract, number, "evaluate", 1.0, ticks)
    for version in range(1, training + 1):
        folder = directory / "models" / f"{version:04d}"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(metrics(contract, version)))
    summary = {
        "seed": 7,
        "training_returns": [1.0] * training,
        "evaluation_returns": [2.0] * evaluations,
        "frames": training * ticks * 2,
        "wall_s": {"learning": 91.0, "evaluation": 33.1, "total": 126.2},
        "latency_ms": {"mpc": {"p50": 9.1, "p99": 12.2, "max": 14.0}, "command_gate": {"p50": 0.3, "p99": 0.6, "max": 1.1}},
        "deadline_misses": 2,
        "deadline_miss_fraction": 0.0013,
        "versions": {"python": "3.11.2", "torch": "2.13.0", "mujoco": "3.4.0"},
        "contract_hash": contract.hash,
    }
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory
