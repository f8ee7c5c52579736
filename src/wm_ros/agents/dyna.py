"""Tabular Dyna-Q and Dyna-Q+ (Sutton and Barto, 2nd edition, section 8.2 and 8.3), for many seeds at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DynaConfig:
    """What the book leaves to be chosen."""

    planning_steps: int = 10
    """Updates from the model after each real step (n); 0 is plain Q-learning."""
    step_size: float = 0.1
    """Share by which a value moves to its target (alpha)."""
    discount: float = 0.95
    epsilon: float = 0.1
    """Share of random actions."""
    curiosity: float = 0.0
    """Dyna-Q+: planning adds this times the root of the steps since an action was last tried (kappa); 0 is Dyna-Q."""

    def __post_init__(self) -> None:
        if self.planning_steps < 0 or self.curiosity < 0:
            raise ValueError(f"planning_steps {self.planning_steps} and curiosity {self.curiosity} must not be negative")
        if not 0 < self.step_size <= 1 or not 0 <= self.discount <= 1 or not 0 <= self.epsilon <= 1:
            raise ValueError(
                f"step_size {self.step_size} must be above 0, it, discount {self.discount} and epsilon {self.epsilon} at most 1"
            )


class Dyna:
    """R learners with tables of their own, driven in step; each depends on its own seed alone."""

    def __init__(self, config: DynaConfig, states: int, actions: int, seeds: Sequence[int]) -> None:
        self.config, self._actions = config, actions
        self.values = np.zeros((len(seeds), states, actions))
        """Action values [R, S, A]; those of a final state stay zero."""
        # Acting and planning draw apart, so that learners that plan differently act alike until there is something to plan.
        self._random, self._planning = ([np.random.default_rng([seed, purpose]) for seed in seeds] for purpose in (0, 1))
        self._learner = np.arange(len(seeds))
        shape = (len(seeds), states * actions)
        # The model, by pair of state and action: where it led, what it paid, and when it was tried last.
        self._next = np.zeros(shape, np.int64)
        self._reward = np.zeros(shape)
        self._tried_at = np.zeros(shape, np.int64)
        # Pairs that planning may draw, in the order in which they became known.
        self._known = np.zeros(shape, np.int64)
        self._knows = np.zeros(shape, np.bool_)
        self._count = np.zeros(len(seeds), np.int64)
        self._time = 0

    def act(self, state: NDArray[np.int64]) -> NDArray[np.int64]:
        """Actions [R] in states [R]: greedy but for a share, ties broken at random."""
        draws = np.stack([random.random(self._actions + 1) for random in self._random])
        values = self.values[self._learner, state]
        best = values == values.max(1, keepdims=True)
        explore = draws[:, :1] < self.config.epsilon
        return np.where(best | explore, draws[:, 1:], -1.0).argmax(1)

    def learn(
        self,
        state: NDArray[np.int64],
        action: NDArray[np.int64],
        reward: NDArray[np.float64],
        following: NDArray[np.int64],
        active: NDArray[np.bool_],
    ) -> None:
        """One real step of the learners that are `active` [R], then planning; states, actions, rewards, next states [R]."""
        self._time += 1
        learner = self._learner[active]
        pair = (state * self._actions + action)[active]
        self._update(learner, pair, reward[active], following[active])
        if self.config.curiosity > 0:
            # In the states it has seen, actions that were never tried are thought to lead nowhere and to pay nothing.
            for other in range(self._actions):
                untried = (state * self._actions + other)[active]
                new = ~self._knows[learner, untried]
                self._next[learner[new], untried[new]] = state[active][new]
                self._learn_of(learner, untried)
        self._next[learner, pair], self._reward[learner, pair] = following[active], reward[active]
        self._tried_at[learner, pair] = self._time
        self._learn_of(learner, pair)
        if self.config.planning_steps and len(learner):
            self._plan(learner)

    def _learn_of(self, learner: NDArray[np.int64], pair: NDArray[np.int64]) -> None:
        new = ~self._knows[learner, pair]
        learner, pair = learner[new], pair[new]
        self._known[learner, self._count[learner]] = pair
        self._knows[learner, pair] = True
        self._count[learner] += 1

    def _plan(self, learner: NDArray[np.int64]) -> None:
        draws = np.stack([self._planning[r].random(self.config.planning_steps) for r in learner])
        for step in range(self.config.planning_steps):
            pair = self._known[learner, (draws[:, step] * self._count[learner]).astype(np.int64)]
            reward = self._reward[learner, pair]
            if self.config.curiosity > 0:
                reward = reward + self.config.curiosity * np.sqrt(self._time - self._tried_at[learner, pair])
            self._update(learner, pair, reward, self._next[learner, pair])

    def _update(
        self, learner: NDArray[np.int64], pair: NDArray[np.int64], reward: NDArray[np.float64], following: NDArray[np.int64]
    ) -> None:
        state, action = np.divmod(pair, self._actions)
        target = reward + self.config.discount * self.values[learner, following].max(1)
        self.values[learner, state, action] += self.config.step_size * (target - self.values[learner, state, action])
