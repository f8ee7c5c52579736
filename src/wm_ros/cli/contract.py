"""wm-ros contract: check a contract file, show what it means."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.functions import reward_function, termination_function


@dataclass(frozen=True)
class Check:
    """Check contract files: every fault is named with its field. Exit status 2 where there is one."""

    files: tyro.conf.Positional[tuple[str, ...]]
    """Contract files, or names of shipped contracts."""

    def run(self) -> int:
        faults = 0
        for file in self.files:
            try:
                contract = load_with_functions(file)
            except UserError as error:
                faults += 1
                print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
            else:
                print(f"{file}: ok, {summary(contract)}")
        return 2 if faults else 0


@dataclass(frozen=True)
class Show:
    """Show a contract: what the controller sees, does and wants, and the hash that travels with it."""

    file: tyro.conf.Positional[str]
    """Contract file, or the name of a shipped contract."""
    json: bool = False
    """Print the canonical JSON of which the hash is taken."""

    def run(self) -> int:
        contract = load_with_functions(self.file)
        print(contract.canonical_json() if self.json else describe(contract))
        return 0


@dataclass(frozen=True)
class ContractCommand:
    """Robot contracts: check or show one."""

    action: Annotated[Check, tyro.conf.subcommand("check")] | Annotated[Show, tyro.conf.subcommand("show")]

    def run(self) -> int:
        return self.action.run()


def load_with_functions(file: str) -> schema.Contract:
    """A contract whose reward and termination are there as well.

    Raises:
        UserError: a fault in the file, or a function that no installed package has.
    """
    contract = schema.load(file)
    if not contract.reward.learned:
        reward_function(contract)
    if contract.termination is None or not contract.termination.learned:
        termination_function(contract)
    return contract


def summary(contract: schema.Contract) -> str:
    """One line: name, sizes, rate, hash."""
    return (
        f"{contract.name} for {contract.robot}: {len(contract.observation_names)} observations, {len(contract.action.names)} actions, "
        f"{contract.control.rate_hz:g} Hz, hash {contract.hash[:12]}"
    )


def describe(contract: schema.Contract) -> str:
    """The contract in words, a line per channel, joint and limit."""
    lines = [f"contract     {contract.name}, robot {contract.robot}", f"hash         {contract.hash}"]
    lines.append(f"control      {contract.control.rate_hz:g} Hz")
    for channel in contract.observation:
        lines.append(f"observation  {channel.topic} ({channel.type}), at most {channel.max_age_s:g} s old")
        if channel.image is not None:
            height, width, _ = channel.image.shape
            lines.append(f"             - image {width} x {height}, {channel.image.encoding}, beside the vector")
        lines += [f"             - {feature.name} [{feature.units}] → {', '.join(feature.columns)}" for feature in channel.features]
    lines.append(f"action       {contract.action.topic} ({contract.action.type}, {contract.action.interface})")
    for joint in contract.action.joints:
        rate = f", at most {joint.rate_limit:g} {joint.units}/s" if joint.rate_limit else ""
        lines.append(f"             - {joint.name} {joint.low:g} to {joint.high:g} {joint.units}{rate}")
    lines.append(f"reward       {contract.reward.function}, scale {contract.reward.scale:g}")
    lines.append(f"termination  {contract.termination.function if contract.termination else 'none'}")
    lines.append(f"episode      {contract.episode.duration_s:g} s")
    safety = contract.safety
    lines.append(
        f"safety       hold {safety.hold}; observation at most {safety.max_observation_age_s:g} s old, "
        f"plan at most {safety.max_plan_age_s:g} s; e-stop on {safety.estop_topic}"
    )
    lines.append(f"simulator    {contract.simulator.mjcf if contract.simulator else 'none'}")
    return "\n".join(lines)
