"""Each fault does to the samples what it says, and the contract's assembler sees it."""

import math
from typing import Any

import numpy as np
import pytest

from wm_ros.contract import schema
from wm_ros.contract.assembler import Assembler, BadMessage, stamp_ns
from wm_ros.sim.faults import SensorFaults
from wm_ros.sim.sensors import JointSample, header

PERIOD = 20_000_000


def sample(tick: int) -> dict[str, JointSample]:
    return {"joints": JointSample(header(tick * PERIOD), ["slider", "hinge_1"], [float(tick), 0.5], [1.0, 2.0], [0.0, 0.0])}


def through(kind: str, ticks: int = 5, **options: Any) -> list[JointSample]:
    """What comes out when the fault begins after two sound ticks, 100 and 101."""
    faults = SensorFaults(np.random.SeedSequence(0))
    out = []
    for tick in range(100, 102 + ticks):
        got = faults.apply("none" if tick < 102 else kind, sample(tick), **options)
        out += [s["joints"] for s in got] if tick >= 102 else []
    return out


def stamps(samples: list[JointSample]) -> list[int]:
    return [stamp_ns(s.header.stamp) // PERIOD for s in samples]


def test_none_changes_nothing() -> None:
    assert through("none") == [sample(t)["joints"] for t in range(102, 107)]


def test_dropout_loses_the_share_of_messages_that_was_asked_for() -> None:
    assert through("dropout") == []
    assert 60 < len(through("dropout", ticks=200, probability=0.6)) < 100


def test_delay_publishes_late_with_the_old_stamp() -> None:
    assert stamps(through("delay", ticks=6, delay_s=0.06)) == [102, 103, 104]


def test_freeze_repeats_values_under_new_stamps_and_stall_repeats_the_stamp_too() -> None:
    frozen, stalled = through("freeze"), through("stall")
    assert [s.position[0] for s in frozen] == [s.position[0] for s in stalled] == [101.0] * 5
    assert stamps(frozen) == [102, 103, 104, 105, 106] and stamps(stalled) == [101] * 5


def test_permute_is_read_as_the_same_observation() -> None:
    contract = schema.load("cartpole_swingup")
    vectors = []
    for s in (through("permute")[0], through("none")[0]):
        assembler = Assembler(contract)
        assembler.update("joints", s, 0)
        observation = assembler.observe()
        assert observation is not None
        vectors.append(observation.vector)
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert through("permute")[0].name == ["hinge_1", "slider"]


@pytest.mark.parametrize(
    ("kind", "reason"), [("nan", "non_finite"), ("missing_joint", "missing_joint"), ("wrong_size", "size"), ("backwards", "backwards")]
)
def test_the_assembler_refuses_what_the_fault_makes_of_a_message(kind: str, reason: str) -> None:
    assembler = Assembler(schema.load("cartpole_swingup"))
    assembler.update("joints", sample(101)["joints"], 0)
    with pytest.raises(BadMessage) as caught:
        assembler.update("joints", through(kind)[0], 1)
    assert caught.value.reason == reason
    assert math.isfinite(assembler.raw().sum())
