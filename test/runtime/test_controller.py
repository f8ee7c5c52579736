"""The controller session runs what fits, bit for bit the same each time, and refuses everything else in one line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_controller as tiny
from onnx import TensorProto, helper

from wm_ros.contract.errors import UserError
from wm_ros.runtime import controller
from wm_ros.runtime.controller import ControllerSession
from wm_ros.runtime.engine import PRECISIONS, Arrays, Inference, OpenVino, Precision, Run

HALF = np.full(5, 0.5, np.float32)


def load(path: Path, **options: Any) -> ControllerSession:
    return ControllerSession.load(path, tiny.contract(), **options)


# ---- running ---------------------------------------------------------------------------------------------------------


def test_the_carry_is_held_inside_and_the_noise_is_drawn_from_the_seed(tmp_path: Path) -> None:
    session = load(tiny.feedback(tmp_path / "c.onnx", gain=2.0, noise_scale=0.5))
    session.reset([7, 3])
    actions = [session.act(HALF).action[0] for _ in range(4)]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([7, 3])))
    expected = [2.0 * 0.5 + tick + 0.5 * rng.standard_normal(4, dtype=np.float32)[0] for tick in range(4)]
    np.testing.assert_allclose(actions, expected, rtol=1e-6)


def test_the_same_seed_gives_the_same_actions_bit_for_bit_and_another_seed_others(tmp_path: Path) -> None:
    path = tiny.feedback(tmp_path / "c.onnx")
    first, second = load(path), load(path)
    for session in (first, second):
        session.act(HALF)  # the past of a session must not matter
        session.reset([1, 0])
    second.prepare()  # nor when the noise is drawn
    second.prepare()
    one, two = ([s.act(HALF).action.tobytes() for _ in range(5)] for s in (first, second))
    assert one == two
    second.reset([1, 1])
    assert second.act(HALF).action.tobytes() != one[0]


def test_every_optional_output_is_given_and_absent_ones_are_none(tmp_path: Path) -> None:
    output = load(tiny.feedback(tmp_path / "c.onnx", noise_scale=0.0)).act(HALF)
    assert output.ok and output.value == 42.0
    assert np.array_equal(output.plan_action, np.full((7, 1), 1.0))
    assert np.array_equal(output.plan_observation, np.full((7, 5), 0.5))
    assert np.array_equal(output.plan_spread, np.full((7, 5), 0.25))
    assert np.array_equal(output.candidates_observation, np.array([0.5, 1.0, 1.5]).reshape(3, 1, 1) * np.ones((3, 7, 5)))
    assert np.array_equal(output.candidates_return, [3.0, 2.0, 1.0])
    bare = load(tiny.constant(tmp_path / "k.onnx", 1.5)).act(HALF)
    assert bare.ok and bare.action.tolist() == [1.5]
    assert bare.value is bare.plan_action is bare.plan_observation is bare.plan_spread is bare.candidates_observation is None


def test_an_action_stays_as_it_was_after_the_next_tick(tmp_path: Path) -> None:
    session = load(tiny.feedback(tmp_path / "c.onnx", noise_scale=0.0))
    first = session.act(HALF).action
    session.act(HALF)
    assert first.tolist() == [1.0]


@pytest.mark.parametrize(("make", "reason"), [(tiny.not_finite, "not finite"), (tiny.not_ok, "no finite plan")])
def test_an_output_that_must_not_be_used_is_not_ok(tmp_path: Path, make: Callable[[Path], Path], reason: str) -> None:
    output = load(make(tmp_path / "c.onnx")).act(HALF)
    assert not output.ok and reason in output.reason


def test_a_carry_that_became_infinite_starts_anew(tmp_path: Path) -> None:
    session = load(tiny.feedback(tmp_path / "c.onnx", noise_scale=0.0))
    session.act(HALF)
    assert not session.act(np.full(5, np.inf, np.float32)).ok
    output = session.act(HALF)
    assert output.ok and output.action.tolist() == [1.0], "the count must be back at 0"


def test_an_observation_of_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("(4,), the contract cartpole_swingup has (5,)")):
        load(tiny.constant(tmp_path / "c.onnx")).act(np.zeros(4, np.float32))


def test_a_controller_is_named_after_agent_version_and_hash(tmp_path: Path) -> None:
    path = tiny.constant(tmp_path / "c.onnx", version=3)
    session = load(path)
    assert session.name == f"tiny:3:{session.sha256[:8]}"
    assert session.notice == tiny.notice(path, version=3)


def test_two_threads_give_what_one_gives(tmp_path: Path) -> None:
    path = tiny.slow(tmp_path / "c.onnx", rounds=3)
    assert load(path).act(HALF).action.tolist() == load(path, inference=Inference(threads=2)).act(HALF).action.tolist()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_openvino_gives_what_onnxruntime_gives(tmp_path: Path, precision: Precision) -> None:
    path = tiny.feedback(tmp_path / "c.onnx", gain=2.0, noise_scale=0.5)
    ours, theirs = load(path), load(path, inference=Inference(engine="openvino", precision=precision))
    assert "OpenVINO" in theirs.provider and precision in theirs.provider
    for session in (ours, theirs):
        session.reset([7, 3])
    for _ in range(4):  # the carry goes round, the noise is drawn anew
        mine, other = ours.act(HALF), theirs.act(HALF)
        np.testing.assert_allclose(other.action, mine.action, rtol=1e-6 if precision == "f32" else 1e-2)
        assert other.ok and other.value == pytest.approx(mine.value)
        np.testing.assert_allclose(other.plan_action, mine.plan_action, rtol=1e-6 if precision == "f32" else 1e-2)


def test_an_engine_that_computes_something_else_does_not_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(OpenVino):
        def bind(self, inputs: Arrays, outputs: Arrays) -> Run:
            run = super().bind(inputs, outputs)

            def wrong() -> None:
                run()
                outputs["action"][:] += 0.1

            return wrong

    monkeypatch.setattr(controller, "OpenVino", Wrong)
    assert_refused(tiny.constant(tmp_path / "c.onnx"), "computes something else", "action", inference=Inference(engine="openvino"))


def test_openvino_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="pip install openvino"):
        load(tiny.constant(tmp_path / "c.onnx"), inference=Inference(engine="openvino"))


def test_half_precision_without_the_engine_that_has_it_is_refused() -> None:
    with pytest.raises(UserError, match="bf16 needs engine openvino"):
        Inference(precision="bf16")


# ---- refusing --------------------------------------------------------------------------------------------------------


def assert_refused(path: Path, *words: str, **options: Any) -> None:
    with pytest.raises(UserError) as caught:
        load(path, **options)
    text = str(caught.value)
    assert all(line.startswith(str(path)) for line in text.splitlines()), text
    for word in words:
        assert word in text


def test_a_controller_of_another_contract_is_refused_field_by_field(tmp_path: Path) -> None:
    assert_refused(tiny.other_contract(tmp_path / "c.onnx"), "another contract", "control.rate_hz: 50.0 here, 100.0 there")


def test_a_file_other_than_the_announced_one_is_refused(tmp_path: Path) -> None:
    assert_refused(tiny.constant(tmp_path / "c.onnx"), "sha256", "announce", expected_sha256="0" * 64)


def test_files_that_are_no_controller_are_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nowhere.onnx", "No such file")
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    assert_refused(empty, "empty")
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(bytes(range(256)) * 40)
    assert_refused(junk, "corrupt")
    assert_refused(tmp_path, "cannot read")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_file_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    path = tiny.feedback(tmp_path / "c.onnx")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert_refused(path)


def test_a_file_beyond_the_size_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "MAX_FILE_BYTES", 100)
    assert_refused(tiny.constant(tmp_path / "c.onnx"), "larger than")


def test_an_onnx_file_without_our_metadata_is_refused(tmp_path: Path) -> None:
    path = tiny.constant(tmp_path / "c.onnx")
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    assert_refused(path, "no wm_ros controller")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format": 2}, "format 2"),
        ({"format": None}, "format None"),
        ({"contract_hash": "0" * 64}, "the contract inside has hash"),
        ({"contract": "{}"}, "missing"),
        ({"contract": "no JSON"}, "not readable as JSON"),
        ({"agent": "a b"}, "agent"),
        ({"version": -1}, "version"),
        ({"surprise": 1}, "surprise"),
        ({"carry": {"x": {"shape": [1 << 13, 1 << 14], "initial": 0.0}}}, "more than"),
        ({"noise": {"x": {"shape": [2], "distribution": "cauchy"}}}, "distribution"),
    ],
)
def test_metadata_that_does_not_fit_is_refused_with_its_field(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    c = tiny.contract()
    nodes, one = [helper.make_node("Identity", ["k"], ["action"])], helper.make_tensor("k", TensorProto.FLOAT, [1], [1.0])
    assert_refused(tiny.write(tmp_path / "c.onnx", nodes, [_value("observation", [5])], [_value("action", [1])], [one], c, change), word)


def _value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


SEES, DOES = _value("observation", [5]), _value("action", [1])


@pytest.mark.parametrize(
    ("inputs", "outputs", "metadata", "words"),
    [
        ([_value("observation", [4])], [_value("action", [1])], {}, ["input observation has shape [4], expected [5]"]),
        ([_value("observation", ["n"])], [_value("action", [1])], {}, ["input observation has shape ['n'], expected [5]"]),
        ([_value("state", [5])], [_value("action", [1])], {}, ["input observation is missing", "input state is unknown"]),
        ([_value("observation", [5], TensorProto.DOUBLE)], [_value("action", [1])], {}, ["tensor(double), expected tensor(float)"]),
        ([_value("observation", [5])], [_value("torque", [1])], {}, ["output action is missing", "output torque is unknown"]),
        ([SEES], [DOES], {"noise": {"n": {"shape": [2], "distribution": "normal"}}}, ["noise.n is missing"]),
        ([SEES], [DOES], {"carry": {"c": {"shape": [2]}}}, ["carry.c is missing", "next.c is missing"]),
        ([SEES], [DOES, _value("plan.action", [1])], {}, ["plan.action has shape [1], expected [1, 1]"]),
        ([SEES], [DOES, _value("ok", [1])], {}, ["ok is tensor(float), expected tensor(bool)"]),
    ],
)
def test_another_signature_is_refused_and_every_fault_is_named(
    tmp_path: Path, inputs: list[Any], outputs: list[Any], metadata: dict[str, Any], words: list[str]
) -> None:
    nodes = [helper.make_node("Identity", ["k"], [o.name]) for o in outputs]
    constant = helper.make_tensor("k", TensorProto.FLOAT, [1], [1.0])
    assert_refused(tiny.write(tmp_path / "c.onnx", nodes, inputs, outputs, [constant], tiny.contract(), metadata), *words)


def _inside_if(node: Any) -> Any:
    """The node in a branch of an If, where a careless check does not look."""
    branch = helper.make_graph([node], "branch", [], [_value("r", [1])])
    return helper.make_node("If", ["yes"], ["action"], then_branch=branch, else_branch=branch)


@pytest.mark.parametrize("nested", [False, True])
def test_operators_outside_the_standard_are_refused_also_in_branches(tmp_path: Path, nested: bool) -> None:
    node = helper.make_node("Steal", ["k"], ["r" if nested else "action"], domain="com.evil")
    constants = [helper.make_tensor("k", TensorProto.FLOAT, [1], [1.0]), helper.make_tensor("yes", TensorProto.BOOL, [], [True])]
    graph = [_inside_if(node) if nested else node]
    inputs, outputs = [_value("observation", [5])], [_value("action", [1])]
    path = tiny.write(tmp_path / "c.onnx", graph, inputs, outputs, constants, tiny.contract(), domains=("com.evil",))
    assert_refused(path, "com.evil::Steal", "standard operators")


@pytest.mark.parametrize("place", ["initializer", "constant in a branch"])
def test_tensors_in_other_files_are_refused_wherever_they_hide(tmp_path: Path, place: str) -> None:
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="../../etc/passwd")
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    if place == "initializer":
        nodes, constants = [helper.make_node("Identity", ["w"], ["action"])], [outside]
    else:
        nodes, constants = [_inside_if(helper.make_node("Constant", [], ["r"], value=outside))], [yes]
    path = tiny.write(tmp_path / "c.onnx", nodes, [_value("observation", [5])], [_value("action", [1])], constants, tiny.contract())
    assert_refused(path, "w", "other files")


def test_a_controller_that_never_answers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "WARM_UP_LIMIT_S", 0.3)
    assert_refused(tiny.slow(tmp_path / "c.onnx", rounds=10_000_000), "no answer within 0.3 s")


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")  # opening it plainly would wait for a writer for ever
    for path in (tmp_path / "pipe.onnx", Path("/dev/zero")):
        with pytest.raises(UserError, match="not a regular file"):
            load(path)
