"""What a process on the control path asks of the kernel, each time in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from wm_ros.runtime.realtime import RealTime

CHILD = """
import json, os, sys, threading
from wm_ros.runtime.realtime import RealTime, enter, leave, locked_bytes, scheduling
if sys.argv[1] == "nobody":
    if os.getuid() == 0:
        os.setuid(65534)
refusals = enter(RealTime(7, True))
found = {}
def note(name, first=lambda: None):
    def work():
        first()
        found[name] = scheduling()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
note("child")
note("loader", leave)
print(json.dumps({"refusals": refusals, "own": scheduling(), "locked": locked_bytes(), **found}))
"""


def entered(who: str) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", CHILD, who], capture_output=True, text=True, check=True, env={**os.environ})
    return dict(json.loads(done.stdout))


def test_what_is_not_permitted_is_said_with_its_remedy_and_changes_nothing() -> None:
    found = entered("nobody")
    refusals = found["refusals"]
    assert isinstance(refusals, list) and len(refusals) == 2
    assert refusals[0].startswith("realtime_priority 7 is not permitted: raise rtprio")
    assert refusals[1].startswith("lock_memory is not permitted: ") and "memlock" in refusals[1]
    assert (found["own"], found["child"], found["locked"]) == ("SCHED_OTHER 0", "SCHED_OTHER 0", 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to real-time priority and locked memory")
def test_where_it_is_permitted_threads_inherit_it_and_the_loader_of_controllers_leaves_it() -> None:
    found = entered("somebody")
    if found["refusals"]:
        pytest.skip(f"this machine does not permit it: {found['refusals']}")
    assert (found["own"], found["child"], found["loader"]) == ("SCHED_FIFO 7", "SCHED_FIFO 7", "SCHED_OTHER 0")
    assert int(str(found["locked"])) > 2**20


def test_the_kernels_own_priority_is_not_to_be_had() -> None:
    with pytest.raises(ValueError, match="99 must be within"):
        RealTime(99)
