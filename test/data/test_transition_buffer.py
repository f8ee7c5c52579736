"""A buffer of single transitions."""

from __future__ import annotations

import numpy as np
import pytest

from wm_ros.data.transition_buffer import TransitionBuffer


def add(buffer: TransitionBuffer, start: int, count: int) -> None:
    number = np.arange(start, start + count, dtype=np.float32)
    observation = np.stack([number, -number], axis=1)
    buffer.add(observation, number[:, None], 10 * number, observation + 0.5, number % 7 == 0)


def test_rows_stay_together_and_terminated_ones_do_not_bootstrap() -> None:
    buffer = TransitionBuffer(100, 2, 1)
    add(buffer, 0, 60)
    drawn = buffer.sample(np.random.default_rng(0), 50, 0.9)
    number = drawn.observation[:, 0]
    np.testing.assert_array_equal(drawn.observation[:, 1], -number)
    np.testing.assert_array_equal(drawn.action[:, 0], number)
    np.testing.assert_array_equal(drawn.reward, 10 * number)
    np.testing.assert_array_equal(drawn.next_observation, drawn.observation + 0.5)
    np.testing.assert_array_equal(drawn.discount, np.where(number % 7 == 0, np.float32(0), np.float32(0.9)))
    assert len(set(number)) > 20


def test_the_oldest_make_room() -> None:
    buffer = TransitionBuffer(10, 2, 1)
    for start in range(0, 24, 4):
        add(buffer, start, 4)
    assert len(buffer) == 10
    drawn = buffer.sample(np.random.default_rng(0), 10, 0.9)
    seen = {n for _ in range(30) for n in buffer.sample(np.random.default_rng(_), 10, 0.9).observation[:, 0]}
    assert seen == set(range(14, 24)) and drawn.index.max() < 10


def test_a_batch_larger_than_what_is_there_is_refused_with_both_numbers() -> None:
    buffer = TransitionBuffer(100, 2, 1)
    add(buffer, 0, 5)
    with pytest.raises(ValueError, match="a batch of 6 from 5 transitions"):
        buffer.sample(np.random.default_rng(0), 6, 0.9)
    with pytest.raises(ValueError, match="101 transitions at once"):
        add(buffer, 0, 101)


def test_a_restored_buffer_draws_the_same_and_goes_on_in_the_same_place() -> None:
    first, second = TransitionBuffer(10, 2, 1), TransitionBuffer(10, 2, 1)
    add(first, 0, 10)
    add(first, 10, 3)
    second.restore({k: v.copy() for k, v in first.state().items()})
    for buffer in (first, second):
        add(buffer, 13, 2)
    for name, column in first.state().items():
        np.testing.assert_array_equal(column, second.state()[name])
