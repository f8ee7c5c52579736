"""The command `wm-ros`: subcommands, one way to report a mistake, one way to be interrupted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from wm_ros.bringup.interrupt import interrupt_on_signals
from wm_ros.cli.bag import BagCommand
from wm_ros.cli.bench import Bench
from wm_ros.cli.contract import ContractCommand
from wm_ros.cli.curve import Curve
from wm_ros.cli.demo import Demo
from wm_ros.cli.diagnose import Diagnose
from wm_ros.cli.failure import RunFailure
from wm_ros.cli.learn_check import LearnCheck
from wm_ros.cli.maze import MazeCommand
from wm_ros.cli.report import Report
from wm_ros.cli.signing import KeyCommand, Sign
from wm_ros.cli.train import Train
from wm_ros.cli.up import Up
from wm_ros.contract.errors import UserError

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Up, tyro.conf.subcommand("up")]
    | Annotated[ContractCommand, tyro.conf.subcommand("contract")]
    | Annotated[BagCommand, tyro.conf.subcommand("bag")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
    | Annotated[Curve, tyro.conf.subcommand("curve")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[KeyCommand, tyro.conf.subcommand("key")]
    | Annotated[Sign, tyro.conf.subcommand("sign")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[LearnCheck, tyro.conf.subcommand("learn-check")]
    | Annotated[MazeCommand, tyro.conf.subcommand("maze")]
)
"""Every command is a frozen dataclass of its options with a method `run() -> int`, the exit status."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Leaves with 0, 1 (it failed), 2 (the user can mend it) or 130 (interrupted)."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and says its exit status.

    Args:
        arguments: the command line without the program's name; by default the one of this process.
    """
    interrupt_on_signals()
    try:
        command = tyro.cli(
            Command,  # type: ignore[arg-type]
            prog="wm-ros",
            description="Learned world models that control robots under ROS 2.",
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        )
        return int(command.run())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailure as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{f': {interrupt}' if str(interrupt) else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does. Nothing can be told to it any more, also not at exit.
        sys.stdout = None  # type: ignore[assignment]
        return 141
