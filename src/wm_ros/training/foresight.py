"""A trained model asked for the future of recorded episodes, whatever its state is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from wm_ros.data.episode import Episode
from wm_ros.training.disagreement import Disagreement, disagreement
from wm_ros.training.open_loop import EpisodeColumns, Predictor, Windows, imagine


@dataclass(frozen=True)
class PictureError:
    """Imagined against recorded pictures of one camera, over B starts; 1 is the difference of black and white."""

    starts: int
    """B."""
    rmse: list[float]
    """`[H]`, over starts and pixels, of one drawn future each."""
    unchanged: list[float]
    """`[H]`, of the last picture that was seen: what a model must beat to be of use."""


@dataclass(frozen=True, eq=False)
class Film:
    """Recorded and imagined pictures of N starts, of C seen and H imagined ticks."""

    recorded: NDArray[np.uint8]
    """[C+H, N, h, w, colours]."""
    imagined: NDArray[np.uint8]
    """[C+H, N, h, w, colours]; of the seen ticks what the model makes of what it has seen."""
    seen: int
    """C."""


class Foresight(ABC):
    """A model before a set of recorded episodes."""

    stride: int
    """Ticks of one model step."""
    context: int = 0
    """Ticks before a start that it must have seen."""

    @abstractmethod
    def imagine(self, given: Windows, particles: int, generator: torch.Generator) -> NDArray[np.float32]:
        """`[H, P, B, O]`: P drawn futures of each of B starts."""

    def columns(self, episode: Episode) -> EpisodeColumns:
        """What is predicted of an episode `[T+1, O]`, and what was done `[T, A]`."""
        return episode.observation, episode.action

    def names(self, observations: tuple[str, ...]) -> tuple[str, ...]:
        """Of the O predicted columns."""
        return observations

    def disagreement(self, given: Windows, names: tuple[str, ...], scale: NDArray[np.floating]) -> Disagreement | None:
        """Of the members of an ensemble; None where there are none."""
        return None

    def pictures(self, given: Windows, generator: torch.Generator) -> dict[str, PictureError]:
        """Of each camera that it imagines, over some of the starts."""
        return {}

    def films(self, steps: int, generator: torch.Generator) -> dict[str, Film]:
        """Of each camera that it imagines: what was recorded, and what the model makes of it, for a few starts and so many steps.

        Raises:
            ValueError: no episode is long enough.
        """
        return {}


class ObservationForesight(Foresight):
    """Of a model whose state is the observation; every member of an ensemble carries its own particles."""

    def __init__(self, model: Predictor) -> None:
        self.stride, self._model = model.stride, model

    def imagine(self, given: Windows, particles: int, generator: torch.Generator) -> NDArray[np.float32]:
        return imagine(self._model, given, particles, generator)

    def disagreement(self, given: Windows, names: tuple[str, ...], scale: NDArray[np.floating]) -> Disagreement | None:
        return disagreement(self._model, given, names, scale) if self._model.members > 1 else None
