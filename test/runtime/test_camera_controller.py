"""Controllers that look at cameras: what they are given, what they are refused, and what they imagine."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_controller as tiny
from camera_bags import raw_image, scene, with_camera
from cartpole_bags import header, message
from numpy.typing import NDArray
from onnx import TensorProto, helper

from wm_ros.contract import schema
from wm_ros.contract.assembler import Assembler, Observation
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.runtime.acting_graph import acting_graph
from wm_ros.runtime.answer import Answer
from wm_ros.runtime.cameras import PictureWait
from wm_ros.runtime.control_loop import ControlLoop
from wm_ros.runtime.controller import ControllerSession
from wm_ros.runtime.engine import Inference

MS = 1_000_000
PERIOD = 20 * MS
TIMEOUT_S = 60
CONTRACT = with_camera(image={"height": 6, "width": 8})
VECTOR = np.full(5, 0.5, np.float32)


def shade(value: int, height: int = 6) -> dict[str, NDArray[np.uint8]]:
    return {"camera": np.full((height, 8, 3), value, np.uint8)}


def load(path: Path, contract: Contract = CONTRACT, **options: Any) -> ControllerSession:
    return ControllerSession.load(path, contract, **options)


def simulated(every: int) -> Contract:
    """The contract with a camera of its simulator."""
    data = CONTRACT.model_dump(mode="json")
    data["simulator"]["cameras"] = {"camera": {"camera": "fixed", "every": every}}
    return schema.parse(data, "test")


# ---- the session ------------------------------------------------------------------------------------------------------


def test_a_controller_is_given_what_the_camera_shows(tmp_path: Path) -> None:
    session = load(tiny.looking(tmp_path / "c.onnx", CONTRACT))
    assert session.act(VECTOR, shade(255)).action[0] == pytest.approx(1.0)
    assert session.act(VECTOR, shade(51)).action[0] == pytest.approx(0.2 + 1)


def test_without_a_picture_there_is_no_action_and_the_channel_is_named(tmp_path: Path) -> None:
    session = load(tiny.looking(tmp_path / "c.onnx", CONTRACT))
    output = session.act(VECTOR)
    assert not output.ok and output.reason == "no image of channel camera"
    assert session.act(VECTOR, shade(0)).action[0] == 0.0  # the carry has not moved


def test_a_picture_of_another_shape_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    session = load(tiny.looking(tmp_path / "c.onnx", CONTRACT))
    with pytest.raises(ValueError, match=r"image camera is uint8\[7, 8, 3\], the contract .* has uint8\[6, 8, 3\]"):
        session.act(VECTOR, shade(0, height=7))


def test_a_controller_without_eyes_leaves_pictures_alone(tmp_path: Path) -> None:
    session = load(tiny.constant(tmp_path / "c.onnx", 1.5, for_contract=CONTRACT))
    assert session.act(VECTOR).action[0] == session.act(VECTOR, shade(9)).action[0] == 1.5


def _retyped(path: Path, dims: tuple[int, ...], kind: int) -> Path:
    model = onnx.load(path)
    index = [i.name for i in model.graph.input].index("camera")
    model.graph.input[index].CopyFrom(helper.make_tensor_value_info("camera", kind, dims))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("dims", "kind", "said"),
    [
        ((1, 6, 8, 3), TensorProto.FLOAT, r"input camera is tensor\(float\), expected tensor\(uint8\)"),
        ((1, 3, 6, 8), TensorProto.UINT8, r"input camera has shape \[1, 3, 6, 8\], expected \[1, 6, 8, 3\]"),
    ],
)
def test_an_input_that_is_no_picture_of_the_contract_is_refused(tmp_path: Path, dims: tuple[int, ...], kind: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(_retyped(tiny.looking(tmp_path / "c.onnx", CONTRACT), dims, kind))


def test_an_input_for_a_camera_that_the_contract_lacks_is_refused(tmp_path: Path) -> None:
    other = with_camera(name="rear")
    path = tiny.looking(tmp_path / "c.onnx", other, contract=CONTRACT.canonical_json(), contract_hash=CONTRACT.hash)
    with pytest.raises(UserError, match="input rear is unknown"):
        load(path)


def test_a_camera_named_as_the_vector_is_refused_by_the_contract() -> None:
    with pytest.raises(UserError, match="no camera may be called 'observation'"):
        with_camera(name="observation")


def test_openvino_is_given_the_same_pictures(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    session = load(tiny.looking(tmp_path / "c.onnx", CONTRACT), inference=Inference(engine="openvino"))
    assert session.act(VECTOR, shade(51)).action[0] == pytest.approx(0.2)


# ---- imagination ------------------------------------------------------------------------------------------------------


def test_what_is_only_for_people_is_not_computed_to_act(tmp_path: Path) -> None:
    path = tiny.looking(tmp_path / "c.onnx", CONTRACT, dreams=True)
    acting = acting_graph(path.read_bytes())
    assert acting is not None
    graph = onnx.load_model_from_string(acting).graph
    assert [o.name for o in graph.output] == ["action", "next.count"]
    assert [n.op_type for n in graph.node] == ["Cast", "ReduceMean", "Div", "Add", "Add"] and len(graph.initializer) == 2
    assert acting_graph(tiny.feedback(tmp_path / "plain.onnx").read_bytes()) is None


def test_a_graph_that_is_read_inside_a_loop_is_kept(tmp_path: Path) -> None:
    path = tiny.slow(tmp_path / "c.onnx", rounds=2, size=3)
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Cast", ["observation"], ["imagined_eye"], to=TensorProto.UINT8))
    model.graph.output.append(helper.make_tensor_value_info("imagined_eye", TensorProto.UINT8, (5,)))
    acting = acting_graph(model.SerializeToString())
    assert acting is not None
    kept = onnx.load_model_from_string(acting).graph
    assert {t.name for t in kept.initializer} == {t.name for t in model.graph.initializer}
    onnx.checker.check_model(onnx.load_model_from_string(acting), full_check=True)


def test_imagined_frames_belong_to_the_tick_that_they_were_asked_for(tmp_path: Path) -> None:
    session = load(tiny.looking(tmp_path / "c.onnx", CONTRACT, dreams=True))
    session.act(VECTOR, shade(10))
    action = session.act(VECTOR, shade(128)).action
    inputs = session.inputs()
    session.prepare()
    session.act(VECTOR, shade(255))
    imagined = session.imagine(inputs)
    assert session.imagines and imagined["action"] == action
    frames = imagined["imagined_camera"]
    assert frames.shape == (tiny.HORIZON, 6, 8, 3) and frames.dtype == np.uint8
    assert frames[:, 0, 0, 0].tolist() == [128 >> h for h in range(tiny.HORIZON)]
    np.testing.assert_array_equal(imagined["plan.observation"], np.tile(VECTOR, (tiny.HORIZON, 1)))


def test_imagined_frames_of_another_horizon_than_the_plan_are_refused(tmp_path: Path) -> None:
    path = tiny.looking(tmp_path / "c.onnx", CONTRACT, dreams=True)
    model = onnx.load(path)
    index = [o.name for o in model.graph.output].index("imagined_camera")
    model.graph.output[index].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, path)
    with pytest.raises(UserError, match="imagined_camera has shape"):
        load(path)


# ---- the loop ---------------------------------------------------------------------------------------------------------


class Loop:
    """A control loop of a controller with a camera."""

    def __init__(self, session: ControllerSession, lockstep: bool = False) -> None:
        self.acted: queue.Queue[Answer] = queue.Queue()
        ready: list[ControllerSession] = [session]
        self.loop = ControlLoop(
            session.contract,
            0,
            lockstep,
            lambda: 0,
            self.acted.put,
            lambda answer: None,
            lambda: ready.pop() if ready else None,
            lambda served: None,
        )

    def offer(self, tick: int, age_ticks: float, value: int = 255) -> None:
        ages = {"camera": round(age_ticks * PERIOD)}
        self.loop.offer(Observation(VECTOR, tick * PERIOD, tick * PERIOD, shade(value), ages), 0)

    def answered(self) -> int:
        """Which tick is answered next."""
        return self.acted.get(timeout=TIMEOUT_S).tick.observation.stamp_ns // PERIOD


def test_no_command_follows_a_stale_picture_and_the_channel_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(tiny.looking(tmp_path / "c.onnx", CONTRACT))
    refuse, told = session.refuse, queue.Queue[str]()
    monkeypatch.setattr(session, "refuse", lambda reason: (told.put(reason), refuse(reason))[1])
    bench = Loop(session)
    bench.loop.start()
    try:
        bench.offer(1, 0.0)
        assert bench.answered() == 1
        bench.offer(2, 6.0)
        reason = "image of channel camera is 0.12 s old, at most 0.1 s are allowed: check camera/image_raw"
        assert told.get(timeout=TIMEOUT_S) == reason
        # As answers come in order, that to tick 3 shows that there was none to tick 2.
        bench.offer(3, 0.0)
        assert bench.answered() == 3 and bench.loop.counts.refused == 1
    finally:
        bench.loop.close()


@pytest.mark.parametrize("every", [1, 3])
def test_lockstep_waits_for_the_picture_of_its_tick(tmp_path: Path, every: int) -> None:
    contract = simulated(every)
    bench = Loop(load(tiny.looking(tmp_path / "c.onnx", contract), contract), lockstep=True)
    bench.offer(7, age_ticks=every, value=0)  # its successor is under way
    assert bench.loop._pending is None
    bench.offer(7, age_ticks=0)
    bench.loop.start()
    try:
        assert bench.answered() == 7
        assert bench.acted.empty()
    finally:
        bench.loop.close()


# ---- waiting for a picture in real time ---------------------------------------------------------------------------------


class Waiting:
    """Vectors at every tick, pictures when the test says so; times in milliseconds."""

    def __init__(self, contract: Contract = CONTRACT, longest: float = 14.0) -> None:
        self.wait = PictureWait(contract, round(longest * MS))
        self.shown = 0.0

    def at(self, now: float, vector: float, picture: float | None = None, looked_at: tuple[str, ...] = ("camera",)) -> float | None:
        """When the newest vector was taken that may be acted on; None where it is held."""
        self.shown = self.shown if picture is None else picture
        seen = Observation(VECTOR, round(vector * MS), 0, shade(0), {"camera": round((vector - self.shown) * MS)})
        ready = self.wait.come(seen, round(now * MS), looked_at)
        return None if ready is None else ready[0].stamp_ns / MS

    def begun(self) -> Waiting:
        """Two pictures have come, so that their interval is known: a tick of 20 ms."""
        assert self.at(0, 0, picture=0) == 0 and self.at(29, 20, picture=20) == 20
        return self


def test_a_tick_waits_for_its_picture_and_goes_on_with_it() -> None:
    waiting = Waiting().begun()
    assert waiting.at(40, 40) is None and waiting.wait.holds
    assert waiting.wait.patience_over(53 * MS) is None
    assert waiting.at(49, 40, picture=40) == 40 and not waiting.wait.holds
    assert waiting.at(60, 60) is None
    assert waiting.at(65, 65) is None, "a newer vector waits for the same picture"
    assert waiting.at(69, 65, picture=60) == 65


def test_a_picture_that_does_not_come_is_waited_for_no_longer_than_allowed() -> None:
    waiting = Waiting().begun()
    assert waiting.at(40, 40) is None
    ready = waiting.wait.patience_over(54 * MS)
    assert ready is not None and (ready[0].stamp_ns, ready[1]) == (40 * MS, 40 * MS)
    assert waiting.wait.patience_over(55 * MS) is None
    assert waiting.at(60, 60) is None
    assert waiting.at(75, 75) == 75, "the time has run out, whatever has come meanwhile"


def test_a_slower_camera_is_not_waited_for_between_its_pictures() -> None:
    waiting = Waiting()
    assert waiting.at(0, 0, picture=0) == 0
    assert waiting.at(45, 40, picture=40) == 40
    assert waiting.at(60, 60) == 60
    assert waiting.at(80, 80) is None
    assert waiting.at(84, 80, picture=80) == 80


def test_nothing_is_waited_for_that_nobody_looks_at_or_that_no_stamp_tells_of() -> None:
    assert Waiting().begun().at(40, 40, looked_at=()) == 40
    assert Waiting(longest=0.0).begun().at(40, 40) == 40
    received = Waiting(with_camera(clock="receive")).begun()
    assert received.at(40, 40) == 40
    after_a_jump = Waiting().begun()
    after_a_jump.wait.forget()
    assert after_a_jump.at(40, 40) == 40


# ---- the assembler ----------------------------------------------------------------------------------------------------


def joints(stamp_ns: int) -> Any:
    values = (["slider", "hinge_1"], np.zeros(2), np.zeros(2), np.zeros(0))
    return message("sensor_msgs/msg/JointState", header(stamp_ns), *values)


def test_the_age_of_a_picture_is_counted_from_the_observations_stamp() -> None:
    assembler = Assembler(CONTRACT)
    assembler.update("camera", raw_image(scene(0), stamp=100 * MS), 1)
    assembler.update("joints", joints(140 * MS), 2)
    observation = assembler.observe()
    assert observation is not None and observation.stamp_ns == 140 * MS and observation.image_age_ns == {"camera": 40 * MS}


def test_where_reception_counts_the_age_of_a_picture_is_counted_from_the_newest_sample() -> None:
    assembler = Assembler(with_camera(clock="receive"))
    assembler.update("camera", raw_image(scene(0), stamp=100 * MS), 5 * MS)
    assembler.update("joints", joints(140 * MS), 25 * MS)
    observation = assembler.observe()
    assert observation is not None and observation.image_age_ns == {"camera": 20 * MS}
