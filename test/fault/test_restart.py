"""Who takes the place of a controller that was killed drives at once, though DDS remembers the dead one for a while."""

from __future__ import annotations

import signal
from pathlib import Path

from fault.harness import Cell


def test_a_restarted_controller_drives_while_dds_still_remembers_the_killed_one(tmp_path: Path) -> None:
    cell = Cell("restart", tmp_path)
    try:
        cell.signal("mpc", signal.SIGKILL)
        cell.wait(lambda: cell.commands[-1].held == "command_timeout", "hold")
        begin = len(cell.commands)
        cell.start("mpc")
        cell.swap()
        cell.wait_for_passing()
        assert cell.node.count_publishers("mpc/command") == 2, "the graph has forgotten it already: this shows nothing"
        assert [fault for command in cell.commands[begin:] for fault in command.faults] == []
    finally:
        cell.close()
