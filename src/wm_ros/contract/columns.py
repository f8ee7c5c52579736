"""Arrays whose last axis has names, so that no code guesses the order of joints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Columns:
    """A view of `array [..., C]` by column name; numpy, torch and any other array-API array will do."""

    def __init__(self, array: Any, names: Sequence[str]) -> None:
        if array.shape[-1] != len(names):
            raise ValueError(f"array {tuple(array.shape)} has {array.shape[-1]} columns, {len(names)} names were given: {list(names)}")
        self.array = array
        self._index = {name: i for i, name in enumerate(names)}

    def __getitem__(self, name: str) -> Any:
        """The column `[...]` called `name`; KeyError lists the names there are."""
        if name not in self._index:
            raise KeyError(f"no column {name!r}; there are {list(self._index)}")
        return self.array[..., self._index[name]]
