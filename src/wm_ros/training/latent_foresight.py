"""A latent world model asked for the future of recorded episodes: it sees some ticks, and imagines on from there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wm_ros.agents.dreamer import DreamerNetworks
from wm_ros.data.episode import Episode
from wm_ros.models.rssm import State
from wm_ros.training.foresight import Film, Foresight, PictureError
from wm_ros.training.open_loop import EpisodeColumns, Windows, windows

REWARD = "reward"
PICTURED = 100
"""Starts of which pictures are imagined."""
SHOWN, SEEN = 6, 5
"""Starts in a film, and the last ticks of what was seen before them."""


class LatentForesight(Foresight):
    """Filters `context` recorded ticks and the start's own observation, beginning at a zero state, and imagines by the prior.

    What it imagines are the observation's columns, where the model decodes any, and the reward that came with each.
    """

    stride = 1

    def __init__(self, networks: DreamerNetworks, episodes: Sequence[Episode], context: int) -> None:
        """Args: the trained networks, what was recorded, and the ticks that are seen before each start."""
        self.context = context
        self._networks, self._episodes = networks, episodes
        self._world = networks.world

    def columns(self, episode: Episode) -> EpisodeColumns:
        reward = np.concatenate([[0.0], episode.reward]).astype(np.float32)[:, None]
        seen = [reward] if self._world.decoder is None else [episode.observation, reward]
        return np.concatenate(seen, axis=1), episode.action

    def names(self, observations: tuple[str, ...]) -> tuple[str, ...]:
        return (REWARD,) if self._world.decoder is None else (*observations, REWARD)

    @torch.no_grad()
    def imagine(self, given: Windows, particles: int, generator: torch.Generator) -> NDArray[np.float32]:
        state = self._last(self._seen(given, particles, generator))
        rows = []
        for action in self._actions(given, particles):
            state = self._step(state, action, generator)
            reward = self._world.reward(state.feature).unsqueeze(-1)
            row = reward if self._world.decoder is None else torch.cat([self._world.decode(state), reward], dim=-1)
            rows.append(row.reshape(particles, len(given.start), -1).numpy())
        return np.stack(rows)

    @torch.no_grad()
    def pictures(self, given: Windows, generator: torch.Generator) -> dict[str, PictureError]:
        chosen = _spread(given, PICTURED)
        state, steps = self._last(self._seen(chosen, 1, generator)), len(given.actions)
        squared = {name: np.zeros((2, steps)) for name in self._world.images}
        for h, action in enumerate(self._actions(chosen, 1)):
            state = self._step(state, action, generator)
            for name, imagined in self._world.decode_images(state).items():
                now, before = self._recorded(name, chosen, h + 1), self._recorded(name, chosen, 0)
                for i, guess in enumerate((imagined.numpy(), before)):
                    squared[name][i, h] = np.mean((guess.astype(np.float32) / 255.0 - now.astype(np.float32) / 255.0) ** 2)
        return {name: PictureError(len(chosen.start), *np.sqrt(both).tolist()) for name, both in squared.items()}

    @torch.no_grad()
    def films(self, steps: int, generator: torch.Generator) -> dict[str, Film]:
        each = -(-SHOWN // len(self._episodes))
        given = windows([self.columns(e) for e in self._episodes], steps, 1, each, self.context)
        if given is None:
            raise ValueError(f"no episode has {self.context + steps} ticks")
        chosen = _spread(given, SHOWN)
        seen = self._seen(chosen, 1, generator)
        kept = min(SEEN, self.context + 1)
        states = [State(seen.deter[t], seen.stoch[t]) for t in range(-kept, 0)]
        for action in self._actions(chosen, 1):
            states.append(self._step(states[-1], action, generator))
        imagined = [self._world.decode_images(state) for state in states]
        ticks = range(1 - kept, len(given.actions) + 1)
        return {
            name: Film(
                np.stack([self._recorded(name, chosen, t) for t in ticks]), np.stack([each[name].numpy() for each in imagined]), kept
            )
            for name in self._world.images
        }

    def _seen(self, given: Windows, particles: int, generator: torch.Generator) -> State:
        """States `[context + 1, particles x B, ...]` by what was recorded up to each start."""
        rows, count = self.context + 1, len(given.start)

        def stacked(of: list[NDArray[np.float32]]) -> Tensor:
            return torch.from_numpy(np.stack(of, axis=1))

        spans = [(self._episodes[e], slice(t - self.context, t + 1)) for e, t in given.place]
        observation = stacked([episode.observation[span] for episode, span in spans])
        zero = np.zeros((1, given.actions.shape[-1]), np.float32)
        action = self._networks.to_half_ranges(
            stacked([np.concatenate([zero, episode.action[span.start : span.stop - 1]]) for episode, span in spans])
        )
        images = {
            name: torch.from_numpy(np.stack([np.asarray(episode.images[name][span]) for episode, span in spans], axis=1))
            for name in self._world.images
        }
        first = torch.zeros(rows, particles * count, dtype=torch.bool)
        first[0] = True
        embedded = self._world.embed(observation, images)
        drawn = self._world.rssm.latent.draw((rows, particles * count), generator)
        action, embedded = action.repeat(1, particles, 1), embedded.repeat(1, particles, 1)
        return self._world.rssm.observe(self._world.rssm.start(particles * count), action, embedded, first, drawn).state

    def _actions(self, given: Windows, particles: int) -> Tensor:
        """[H, particles x B, A], in half ranges."""
        held = torch.from_numpy(given.actions[:, :, 0]).repeat(1, particles, 1)
        return self._networks.to_half_ranges(held).clamp(-1.0, 1.0)

    def _step(self, state: State, action: Tensor, generator: torch.Generator) -> State:
        rssm = self._world.rssm
        return rssm.imagine_step(state, action, rssm.latent.draw((len(action),), generator))

    def _recorded(self, camera: str, given: Windows, ahead: int) -> NDArray[np.uint8]:
        """[B, h, w, colours], so many ticks after each start."""
        return np.stack([np.asarray(self._episodes[e].images[camera][int(t) + ahead]) for e, t in given.place])

    @staticmethod
    def _last(states: State) -> State:
        return State(states.deter[-1], states.stoch[-1])


def _spread(given: Windows, count: int) -> Windows:
    """So many of the starts, evenly over all."""
    rows = np.unique(np.linspace(0, len(given.start) - 1, count).round().astype(int))
    return Windows(given.start[rows], given.actions[:, rows], given.truth[:, rows], given.place[rows])
