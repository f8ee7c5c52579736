"""Finding a contract's topics in a bag whose robot has a namespace."""

from __future__ import annotations

from pathlib import Path

import cartpole_bags
import pytest

from wm_ros.contract.errors import UserError
from wm_ros.data.bag_reader import Bag
from wm_ros.data.bag_writer import BagWriter
from wm_ros.data.qos import Qos


def bag(path: Path, *topics: str) -> Bag:
    """A bag with one command on each topic."""
    writer = BagWriter(path, {})
    for topic in topics:
        index = writer.add_topic(topic, cartpole_bags.JOINT_STATE, Qos(depth=1))
        writer.write(index, cartpole_bags.joint_state(10**9, ["slider"], effort=[1.0]), 10**9, 10**9)
    writer.close()
    return Bag(path)


def test_commands_of_controllers_below_the_robots_namespace_are_not_taken_for_the_robots(tmp_path: Path) -> None:
    recorded = bag(tmp_path / "bag", "/cell/policy/command", "/cell/mpc/command", "/cell/command")
    assert recorded.resolve("command") == "/cell/command" and recorded.resolve("mpc/command") == "/cell/mpc/command"


def test_of_two_robots_none_is_guessed(tmp_path: Path) -> None:
    recorded = bag(tmp_path / "bag", "/cell_1/command", "/cell_2/command", "/cell_1/mpc/command")
    with pytest.raises(UserError, match=r"/cell_1/command or /cell_2/command or .*give a namespace"):
        recorded.resolve("command")
    assert recorded.resolve("command", "cell_2") == "/cell_2/command"
