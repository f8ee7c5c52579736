"""How a command says that it is a row of an older plan: `+40ms` behind its controller's name, in the header's `frame_id`.

Its stamp is that of the tick which it is the action of, as with every command; the observation that it was computed from is older by that.
"""

from __future__ import annotations

import re

_MS = 1_000_000
_AGE = re.compile(r"\+(\d{1,6})ms$")


def source_name(controller: str, age_ns: int) -> str:
    """The controller's name, with the age of what its command was computed from, in whole milliseconds and never too little."""
    return f"{controller}+{-(-age_ns // _MS)}ms" if age_ns > 0 else controller


def age_ns(source: str) -> int:
    """How much older than its stamp a command says that its observation is; 0 where it says nothing."""
    found = _AGE.search(source)
    return int(found[1]) * _MS if found else 0
