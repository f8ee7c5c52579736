"""The terminal display, on streams with and without a terminal behind them."""

from __future__ import annotations

import io
import itertools
import math
import threading
from typing import Any

import pytest
from rich.console import Console as RichConsole

from wm_ros.contract.announcements import ControllerNotice, EpisodeState, Progress, Segment
from wm_ros.viz.console import Console, bar, sparkline

SHA = "ab" * 32


@pytest.fixture(autouse=True)
def usual_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def event(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"event": kind, "time": 0.0, "data": data}


def episode(number: int, state: str, purpose: str = "train", **more: Any) -> dict[str, Any]:
    return event(
        "episode", EpisodeState.model_validate({"episode": number, "state": state, "purpose": purpose, "seed": 0, **more}).model_dump()
    )


def notice(version: int) -> dict[str, Any]:
    return ControllerNotice(path="c.onnx", sha256=SHA, contract_hash=SHA, agent="pets", version=version, episodes=version).model_dump()


def drive(console: Console) -> None:
    """One learning episode, one training, and an evaluation episode that is still running."""
    console.phase("learning")
    console.handle(episode(0, "starting", controller_version=0))
    console.handle(episode(0, "running", controller_version=0))
    for tick in range(10):
        console.handle(
            event("step", {"stamp_s": 1.0 + tick, "reward": 1.5, "terminated": 0.0, "truncated": 0.0, "return": 1.5 * (tick + 1)})
        )
    ended = EpisodeState(episode=0, state="ended", purpose="train", seed=0, ticks=10, outcome="truncated", total_reward=15.0)
    console.handle(event("episode", ended.model_dump()))
    console.handle(
        event("segment", Segment(path="/bags/episode_0000", episode=ended, contract_hash=SHA, messages=42, bytes=2_000_000).model_dump())
    )
    for phase in ("training", "training", "ready"):
        progress = Progress(phase=phase, version=1, episodes=1, transitions=10, epoch=3, epochs=4, holdout_loss=-1.25, seconds=6.5)
        console.handle(event("progress", progress.model_dump()))
    console.handle(event("model", notice(1)))
    console.handle(event("controller", notice(1)))
    console.phase("evaluating")
    console.handle(episode(1, "running", "evaluate", controller_version=1, start_stamp_ns=20_000_000_000))
    console.handle(event("step", {"stamp_s": 25.0, "reward": 1.0, "terminated": 0.0, "truncated": 0.0, "return": 7.5}))
    values = {"latency_p50_ms": "9.1", "latency_p99_ms": "13.4", "deadline_misses": "2"}
    console.handle(
        event(
            "diagnostics",
            {"mpc": {"level": 0, "message": "active", "values": values}, "sim": {"level": 1, "message": "late", "values": {}}},
        )
    )


def shown(console: Console, width: int = 110) -> str:
    out = io.StringIO()
    RichConsole(file=out, width=width).print(console.picture())
    return out.getvalue()


def test_without_a_terminal_every_event_but_a_step_is_one_plain_line() -> None:
    out = io.StringIO()
    console = Console(out, 1, 1, plain=False)
    drive(console)
    console.note("done")
    console.close()
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    told = [line.partition("] ")[2] for line in lines]
    assert told == [
        "== learning",
        "episode 0000 (learning 1/1): starting, controller version 0",
        "episode 0000 (learning 1/1): running, controller version 0",
        "episode 0000 (learning 1/1): return 15.0 in 10 ticks, truncated",
        "bag /bags/episode_0000: 42 messages, 2.0 MB",
        "trainer: training, version 1, 1 episode, held-out loss -1.25, 6.5 s",
        "trainer: ready, version 1, 1 episode, held-out loss -1.25, 6.5 s",
        "controller version 1 is written (pets, learned from 1 episode)",
        "controller version 1 drives now (abababab)",
        "== evaluating",
        "episode 0001 (evaluation 1/1): running, controller version 1",
        "sim: warning: late",
        "done",
    ]


def test_plain_wins_over_a_terminal() -> None:
    out = Terminal()
    console = Console(out, 1, 1, plain=True)
    drive(console)
    console.close()
    assert "\x1b" not in out.getvalue() and "return 15.0" in out.getvalue()


