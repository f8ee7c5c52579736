from __future__ import annotations

import os

import pytest

from wm_ros.contract.errors import UserError
from wm_ros.runtime.affinity import parse_cpus


def test_lists_and_ranges_of_processors_are_read() -> None:
    first = min(os.sched_getaffinity(0))
    assert parse_cpus("", "p") == set()
    assert parse_cpus(f" {first} , {first}-{first}", "p") == {first}


@pytest.mark.parametrize("text", ["a", "1-", "-1", "0;1", "99999"])
def test_anything_else_is_refused_with_the_parameter(text: str) -> None:
    with pytest.raises(UserError, match="cpu_affinity"):
        parse_cpus(text, "parameter cpu_affinity")
