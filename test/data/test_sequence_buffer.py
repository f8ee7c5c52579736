"""Stretches come from one world each, go over the borders of episodes, and never over the newest row."""

from __future__ import annotations

import numpy as np
import pytest

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
