"""What a demo's events add up to."""

from __future__ import annotations

from typing import Any

import pytest

from wm_ros.cli.record import Record


def episode(number: int, state: str, purpose: str = "train", **more: Any) -> dict[str, Any]:
    data = {
        "episode": number,
        "state": state,
        "purpose": purpose,
        "ticks": 0,
        "total_reward": 0.0,
        "outcome": "",
        "finished": False,
        **more,
    }
    return {"event": "episode", "data": data}


def ended(number: int, total: float, purpose: str = "train") -> dict[str, Any]:
    return episode(number, "ended", purpose, ticks=500, total_reward=total, outcome="truncated")


def segment(number: int, purpose: str = "train", outcome: str = "truncated") -> dict[str, Any]:
    return {
        "event": "segment",
        "data": {"path": f"/bags/episode_{number:04d}", "episode": {"episode": number, "purpose": purpose, "outcome": outcome}},
    }


def controller(version: int) -> dict[str, Any]:
    return {"event": "controller", "data": {"version": version, "sha256": "0" * 64}}


def model(episodes: int) -> dict[str, Any]:
    return {"event": "model", "data": {"version": episodes, "episodes": episodes, "path": "/m.onnx"}}


def fed(record: Record, *events: dict[str, Any]) -> Record:
    for event in events:
        record.take(event)
    return record


def test_returns_and_ticks_are_counted_once_however_often_a_latched_state_comes() -> None:
    record = fed(Record("train", 2), ended(0, 10.0), ended(0, 10.0), ended(1, 20.0))
    assert record.returns == [10.0, 20.0] and record.ticks == 1000


def test_learning_is_over_when_the_last_bag_is_closed_and_a_controller_has_learned_from_it() -> None:
    record = fed(Record("train", 2), controller(1), ended(0, 1.0), ended(1, 2.0), segment(0), model(2))
    assert not record.learned
    fed(record, segment(1))
    assert record.learned
    assert not fed(Record("train", 2), controller(1), ended(0, 1.0), ended(1, 2.0), segment(0), segment(1), model(1)).learned


def test_a_series_is_not_over_before_it_is_known_who_drove() -> None:
    record = fed(Record("evaluate", 1), ended(0, 1.0, "evaluate"), segment(0, "evaluate"))
    assert not record.episodes_done and "mpc/controller" in record.awaited()
    assert fed(record, controller(0)).episodes_done


def test_episodes_of_another_purpose_are_left_out() -> None:
    record = fed(Record("evaluate", 1), ended(0, 1.0), segment(0))
    assert record.returns == [] and record.bags == []


@pytest.mark.parametrize(
    ("events", "awaited"),
    [
        ([], "mpc/controller"),
        ([controller(0)], "episode 1 of 2"),
        ([controller(0), ended(0, 1.0)], "controller version 1 from trainer"),
        ([controller(1), ended(0, 1.0), episode(1, "running")], "episode 2 of 2"),
        ([controller(1), ended(0, 1.0), ended(1, 1.0), segment(0)], "bag 2 of 2 from logger"),
        ([controller(1), ended(0, 1.0), ended(1, 1.0), segment(0), segment(1)], "has learned from 2 episodes"),
    ],
)
def test_it_says_what_is_awaited(events: list[dict[str, Any]], awaited: str) -> None:
    assert awaited in fed(Record("train", 2), *events).awaited()


def test_a_broken_off_episode_is_not_counted_and_is_the_end_only_where_none_follows() -> None:
    broken = episode(0, "ended", outcome="stopped", ticks=7)
    record = fed(Record("train", 1), broken, segment(0, outcome="stopped"))
    assert record.returns == [] and record.bags == [] and not record.stopped
    assert "stopped" in fed(record, episode(1, "ended", outcome="stopped", finished=True)).stopped


def test_a_trainer_that_gives_up_ends_the_series() -> None:
    record = fed(Record("train", 2), {"event": "progress", "data": {"phase": "failed", "message": "no finite loss"}})
    assert "no finite loss" in record.stopped


def test_latencies_and_deadlines_come_from_the_last_diagnostics() -> None:
    def health(node: str, **values: str) -> dict[str, Any]:
        return {"event": "diagnostics", "data": {node: {"level": 0, "message": "", "values": values}}}

    latency = {"latency_p50_ms": "1.5", "latency_p99_ms": "3", "latency_max_ms": "4"}
    record = fed(
        Record("evaluate", 1),
        health("mpc", deadlines="10", deadline_misses="1"),
        health("mpc", **latency, deadlines="1500", deadline_misses="3"),
        health("visualizer", latency_p50_ms="nan"),
    )
    assert record.latency_ms() == {"mpc": {"p50": 1.5, "p99": 3.0, "max": 4.0}}
    assert record.deadlines() == (1500, 3)
    # What was missed while the system came up, before the first episode, was no episode's.
    started = fed(
        Record("evaluate", 1),
        health("mpc", deadlines="40", deadline_misses="7"),
        episode(0, "running", "evaluate"),
        health("mpc", deadlines="540", deadline_misses="9"),
        episode(1, "running", "evaluate"),
    )
    assert started.deadlines() == (500, 2)
    # Where a policy drives, what `mpc` counts beside it is not the robot's.
    served = fed(
        Record("evaluate", 1, "policy_server"),
        health("policy_server", deadlines="500", deadline_misses="1"),
        health("mpc", deadlines="800", deadline_misses="40"),
    )
    assert served.deadlines() == (500, 1)
    assert "policy_server has announced none on policy/controller" in Record("evaluate", 1, "policy_server").awaited()
