"""Each fault does to the pictures what it says, and the contract's reader sees it."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import pytest

from wm_ros.contract import schema
from wm_ros.contract.assembler import Assembler, BadMessage
from wm_ros.sim.camera_faults import CAMERA_FAULTS, CameraFaults

CONTRACT = schema.load("cartpole_balance_pixels")


def picture(tick: int) -> Any:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=tick, nanosec=0), frame_id="front")
    return SimpleNamespace(header=header, height=4, width=4, encoding="rgb8", step=12, data=array("B", [tick] * 48), is_bigendian=0)


def through(kind: str) -> list[Any]:
    """What comes of three pictures after a sound one, number 100."""
    faults = CameraFaults()
    assert faults.apply("none", "front", picture(100)) == picture(100)
    return [faults.apply(kind, "front", picture(t)) for t in (101, 102, 103)]


def test_lost_repeated_and_frozen_pictures() -> None:
    assert through("dropout") == [None] * 3
    assert [(p.header.stamp.sec, p.data[0]) for p in through("stall")] == [(100, 100)] * 3
    assert [(p.header.stamp.sec, p.data[0]) for p in through("freeze")] == [(101, 100), (102, 100), (103, 100)]
    assert through("none") == [picture(101), picture(102), picture(103)]


@pytest.mark.parametrize(("kind", "reason"), [("wrong_size", "image_size"), ("wrong_encoding", "encoding")])
def test_pictures_that_cannot_be_used_are_refused_by_name_and_the_original_is_left_alone(kind: str, reason: str) -> None:
    original = picture(1)
    with pytest.raises(BadMessage) as refused:
        Assembler(CONTRACT).update("front", CameraFaults().apply(kind, "front", original), 0)
    assert refused.value.reason == reason and original == picture(1)


def test_every_fault_is_known() -> None:
    assert {kind for kind in CAMERA_FAULTS if kind != "none" and through(kind) != through("none")} == set(CAMERA_FAULTS) - {"none"}
