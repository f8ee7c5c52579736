"""ROS domains: one that is free for a system of its own, and a guard against two systems in one place."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wm_ros.contract.errors import UserError

DOMAINS = range(1, 102)
"""Domains whose ports lie below Linux's ephemeral range."""
PARTICIPANTS = 8
"""How many participants' ports are looked at; the first ones are taken first."""


def ports(domain: int) -> list[int]:
    """UDP ports that DDS takes first in a domain (RTPS 2.5, section 9.6.2.3): discovery multicast, then unicast of each participant."""
    base = 7400 + 250 * domain
    return [base, *(base + 10 + 2 * participant for participant in range(PARTICIPANTS))]


def in_use(domain: int) -> bool:
    """Whether something on this machine takes part in the domain."""
    for port in ports(domain):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return True
                raise
    return False


def present_domain() -> int:
    """The domain that ROS_DOMAIN_ID names; 0 without it.

    Raises:
        UserError: it is no domain number.
    """
    text = os.environ.get("ROS_DOMAIN_ID", "") or "0"
    if not (text.isdecimal() and int(text) <= 232):
        raise UserError(f"ROS_DOMAIN_ID: {text!r} is no domain: set a number from 0 to 101, or unset it")
    return int(text)


@contextmanager
def reserve(domain: int, namespace: str = "") -> Iterator[None]:
    """Holds a domain and namespace for one system, among those that this package starts on this machine.

    Raises:
        UserError: another system is there.
    """
    place = f"{domain}_{hashlib.sha256(namespace.strip('/').encode()).hexdigest()[:12]}"
    path = Path(tempfile.gettempdir()) / f"wm_ros_{os.getuid()}_domain_{place}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            where = f" in namespace {namespace}" if namespace.strip("/") else ""
            raise UserError(
                f"ROS_DOMAIN_ID {domain}: another wm_ros system runs there{where} (process {holder}): "
                "stop it, or set another ROS_DOMAIN_ID or namespace"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def own_domain(wanted: int | None, near: str) -> Iterator[int]:
    """A domain for a system that wants to be alone, held until the end.

    Args:
        wanted: the user's choice, or None for a free one.
        near: text from which the first candidate is derived, so that the same run usually gets the same domain.

    Raises:
        UserError: the wanted domain is in use, or all are.
    """
    if wanted is not None:
        if in_use(wanted):
            raise UserError(
                f"ROS_DOMAIN_ID {wanted}: other ROS 2 nodes on this machine use it: stop them, set another one, or unset it for a free one"
            )
        with reserve(wanted):
            yield wanted
        return
    first = int(hashlib.sha256(near.encode()).hexdigest(), 16) % len(DOMAINS)
    for step in range(len(DOMAINS)):
        domain = DOMAINS[(first + step) % len(DOMAINS)]
        if in_use(domain):
            continue
        held = reserve(domain)
        try:
            held.__enter__()
        except UserError:
            continue
        try:
            yield domain
        finally:
            held.__exit__(None, None, None)
        return
    raise UserError(f"no free ROS domain among {DOMAINS.start} to {DOMAINS.stop - 1}: stop other ROS 2 systems on this machine")
