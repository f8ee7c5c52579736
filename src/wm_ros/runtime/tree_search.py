"""Monte-Carlo tree search over any step function, in numpy, so that a robot can search over an exported network.

UCT (Kocsis and Szepesvári 2006), or PUCT where there is a prior (Silver et al. 2018), with values scaled to what the tree has seen
(Schrittwieser et al. 2020, appendix B). A simulation ends at a node that has no children yet; all its children are made in one call of the
step function.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Transition(NamedTuple):
    """One step of B states."""

    state: Array
    """`[B, S]`"""
    reward: Array
    """`[B]`"""
    going_on: Array
    """`[B]`, 0 where the episode has ended."""


Step = Callable[[Array, Array], Transition]
"""States `[B, S]` (observations or latent states) and actions `[B, A]` in half ranges → what follows; B is always `TreeConfig.width`."""
Value = Callable[[Array], Array]
"""States `[B, S]` → what is still to be gained `[B]`."""
Policy = Callable[[Array], Array]
"""A state `[S]` → one more action `[A]` to try there, in half ranges."""
Prior = Callable[[Array, Array], Array]
"""A state `[S]` and its actions `[C, A]` → probabilities `[C]`, for PUCT."""


@dataclass(frozen=True)
class TreeConfig:
    """Settings of a search."""

    simulations: int
    """Descents from the root."""
    depth: int
    """H, steps from the root to the deepest nodes."""
    joints: int
    """A"""
    bins: int
    """Evenly spaced actions per joint, ends included; 0 draws actions instead."""
    samples: int
    """Actions drawn at each node where `bins` is 0."""
    std: float
    """Standard deviation of these draws around the last plan, in half ranges."""
    exploration: float
    """Weight of what was tried seldom, beside values scaled to [0, 1]."""
    rollout: int
    """Steps beyond a new node in which its action is held, at most to `depth`, to estimate its value."""
    discount: float
    """Of a reward one step later."""
    with_policy: bool = False
    """Whether a policy adds an action at each node."""

    @property
    def width(self) -> int:
        """C, actions at each node: the last plan's, the policy's, and those of the grid or the draws."""
        return 1 + self.with_policy + (self.bins**self.joints if self.bins else self.samples)

    @property
    def noise_shape(self) -> tuple[int, int, int] | None:
        """Of the standard-normal noise: one row of draws per node that gets children."""
        return None if self.bins else (self.simulations + 1, self.samples, self.joints)


class Found(NamedTuple):
    """What a search found."""

    actions: Array
    """`[H, A]` in half ranges: the best line that was followed to its end, else the most visited one; its last action is held on."""
    root_actions: Array
    """`[C, A]`"""
    root_visits: NDArray[np.int64]
    """`[C]`"""
    root_values: NDArray[np.float64]
    """`[C]`, mean return by way of each."""
    ok: bool
    """False where no action led to anything finite."""
    simulations: int
    """How many were done."""


def search(
    config: TreeConfig,
    root: Array,
    last: Array,
    step: Step,
    noise: Array | None = None,
    value: Value | None = None,
    policy: Policy | None = None,
    prior: Prior | None = None,
    stop: Callable[[], bool] | None = None,
) -> Found:
    """Searches from `root [S]`.

    Args:
        config: settings.
        root: the state to act in.
        last: the last plan `[H, A]` in half ranges, moved on by one tick: its actions are among those tried at their depth.
        step: the model.
        noise: `config.noise_shape`, where actions are drawn.
        value: of states, at the end of what is looked at.
        policy: proposes an action at each node; wants `config.with_policy`.
        prior: for PUCT; without it UCT.
        stop: asked after each simulation; true ends the search.
    """
    tree = _Tree(config, root, last, step, noise, value, policy, prior)
    tree.expand(0)
    done = 0
    while done < config.simulations and not tree.dead[0]:
        tree.simulate()
        done += 1
        if stop is not None and stop():
            break
    return tree.found(done)


class _Tree:
    """Nodes in arrays; the C children of a node lie beside each other."""

    def __init__(
        self,
        config: TreeConfig,
        root: Array,
        last: Array,
        step: Step,
        noise: Array | None,
        value: Value | None,
        policy: Policy | None,
        prior: Prior | None,
    ) -> None:
        self.config, self.step, self.noise, self.value, self.policy, self.prior = config, step, noise, value, policy, prior
        self.last = last
        most = 1 + (config.simulations + 1) * config.width
        self.state = np.zeros((most, len(root)), np.float32)
        self.action = np.zeros((most, config.joints), np.float32)
        self.state[0] = root
        self.reward, self.going_on = np.zeros(most), np.ones(most)
        self.beyond = np.zeros(most)  # a new node's own estimate of what follows it
        self.visits, self.total = np.zeros(most, np.int64), np.zeros(most)
        self.probability = np.full(most, 1.0 / config.width)
        self.children, self.parent, self.depth = np.full(most, -1), np.full(most, -1), np.zeros(most, np.int64)
        self.dead = np.zeros(most, bool)
        self.nodes, self.expanded = 1, 0
        self.lowest, self.highest = math.inf, -math.inf
        self.gathered, self.weight = np.zeros(most), np.ones(most)  # from the root to the node: reward, and what a later one counts
        self.best_end, self.best_return = -1, -math.inf
        self.grid = np.array(list(itertools.product(np.linspace(-1.0, 1.0, config.bins), repeat=config.joints)), np.float32)

    def actions(self, node: int) -> Array:
        """`[C, A]`, what is tried at a node."""
        near = self.last[self.depth[node]]
        rows = [near[None]]
        if self.policy is not None:
            rows.append(self.policy(self.state[node])[None])
        if self.config.bins:
            rows.append(self.grid)
        else:
            assert self.noise is not None
            rows.append(near + np.float32(self.config.std) * self.noise[self.expanded])
        return np.concatenate(rows).clip(-1.0, 1.0).astype(np.float32)

    def expand(self, node: int) -> None:
        """Makes all children of a node, with one step of the model, and estimates their values."""
        c, actions = self.config, self.actions(node)
        first, kids = self.nodes, slice(self.nodes, self.nodes + c.width)
        self.nodes, self.expanded, self.children[node] = self.nodes + c.width, self.expanded + 1, first
        made = self.step(np.repeat(self.state[node][None], c.width, axis=0), actions)
        self.action[kids], self.state[kids] = actions, made.state
        self.reward[kids], self.going_on[kids] = made.reward, made.going_on
        self.parent[kids], self.depth[kids] = node, self.depth[node] + 1
        if self.prior is not None:
            self.probability[kids] = self.prior(self.state[node], actions)
        self.beyond[kids] = self._estimate(made, actions, c.depth - int(self.depth[node]) - 1)
        values = self.reward[kids] + c.discount * self.going_on[kids] * self.beyond[kids]
        sound = np.isfinite(values) & np.isfinite(made.state).all(axis=1)
        self.dead[kids] = ~sound
        self.gathered[kids] = self.gathered[node] + self.weight[node] * self.reward[kids]
        self.weight[kids] = self.weight[node] * c.discount * self.going_on[kids]
        whole = sound & ((self.going_on[kids] <= 0.0) | (self.depth[kids] + c.rollout >= c.depth))
        returns = np.where(whole, self.gathered[node] + self.weight[node] * np.where(whole, values, 0.0), -np.inf)
        if returns.max() > self.best_return:
            self.best_end, self.best_return = first + int(returns.argmax()), returns.max()
        if sound.any():
            self.lowest, self.highest = min(self.lowest, values[sound].min()), max(self.highest, values[sound].max())
        else:
            self._bury(node)

    def _estimate(self, made: Transition, actions: Array, left: int) -> NDArray[np.float64]:
        """What follows new nodes `[C]`: their action held on, then the value function."""
        state, going_on = made.state, made.going_on.astype(np.float64)
        weight, total = np.ones(len(going_on)), np.zeros(len(going_on))
        for _ in range(min(self.config.rollout, left)):
            following = self.step(state, actions)
            total += weight * following.reward
            weight *= self.config.discount * following.going_on
            state = following.state
        if self.value is not None:
            total += weight * self.value(state)
        return np.where(going_on > 0.0, total, 0.0)

    def _bury(self, node: int) -> None:
        """A node whose children all lead to nothing finite leads to nothing either."""
        self.dead[node] = True
        parent = int(self.parent[node])
        if parent >= 0:
            first = int(self.children[parent])
            if self.dead[first : first + self.config.width].all():
                self._bury(parent)

    def simulate(self) -> None:
        """Selection, expansion and backup."""
        node = 0
        while self.children[node] >= 0:
            node = self._select(node)
        if self.depth[node] < self.config.depth and self.going_on[node] > 0.0:
            self.expand(node)
            if self.dead[node]:
                return
        gained = self.beyond[node]
        while node >= 0:
            self.visits[node] += 1
            self.total[node] += gained
            gained = self.reward[node] + self.config.discount * self.going_on[node] * gained
            if self.parent[node] >= 0:
                self.lowest, self.highest = min(self.lowest, gained), max(self.highest, gained)
            node = int(self.parent[node])

    def values(self, node: int) -> tuple[slice, NDArray[np.float64]]:
        """The children of a node and the mean return by way of each `[C]`, -inf for dead ones."""
        first = int(self.children[node])
        kids = slice(first, first + self.config.width)
        mean = np.where(self.visits[kids] > 0, self.total[kids] / np.maximum(self.visits[kids], 1), self.beyond[kids])
        with np.errstate(invalid="ignore"):
            values = self.reward[kids] + self.config.discount * self.going_on[kids] * mean
        return kids, np.where(self.dead[kids], -np.inf, values)

    def _select(self, node: int) -> int:
        kids, values = self.values(node)
        scaled = (values - self.lowest) / max(self.highest - self.lowest, 1e-12)
        tried, above = self.visits[kids], self.visits[kids].sum()
        if self.prior is not None:
            score = scaled + self.config.exploration * self.probability[kids] * math.sqrt(above + 1) / (1 + tried)
        else:
            bonus = np.sqrt(math.log(above + 1) / np.maximum(tried, 1))
            score = scaled + np.where(tried > 0, self.config.exploration * bonus, 1e6)  # each is tried once, the best looking first
        return int(kids.start) + int(np.argmax(score))

    def found(self, done: int) -> Found:
        """The best line that was followed to the horizon or to a termination, its last action held; without one the most visited."""
        line = self._line(self.best_end) if self.best_end >= 0 else self._most_visited()
        kids, values = self.values(0)
        actions = np.array(line + [line[-1] if line else self.last[0]] * (self.config.depth - len(line)), np.float32)
        return Found(actions, self.action[kids], self.visits[kids], values, not self.dead[0], done)

    def _line(self, node: int) -> list[Array]:
        """Actions from the root to a node."""
        line = []
        while node > 0:
            line.append(self.action[node])
            node = int(self.parent[node])
        return line[::-1]

    def _most_visited(self) -> list[Array]:
        """Of equally visited nodes the better one."""
        line: list[Array] = []
        node = 0
        while self.children[node] >= 0 and not self.dead[node]:
            kids, values = self.values(node)
            visits = np.where(self.dead[kids], -1, self.visits[kids])
            best = np.flatnonzero(visits == visits.max())
            node = kids.start + int(best[np.argmax(values[best])])
            line.append(self.action[node])
        return line
