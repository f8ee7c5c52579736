"""How every node ends: 0 when it is stopped, 1 on a bug with its traceback, 2 on a user's mistake with one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NODE = """
import signal, sys, threading
from wm_ros.contract.errors import UserError
from wm_ros.nodes.base import Param, WmNode, run

WHERE = sys.argv[1]

class Tried(WmNode):
    parameters = {"rate": Param(1.0, "A rate", low=0.5, high=10.0)}

    def at(self, where, error=None):
        if where == WHERE:
            raise error or ZeroDivisionError("a bug in " + where)

    def configure(self):
        self.at("configure")
        self.at("user", UserError("file.yaml: field: wrong: mend it"))

    def activate(self):
        self.at("activate")
        self.create_timer(0.01, lambda: self.at("callback"))
        if WHERE == "thread":
            threading.Thread(target=self.at, args=("thread",)).start()
        if WHERE in ("stop", "deactivate"):
            self.create_timer(0.01, lambda: signal.raise_signal(signal.SIGTERM))

    def deactivate(self):
        print("deactivated", flush=True)
        self.at("deactivate")

if WHERE == "again":
    import rclpy

    rclpy.init()
    node = Tried("again")
    count = lambda: [node.count_publishers("diagnostics"), len(list(node.publishers)), len(list(node.services)), len(list(node.timers))]
    seen = []
    for _ in range(3):
        node.trigger_configure()
        node.trigger_activate()
        node.trigger_deactivate()
        seen.append(count())
        node.trigger_cleanup()
    print("same" if seen[0] == seen[1] == seen[2] else seen, flush=True)
    rclpy.shutdown()
else:
    run(lambda: Tried("tried"))
"""


def end(tmp_path: Path, where: str, *arguments: str) -> tuple[int, str]:
    """Runs a node that fails at a place; gives its status and all that it said."""
    script = tmp_path / "node.py"
    script.write_text(NODE)
    done = subprocess.run([sys.executable, str(script), where, "--ros-args", *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("where", ["configure", "activate", "callback", "thread", "deactivate"])
def test_a_bug_anywhere_ends_the_node_with_status_1_and_its_traceback(tmp_path: Path, where: str) -> None:
    status, said = end(tmp_path, where)
    assert status == 1 and "Traceback" in said and f"a bug in {where}" in said


def test_a_stopped_node_deactivates_first(tmp_path: Path) -> None:
    status, said = end(tmp_path, "stop")
    assert status == 0 and "deactivated" in said and "Traceback" not in said


def test_a_node_that_is_configured_again_has_everything_once(tmp_path: Path) -> None:
    status, said = end(tmp_path, "again")
    assert status == 0 and "same" in said, said


@pytest.mark.parametrize(
    ("where", "arguments", "words"),
    [
        ("user", [], "file.yaml: field: wrong: mend it"),
        ("", ["-p", "rate:=100.0"], "parameter rate: 100.0 must be within [0.5, 10.0]"),
        ("", ["-p", "rate:=3"], "parameter rate: expected a value of type float, got 3: write 3.0"),
        ("", ["-p", "mode:=fast"], "parameter mode: 'fast' must be one of realtime, lockstep"),
        ("", ["-p", "contract:=nothing"], "nothing: no such file"),
        ("", ["--params-file", "/nowhere.yaml"], "/nowhere.yaml"),
        ("", ["--unheard-of"], "--unheard-of"),
    ],
)
def test_a_users_mistake_is_told_without_a_traceback_and_with_status_2(
    tmp_path: Path, where: str, arguments: list[str], words: str
) -> None:
    status, said = end(tmp_path, where, *arguments)
    assert status == 2 and words in said and "Traceback" not in said
