"""Prioritized sampling (Schaul et al. 2016, arXiv:1511.05952) beside a replay buffer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Priorities:
    """A sum tree over the places of a buffer; setting and drawing take whole batches."""

    def __init__(self, alpha: float = 0.6) -> None:
        """
        Args:
            alpha: 0 draws uniformly, 1 in proportion to the priorities. 0.6 is the paper's choice for the proportional variant.
        """
        self.alpha = alpha
        self._size = 0
        self._leaves = 1
        self._tree = np.zeros(2)
        """Node i has the children 2 i and 2 i + 1; the leaves are the upper half."""
        self._largest = 1.0

    def __len__(self) -> int:
        return self._size

    def grow(self, size: int) -> None:
        """Makes room for `size` places; new ones get the largest priority so far, so that each is drawn soon (algorithm 1, line 6)."""
        if size <= self._size:
            return
        if size > self._leaves:
            leaves = 1 << (size - 1).bit_length()
            tree = np.zeros(2 * leaves)
            tree[leaves : leaves + self._size] = self._tree[self._leaves : self._leaves + self._size]
            self._tree, self._leaves = tree, leaves
        self._tree[self._leaves + self._size : self._leaves + size] = self._largest**self.alpha
        self._size = size
        level = self._leaves
        while level > 1:
            # From the leaves to the root, a level at a time.
            self._tree[level // 2 : level] = self._tree[level : 2 * level : 2] + self._tree[level + 1 : 2 * level : 2]
            level //= 2

    def update(self, index: NDArray[np.int64], priority: NDArray[np.floating]) -> None:
        """Sets the priorities [B] of the places `index` [B], usually |TD error| plus a little; of equal places the last one counts.

        Raises:
            ValueError: a priority is not a positive finite number.
        """
        if not (np.isfinite(priority) & (priority > 0)).all():
            raise ValueError("priorities must be positive and finite")
        if not len(index):
            return
        self._largest = max(self._largest, float(priority.max()))
        node = index + self._leaves
        self._tree[node] = np.asarray(priority, np.float64) ** self.alpha
        while node[0] > 1:
            node = np.unique(node // 2)
            self._tree[node] = self._tree[2 * node] + self._tree[2 * node + 1]

    def sample(self, rng: np.random.Generator, batch: int, beta: float = 0.4) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Draws places, one from each of `batch` equal shares of the total.

        Args:
            rng: source of randomness.
            batch: how many.
            beta: how far the bias is taken back, 0 not at all, 1 wholly.

        Returns:
            places [B] and importance weights [B], the largest of them 1.

        Raises:
            ValueError: there are no places.
        """
        if not self._size:
            raise ValueError("nothing to draw from")
        total = self._tree[1]
        mass = (np.arange(batch) + rng.random(batch)) * (total / batch)
        node = np.ones(batch, np.int64)
        while node[0] < self._leaves:
            node *= 2
            left = self._tree[node]
            # Rounding may leave a rest at the right edge; never walk into a branch that is empty.
            right = (mass >= left) & (self._tree[node + 1] > 0)
            mass = np.where(right, mass - left, mass)
            node += right
        index = node - self._leaves
        weight = (self._size * self._tree[node] / total) ** -beta
        return index, (weight / weight.max()).astype(np.float32)
