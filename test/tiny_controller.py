"""Small valid controllers, built with onnx alone: what each does is known exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from wm_ros.contract import schema
from wm_ros.contract.announcements import ControllerNotice
from wm_ros.contract.schema import Contract
from wm_ros.runtime import artifact
from wm_ros.runtime.controller import ControllerSession

OPSET = 18
HORIZON, CANDIDATES = 7, 3


def contract() -> Contract:
    return schema.load("cartpole_swingup")


def _float(name: str, *shape: int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _constant(name: str, value: Any) -> Any:
    return numpy_helper.from_array(np.asarray(value, np.float32), name)


def write(
    path: Path,
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    initializers: list[Any],
    for_contract: Contract,
    metadata: dict[str, Any] | None = None,
    domains: tuple[str, ...] = (),
) -> Path:
    """Writes a model with valid metadata, changed by `metadata`; None as a value leaves a key out."""
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializer=initializers)
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 9
    fields = {
        "format": artifact.FORMAT,
        "agent": "tiny",
        "contract": for_contract.canonical_json(),
        "contract_hash": for_contract.hash,
        "version": 1,
        "seed": 0,
        "episodes": 1,
        "parity": {"max_abs_error": 0.0},
        "latency_ms": {"p50": 0.1, "p99": 0.2},
        "versions": {"wm_ros": "0"},
        **(metadata or {}),
    }
    text = json.dumps({k: v for k, v in fields.items() if v is not None})
    helper.set_model_props(model, {artifact.METADATA_KEY: text})
    path.write_bytes(model.SerializeToString())
    return path


def constant(path: Path, action: float = 1.5, version: int = 1, for_contract: Contract | None = None, **metadata: Any) -> Path:
    """Always the same action, no carry, no noise, no plan."""
    c = for_contract or contract()
    return write(
        path,
        [helper.make_node("Identity", ["k"], ["action"])],
        [_float("observation", c.observation_size)],
        [_float("action", c.action_size)],
        [_constant("k", [action] * c.action_size)],
        c,
        {"version": version, **metadata},
    )


def feedback(
    path: Path, gain: float = 2.0, noise_scale: float = 0.5, version: int = 1, for_contract: Contract | None = None, **metadata: Any
) -> Path:
    """action = gain * observation[0] + count + noise_scale * noise[0], with a carry `count` that begins at 0 and grows by one each tick.

    It has every optional output: plan.action rows are the action, plan.observation rows the observation, plan.spread is 0.25,
    candidates are the plan times (1, 2, 3) with returns (3, 2, 1), value is 42, ok is true.
    """
    c = for_contract or contract()
    o = c.observation_size
    node = helper.make_node
    nodes = [
        node("Mul", ["observation", "mask"], ["masked"]),
        node("ReduceSum", ["masked"], ["first"], keepdims=0),
        node("Mul", ["noise.shake", "scale"], ["shaken"]),
        node("Gather", ["shaken", "zero"], ["shake"], axis=0),
        node("Add", ["first", "carry.count"], ["counted"]),
        node("Add", ["counted", "shake"], ["action"]),
        node("Add", ["carry.count", "one"], ["next.count"]),
        node("Expand", ["action", "plan_action_shape"], ["plan.action"]),
        node("Expand", ["observation", "plan_shape"], ["plan.observation"]),
        node("Mul", ["plan.observation", "factors"], ["candidates.observation"]),
        node("Identity", ["spread"], ["plan.spread"]),
        node("Identity", ["returns"], ["candidates.return"]),
        node("Identity", ["answer"], ["value"]),
        node("Identity", ["yes"], ["ok"]),
    ]
    initializers = [
        _constant("mask", [gain] + [0.0] * (o - 1)),
        _constant("scale", noise_scale),
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
        _constant("one", [1.0]),
        numpy_helper.from_array(np.array([HORIZON, 1], np.int64), "plan_action_shape"),
        numpy_helper.from_array(np.array([HORIZON, o], np.int64), "plan_shape"),
        _constant("factors", np.arange(1, CANDIDATES + 1).reshape(-1, 1, 1)),
        _constant("spread", np.full((HORIZON, o), 0.25)),
        _constant("returns", np.arange(CANDIDATES, 0, -1)),
        _constant("answer", 42.0),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    return write(
        path,
        nodes,
        [_float("observation", o), _float("carry.count", 1), _float("noise.shake", 4)],
        [
            _float("action", 1),
            _float("next.count", 1),
            _float("value"),
            _float("plan.action", HORIZON, 1),
            _float("plan.observation", HORIZON, o),
            _float("plan.spread", HORIZON, o),
            _float("candidates.observation", CANDIDATES, HORIZON, o),
            _float("candidates.return", CANDIDATES),
            helper.make_tensor_value_info("ok", TensorProto.BOOL, ()),
        ],
        initializers,
        c,
        {
            "version": version,
            "carry": {"count": {"shape": [1], "initial": 0.0}},
            "noise": {"shake": {"shape": [4], "distribution": "normal"}},
            "plan_period_s": c.control.period_s,
            **metadata,
        },
    )


def looking(path: Path, for_contract: Contract, dreams: bool = False, version: int = 1, **metadata: Any) -> Path:
    """action = mean of what the camera shows / 255 + count, with a carry `count` that begins at 0 and grows by one each tick.

    The contract has one camera and one joint. With `dreams`, the frames that it imagines are what the camera shows, darker by a factor of
    1, 1/2, 1/4 and so on, and its plan is the observation and the action.
    """
    (camera, form), o = next(iter(for_contract.images.items())), for_contract.observation_size
    shape, node = form.shape, helper.make_node
    nodes = [
        node("Cast", [camera], ["shown"], to=TensorProto.FLOAT),
        node("ReduceMean", ["shown"], ["bright"], keepdims=0),
        node("Div", ["bright", "white"], ["share"]),
        node("Add", ["share", "carry.count"], ["action"]),
        node("Add", ["carry.count", "one"], ["next.count"]),
    ]
    initializers = [_constant("white", 255.0), _constant("one", [1.0])]
    outputs = [_float("action", 1), _float("next.count", 1)]
    if dreams:
        nodes += [
            node("Mul", ["shown", "shades"], ["fading"]),
            node("Cast", ["fading"], [f"imagined_{camera}"], to=TensorProto.UINT8),
            node("Expand", ["action", "plan_action_shape"], ["plan.action"]),
            node("Expand", ["observation", "plan_shape"], ["plan.observation"]),
        ]
        initializers += [
            _constant("shades", 0.5 ** np.arange(HORIZON).reshape(-1, 1, 1, 1)),
            numpy_helper.from_array(np.array([HORIZON, 1], np.int64), "plan_action_shape"),
            numpy_helper.from_array(np.array([HORIZON, o], np.int64), "plan_shape"),
        ]
        outputs += [
            helper.make_tensor_value_info(f"imagined_{camera}", TensorProto.UINT8, (HORIZON, *shape)),
            _float("plan.action", HORIZON, 1),
            _float("plan.observation", HORIZON, o),
        ]
    inputs = [_float("observation", o), _float("carry.count", 1), helper.make_tensor_value_info(camera, TensorProto.UINT8, (1, *shape))]
    fields = {"version": version, "carry": {"count": {"shape": [1], "initial": 0.0}}, **metadata}
    return write(path, nodes, inputs, outputs, initializers, for_contract, fields)


def not_ok(path: Path) -> Path:
    """Says of itself that it found no plan."""
    c = contract()
    return write(
        path,
        [helper.make_node("Identity", ["k"], ["action"]), helper.make_node("Identity", ["no"], ["ok"])],
        [_float("observation", c.observation_size)],
        [_float("action", 1), helper.make_tensor_value_info("ok", TensorProto.BOOL, ())],
        [_constant("k", [1.0]), numpy_helper.from_array(np.array(False), "no")],
        c,
    )


def _toil(rounds: str, size: int) -> tuple[list[Any], list[Any]]:
    """Nodes and constants that make a zero `[1]`, named `nothing`, from `observation` by as many products of matrices [size, size]."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("MatMul", ["m", "w"], ["m_next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, ()),
            helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
            _float("m", size, size),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, ()), _float("m_next", size, size)],
    )
    nodes = [
        helper.make_node("ReduceSum", ["observation"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "start"], ["m0"]),
        helper.make_node("Loop", [rounds, "", "m0"], ["m_last"], body=body),
        helper.make_node("ReduceSum", ["m_last"], ["total"], keepdims=0),
        helper.make_node("Mul", ["total", "none"], ["nothing"]),
    ]
    # An orthogonal matrix keeps the product finite for any number of rounds.
    w = np.eye(size, dtype=np.float32)[np.random.default_rng(0).permutation(size)]
    return nodes, [_constant("start", np.ones((size, size))), _constant("w", w), _constant("none", [0.0])]