def test_terminal_display_draws_and_leaves_the_last_picture() -> None:
    out = Terminal()
    console = Console(out, 1, 1, plain=False, title="cart-pole swing-up", episode_s=10.0)
    try:
        drive(console)
        console.note("a remark")
    finally:
        console.close()
        console.close()
    text = out.getvalue()
    assert "a remark" in text and "cart-pole swing-up" in text and "\x1b[" in text
    assert "learning 1/1" in text.rpartition("╭")[2], "the last picture stays"


@pytest.mark.parametrize(("encoding", "term"), [("ascii", "xterm"), ("latin-1", "xterm"), ("utf-8", "dumb")])
def test_terminal_that_cannot_draw_gets_plain_lines(encoding: str, term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    console = Console(stream, 1, 1, plain=False)
    console.note("café → bar")
    drive(console)
    console.close()
    assert b"\x1b" not in raw.getvalue() and b"return 15.0" in raw.getvalue()


def test_events_and_remarks_may_come_while_the_picture_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wm_ros.viz.console.REFRESH_HZ", 500)
    console = Console(Terminal(), 1, 1, plain=False, episode_s=10.0)

    def remark() -> None:
        for i in range(100):
            console.note(f"remark {i}")
            console.handle(event("step", {"stamp_s": float(i), "reward": 1.0, "terminated": 0.0, "truncated": 0.0, "return": float(i)}))

    threads = [threading.Thread(target=remark, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert not any(thread.is_alive() for thread in threads), "a deadlock"
    console.close()


def test_picture_tells_returns_error_training_time_latency_health_and_what_is_next() -> None:
    ticks = itertools.count(step=0.0)
    console = Console(io.StringIO(), 1, 2, plain=True, episode_s=10.0, clock=lambda: next(ticks))
    drive(console)
    text = shown(console)
    first = next(line for line in text.splitlines() if "learning 1/1" in line)
    assert "15.0" in first and "-1.25" in first and "6.5 s" in first and "random" in first and "━" in first
    second = next(line for line in text.splitlines() if "evaluation 1/2" in line)
    assert "7.5" in second and "9.1 / 13.4 ms" in second
    assert "next  evaluation 2/2 in real time" in text
    assert "sim (late)" in text and "mpc (2 missed)" in text
    assert "return    7.5" in text
    assert next(line for line in text.splitlines() if "now" in line).count("━") == 12, "half of the episode"


def test_node_that_stops_reporting_is_shown_as_silent() -> None:
    now = [0.0]
    console = Console(io.StringIO(), 1, 1, plain=True, clock=lambda: now[0])
    drive(console)
    assert "silent" not in shown(console)
    now[0] = 4.0
    assert "mpc (silent" in shown(console)


def test_phase_change_forgets_the_nodes_of_the_phase_before() -> None:
    console = Console(io.StringIO(), 1, 1, plain=True)
    drive(console)
    console.phase("report")
    assert "mpc" not in shown(console)


def test_evaluation_comes_after_learning_although_each_series_ends_with_finished() -> None:
    console = Console(io.StringIO(), 1, 1, plain=True)
    console.handle(episode(0, "ended", finished=True))
    assert console.state.next_step() == "evaluation 1/1 in real time"
    console.handle(episode(1, "ended", "evaluate", finished=True))
    assert console.state.next_step() == "the report"


def test_malformed_event_is_named_and_the_display_goes_on() -> None:
    out = io.StringIO()
    console = Console(out, 1, 1, plain=True)
    console.handle(event("episode", {"episode": -1}))
    console.handle(event("of another version", {}))
    drive(console)
    assert "ignored: event EpisodeState: episode" in out.getvalue()
    assert "return 15.0" in out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 90, 110, 200])
def test_picture_fits_its_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    console = Console(io.StringIO(), 6, 3, plain=True)
    drive(console)
    text = shown(console, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text or width < 80, "nothing is cut on a terminal of usual width"


def test_sparkline_and_bar_keep_their_width_whatever_the_numbers() -> None:
    assert sparkline([0.0, 1.0, math.nan], 8) == "▁█"
    assert len(sparkline(list(range(1000)), 20)) == 20
    assert sparkline([], 20) == ""
    assert bar(0.5, 10) == "━" * 5 and bar(7.0, 10) == "━" * 10 and bar(-1.0, 10) == "" and bar(math.nan, 10) == ""
