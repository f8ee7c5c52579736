"""Arrays in files, for what does not fit into memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_ros.contract.errors import UserError


def mapped(folder: Path, name: str, shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """An array of zeros in the file `folder/name.bin`, with all its space on the disk taken.

    Raises:
        UserError: the file cannot be written, or the disk is too full for it.
    """
    path = folder / f"{name}.bin"
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            # Without it the file has holes, and a full disk would end the process at some later write.
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(path, dtype, "r+", shape=tuple(shape))
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise UserError(f"{path}: the replay buffer cannot be kept there: {error.strerror}: free some space or take another") from None