def slow(path: Path, rounds: int = 2000, size: int = 200, for_contract: Contract | None = None) -> Path:
    """`rounds` products of matrices [size, size] before it answers zero: about 0.1 to 1 ms each."""
    c = for_contract or contract()
    nodes, initializers = _toil("rounds", size)
    nodes.append(helper.make_node("Identity", ["nothing"], ["action"]))
    initializers.append(numpy_helper.from_array(np.array(rounds, np.int64), "rounds"))
    return write(path, nodes, [_float("observation", c.observation_size)], [_float("action", 1)], initializers, c)


FIRST_ROW, ROW_STEP = 1.0, 0.25
"""Of the plan of `hesitating`."""


def hesitating(path: Path, rounds: int, every: int = 0, after: int = 0, for_contract: Contract | None = None, **metadata: Any) -> Path:
    """Plans `FIRST_ROW`, `FIRST_ROW + ROW_STEP` and so on for `HORIZON` control ticks, whatever it sees.

    It takes its time, as `slow` with so many rounds, on every tick of a number divisible by `every`, the first one left out, or on all
    ticks from number `after` on; 0: never.
    """
    c = for_contract or contract()
    node = helper.make_node
    nodes, initializers = _toil("trips", 200)
    nodes += [
        node("Cast", ["carry.count"], ["count"], to=TensorProto.INT64),
        node("Mod", ["count", "every"], ["phase"]),
        node("Equal", ["phase", "zero"], ["turn"]),
        node("Greater", ["count", "zero"], ["later"]),
        node("And", ["turn", "later"], ["now"]),
        node("GreaterOrEqual", ["count", "after"], ["lasting"]),
        node("Or", ["now", "lasting"], ["tired"]),
        node("Where", ["tired", "rounds", "one"], ["trip"]),
        node("Squeeze", ["trip"], ["trips"]),
        node("Add", ["rows", "nothing"], ["plan.action"]),
        node("Gather", ["plan.action", "first"], ["action"], axis=0),
        node("Expand", ["observation", "shape"], ["plan.observation"]),
        node("Add", ["carry.count", "step"], ["next.count"]),
    ]
    # A Loop needs its count before it: ONNX wants nodes in the order of their dependencies.
    nodes = [*nodes[5:14], *nodes[:5], *nodes[14:]]
    never = 2**31 - 1
    integers = {"every": every or never, "after": after or never, "zero": 0, "rounds": rounds, "one": 1}
    initializers += [numpy_helper.from_array(np.array([value], np.int64), name) for name, value in integers.items()]
    initializers += [
        numpy_helper.from_array(np.array(0, np.int64), "first"),
        numpy_helper.from_array(np.array([HORIZON, c.observation_size], np.int64), "shape"),
        _constant("rows", FIRST_ROW + ROW_STEP * np.arange(HORIZON).reshape(-1, 1)),
        _constant("step", [1.0]),
    ]
    return write(
        path,
        nodes,
        [_float("observation", c.observation_size), _float("carry.count", 1)],
        [
            _float("action", 1),
            _float("next.count", 1),
            _float("plan.action", HORIZON, 1),
            _float("plan.observation", HORIZON, c.observation_size),
        ],
        initializers,
        c,
        {"carry": {"count": {"shape": [1], "initial": 0.0}}, "plan_period_s": c.control.period_s, **metadata},
    )


def rounds_for(path: Path, seconds: float, for_contract: Contract | None = None) -> int:
    """Rounds that take `slow` and `hesitating` about so long on this machine as it is now; writes a file to try."""
    rounds = 200
    session = ControllerSession.load(slow(path, rounds, for_contract=for_contract), for_contract or contract())
    return max(1, round(rounds * 1e3 * seconds / session.warm_up_ms))


def not_finite(path: Path) -> Path:
    """Its action is not a number."""
    return constant(path, float("nan"))


def other_contract(path: Path) -> Path:
    """Made for the same robot at twice the control rate."""
    data = json.loads(contract().canonical_json())
    data["control"]["rate_hz"] = 100.0
    return constant(path, for_contract=schema.parse(data, "test"))


def notice(path: Path, for_contract: Contract | None = None, version: int = 1) -> ControllerNotice:
    """What the trainer would announce for this file."""
    import hashlib

    return ControllerNotice(
        path=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        contract_hash=(for_contract or contract()).hash,
        agent="tiny",
        version=version,
        episodes=1,
    )
