"""Paths that come in messages: opened only inside the folder that this machine's own configuration names."""

from __future__ import annotations

from pathlib import Path

from wm_ros.contract.errors import UserError


def inside(folder: str | Path, path: str | Path, where: str, remedy: str) -> Path:
    """A path from a message as the file that it really is, symbolic links followed, if that lies inside `folder`.

    Args:
        folder: the configured folder.
        path: as it came; must be absolute.
        where: named in the error, for instance the topic.
        remedy: how the user allows another folder.

    Returns:
        The resolved path, with no link left in it: what is checked is what is opened.

    Raises:
        UserError: the path is relative, leads out of the folder, or cannot be resolved.
    """
    root = Path(folder).expanduser().resolve()
    try:
        given = Path(path)
        if not given.is_absolute():
            raise UserError(f"{where}: path {str(path)[:200]!r} is not absolute: ignored")
        real = given.resolve()
        if real.resolve() != real:  # behind a loop of links the rest of a path is left as it is
            raise OSError("a loop of links")
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links; a null character
        raise UserError(f"{where}: path {str(path)[:200]!r}: {error}: ignored") from None
    if real == root or not real.is_relative_to(root):
        raise UserError(f"{where}: {real} lies outside {root}: not opened; {remedy}")
    return real
