"""The picture of the present beside the imagined future."""

from __future__ import annotations

import numpy as np
import pytest

from wm_ros.viz.imagined_film import FRAMES, GAP, LEAST_HEIGHT, chosen, film


def shades(count: int, colours: int = 3) -> np.ndarray:
    return np.broadcast_to(np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None], (count, 32, 48, colours))


@pytest.mark.parametrize("colours", [1, 3])
def test_the_camera_comes_first_and_then_the_future_in_its_order(colours: int) -> None:
    picture = film(np.full((32, 48, colours), 200, np.uint8), shades(15, colours))
    scale = LEAST_HEIGHT // 32
    assert picture.shape == (LEAST_HEIGHT, (1 + FRAMES) * 48 * scale + GAP, 3) and picture.dtype == np.uint8
    now, gap, future = np.split(picture, [48 * scale, 48 * scale + GAP], axis=1)
    assert (now == 200).all() and (gap == 255).all()
    assert future[0, :: 48 * scale, 0].tolist() == [1, 3, 5, 7, 9, 11, 13, 15]


def test_a_short_future_is_shown_whole_and_a_large_picture_as_it_is() -> None:
    assert chosen(3).tolist() == [0, 1, 2] and chosen(1).tolist() == [0]
    assert film(np.zeros((200, 100, 3), np.uint8), np.zeros((2, 200, 100, 3), np.uint8)).shape == (200, 300 + GAP, 3)


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"frames \[2, 3, 4, 3\] beside a picture \[4, 3, 3\]"):
        film(np.zeros((4, 3, 3), np.uint8), np.zeros((2, 3, 4, 3), np.uint8))
