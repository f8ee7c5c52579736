"""Stretches come from one world each, go over the borders of episodes, and never over the newest row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wm_ros.data.replay import ReplayOptions
from wm_ros.data.sequence_buffer import SequenceBuffer


def filled(capacity: int = 40, worlds: int = 2, rows: int = 30, episode: int = 7) -> SequenceBuffer:
    """Row k of world w has the observation [w, k]; an episode begins every seven rows."""
    buffer = SequenceBuffer(capacity, 2, 1, worlds)
    for k in range(rows):
        for w in range(worlds):
            observation = np.array([w, k], np.float32)
            if k % episode == 0:
                buffer.begin(w, observation)
            else:
                buffer.add(w, np.array([k], np.float32), float(k), observation, k % episode == episode - 1)
    return buffer


def test_stretches_are_rows_in_their_order_with_the_marks_of_their_episodes() -> None:
    drawn = filled().sample(np.random.default_rng(0), 200, 12)
    world, row = drawn.observation[..., 0], drawn.observation[..., 1]
    assert (world == world[:, :1]).all() and set(world[:, 0]) == {0, 1}
    np.testing.assert_array_equal(np.diff(row), 1)
    np.testing.assert_array_equal(drawn.first, row % 7 == 0)
    np.testing.assert_array_equal(drawn.terminated, row % 7 == 6)
    np.testing.assert_array_equal(drawn.reward, np.where(drawn.first, 0, row))
    np.testing.assert_array_equal(drawn.action[..., 0], np.where(drawn.first, 0, row))


def test_the_oldest_rows_make_room_and_every_start_that_is_left_comes_up() -> None:
    drawn = filled(capacity=40, rows=75).sample(np.random.default_rng(0), 2000, 5)
    assert set(drawn.observation[:, 0, 1]) == set(range(55, 71)) and len(filled(capacity=40, rows=75)) == 40


def test_a_stretch_longer_than_all_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match="a stretch of 8 rows, and the longest there is has 5"):
        filled(rows=5).sample(np.random.default_rng(0), 1, 8)


@pytest.mark.parametrize("rows", [12, 33])
def test_what_was_stored_goes_on_as_the_original(rows: int) -> None:
    original, copy = filled(rows=rows), SequenceBuffer(40, 2, 1, 2)
    copy.restore(original.state())
    for buffer in (original, copy):
        buffer.add(0, np.ones(1, np.float32), 3.0, np.ones(2, np.float32), True)
    first, second = (b.sample(np.random.default_rng(4), 50, 6) for b in (original, copy))
    for name, column in vars(first).items():
        np.testing.assert_array_equal(column, getattr(second, name))


@pytest.mark.parametrize("rows", [12, 33])
@pytest.mark.parametrize("room", [9, 40])
def test_another_capacity_keeps_the_newest_rows_in_their_order(room: int, rows: int) -> None:
    other = SequenceBuffer(2 * room, 2, 1, 2)
    other.restore(filled(rows=rows).state())
    for k in range(rows, rows + 6):
        for w in range(2):
            other.add(w, np.array([k], np.float32), float(k), np.array([w, k], np.float32), False)
    drawn = other.sample(np.random.default_rng(0), 1000, 5)
    kept = min(min(rows, 20, room) + 6, room)
    assert len(other) == 2 * kept and set(drawn.observation[:, 0, 1]) == set(range(rows + 6 - kept, rows + 2))
    np.testing.assert_array_equal(np.diff(drawn.observation[..., 1]), 1)


def seen(world: int, row: int) -> dict[str, np.ndarray]:
    return {"eye": np.full((2, 2, 3), (10 * row + world) % 256, np.uint8)}


@pytest.mark.parametrize("in_files", [False, True])
def test_frames_stay_with_their_rows_also_where_they_live_in_files(tmp_path: Path, in_files: bool) -> None:
    options = ReplayOptions(memory_bytes=10, folder=tmp_path) if in_files else None
    buffer = SequenceBuffer(20, 2, 1, 2, {"eye": (2, 2, 3)}, options)
    for k in range(25):  # more than there is room for
        for w in range(2):
            row = np.array([w, k], np.float32)
            if k % 7 == 0:
                buffer.begin(w, row, seen(w, k))
            else:
                buffer.add(w, np.zeros(1, np.float32), 0.0, row, False, seen(w, k))
    assert bool(list(tmp_path.iterdir())) == in_files
    copy = SequenceBuffer(20, 2, 1, 2, {"eye": (2, 2, 3)})
    copy.restore(buffer.state())
    for drawn in (b.sample(np.random.default_rng(0), 100, 4) for b in (buffer, copy)):
        assert drawn.images["eye"].shape == (100, 4, 2, 2, 3)
        expected = (10 * drawn.observation[..., 1] + drawn.observation[..., 0]) % 256
        np.testing.assert_array_equal(drawn.images["eye"], np.broadcast_to(expected[..., None, None, None], drawn.images["eye"].shape))


def test_a_row_without_its_frame_or_with_one_of_another_size_is_refused() -> None:
    buffer = SequenceBuffer(20, 2, 1, images={"eye": (2, 2, 3)})
    with pytest.raises(ValueError, match=r"this buffer has .*images\.eye"):
        buffer.begin(0, np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"images\.eye of shape \(1, 2, 3\), this buffer has \(2, 2, 3\)"):
        buffer.begin(0, np.zeros(2, np.float32), {"eye": np.zeros((1, 2, 3), np.uint8)})


def remembering(folder: Path | None = None, memory_bytes: int = 1 << 20) -> SequenceBuffer:
    """Row k of the one world remembers k + 1 in halves, but for the rows 7 and 8."""
    options, kinds = ReplayOptions(memory_bytes, folder), {"half": ((3,), np.float16), "small": ((), np.uint8)}
    buffer = SequenceBuffer(10, 1, 1, options=options, remembered=kinds)
    for k in range(14):
        buffer.begin(0, np.array([k], np.float32))
        if k not in (7, 8):
            buffer.remember(np.array([0]), buffer.newest(), half=np.full((1, 3), k + 1), small=np.array([k + 1]))
    return buffer


def test_a_stretch_comes_with_what_was_remembered_before_it() -> None:
    buffer = remembering()
    drawn = buffer.sample(np.random.default_rng(0), 300, 3)
    row = drawn.observation[:, 0, 0]
    assert set(row) == set(range(4, 12)) and drawn.before["half"].dtype == np.float16
    expected = np.where(np.isin(row, (4, 8, 9)), 0, row)  # 4 is the oldest; 7 and 8 took the places of others and remember nothing
    np.testing.assert_array_equal(drawn.before["small"], expected)
    np.testing.assert_array_equal(drawn.before["half"], np.repeat(expected[:, None], 3, 1))
    buffer.remember(drawn.world[:, None], drawn.place, half=drawn.observation, small=drawn.observation[..., 0])
    again = buffer.sample(np.random.default_rng(1), 300, 3)
    row = again.observation[:, 0, 0]
    np.testing.assert_array_equal(again.before["small"], np.where(row == 4, 0, row - 1))


def test_what_is_remembered_is_stored_and_counts_as_memory(tmp_path: Path) -> None:
    original, copy = remembering(tmp_path / "first", 60), remembering(tmp_path / "second")
    assert {path.name for path in (tmp_path / "first").iterdir()} == {"remembered.small.bin"} and not (tmp_path / "second").exists()
    copy.remember(np.array([0]), np.array([3]), half=np.zeros((1, 3)), small=np.zeros(1))
    copy.restore(original.state())
    first, second = (b.sample(np.random.default_rng(4), 50, 3) for b in (original, copy))
    for name in ("half", "small"):
        np.testing.assert_array_equal(first.before[name], second.before[name])
