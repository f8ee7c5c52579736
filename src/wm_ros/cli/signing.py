"""wm-ros key, wm-ros sign: who made a controller, so that a robot can refuse everybody else's."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from wm_ros.contract.errors import UserError
from wm_ros.runtime.signature import SigningKey, TrustedKey, new_key, signature_path


@dataclass(frozen=True)
class New:
    """Make an Ed25519 key. The private half stays with who trains; the public half, PATH.pub, goes to the robots."""

    path: tyro.conf.Positional[Path]
    """File for the private half; must not exist."""

    def run(self) -> int:
        path = self.path.expanduser()
        public = new_key(path)
        print(f"private key {path}: for the trainer's parameter signing_key, `wm-ros train --signing-key` and `wm-ros sign --key`")
        print(f"public key  {public}: for the robots' parameter trusted_key of node mpc")
        return 0


@dataclass(frozen=True)
class Check:
    """Check signatures as a robot would. Exit status 2 where one is missing or wrong."""

    controllers: tyro.conf.Positional[tuple[Path, ...]]
    """ONNX controllers."""
    key: Path
    """Public key that the robot trusts."""

    def run(self) -> int:
        trusted = TrustedKey.load(self.key)
        for controller in self.controllers:
            trusted.check(controller, _sha256(controller))
            print(f"{controller}: signed by {self.key}")
        return 0


@dataclass(frozen=True)
class KeyCommand:
    """Keys that controllers are signed with: make one, check what one has signed."""

    action: Annotated[New, tyro.conf.subcommand("new")] | Annotated[Check, tyro.conf.subcommand("check")]

    def run(self) -> int:
        return self.action.run()


@dataclass(frozen=True)
class Sign:
    """Sign controllers: writes CONTROLLER.sig beside each."""

    controllers: tyro.conf.Positional[tuple[Path, ...]]
    """ONNX controllers."""
    key: Path
    """Private key, as of `wm-ros key new`."""

    def run(self) -> int:
        key = SigningKey.load(self.key)
        for controller in self.controllers:
            sha256, path = _sha256(controller), signature_path(controller)
            try:
                partial = path.with_name(path.name + ".partial")
                partial.write_bytes(key.sign(sha256))
                os.replace(partial, path)
            except OSError as error:
                raise UserError(f"{error.filename}: {error.strerror}: not signed") from None
            print(f"{path}: signs {sha256[:16]}…")
        return 0


def _sha256(controller: Path) -> str:
    try:
        return hashlib.sha256(controller.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{controller}: {error.strerror}") from None
