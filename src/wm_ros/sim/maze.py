"""Mazes on a grid, among them those of Sutton and Barto's chapter on planning (2nd edition, section 8.2 and 8.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
"""Row and column steps of the actions: up, down, left, right."""


@dataclass(frozen=True)
class Maze:
    """Cells are numbered row by row. A move into a wall or over the edge stays; reaching the goal pays 1 and ends the episode."""

    rows: tuple[str, ...]
    """`S` start, `G` goal, `#` wall, `.` free; the rows are equally long."""

    def __post_init__(self) -> None:
        text = "".join(self.rows)
        if len({len(row) for row in self.rows}) != 1 or text.count("S") != 1 or text.count("G") != 1 or set(text) - set("SG#."):
            raise ValueError("a maze needs rows of one length with one S, one G, and else # and .")

    @property
    def states(self) -> int:
        """Number of cells."""
        return len(self.rows) * len(self.rows[0])

    @property
    def start(self) -> int:
        return "".join(self.rows).index("S")

    @property
    def goal(self) -> int:
        return "".join(self.rows).index("G")

    def following(self) -> NDArray[np.int64]:
        """The cell `[states, 4]` that each move leads to."""
        height, width = len(self.rows), len(self.rows[0])
        wall = np.array([[cell == "#" for cell in row] for row in self.rows])
        here = np.stack(np.divmod(np.arange(self.states), width), axis=1)
        there = here[:, None, :] + MOVES
        inside = (there >= 0).all(-1) & (there < (height, width)).all(-1)
        clipped = np.clip(there, 0, (height - 1, width - 1))
        free = inside & ~wall[clipped[..., 0], clipped[..., 1]]
        place = clipped[..., 0] * width + clipped[..., 1]
        return np.where(free, place, np.arange(self.states)[:, None])

    def shortest(self) -> int:
        """Moves from start to goal at least; -1 where there is no way."""
        following, reached, count = self.following(), {self.start}, 0
        while self.goal not in reached:
            more = reached | set(following[list(reached)].ravel().tolist())
            if more == reached:
                return -1
            reached, count = more, count + 1
        return count


DYNA = Maze((".......#G", "..#....#.", "S.#....#.", "..#......", ".....#...", "........."))
"""Figure 8.2."""
BLOCKING = (
    Maze(("........G", ".........", ".........", "########.", ".........", "...S.....")),
    Maze(("........G", ".........", ".........", ".########", ".........", "...S.....")),
)
"""Figure 8.4, before and after the short way is blocked."""
SHORTCUT = (
    Maze(("........G", ".........", ".........", ".########", ".........", "...S.....")),
    Maze(("........G", ".........", ".........", ".#######.", ".........", "...S.....")),
)
"""Figure 8.5, before and after a shorter way opens."""
