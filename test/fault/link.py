"""A network namespace for one node, joined to this one by a cable that can be cut."""

from __future__ import annotations

import os
import shutil
import subprocess

TOOLS = ("ip", "unshare", "nsenter")
ENVIRONMENT = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}
"""For the processes at both ends: shared memory would go around the cable."""


class Link:
    """Needs root. The namespace ends with the process that holds it, and the cable with the namespace."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo && exec sleep infinity"], stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        self._holder.stdout.readline()
        near, far, network = f"wm{os.getpid()}a", f"wm{os.getpid()}b", f"10.231.{os.getpid() % 250}"
        self._near = near
        try:
            self._ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", str(self._holder.pid))
            self._ip("addr", "add", f"{network}.1/24", "dev", near)
            self._ip("link", "set", near, "up")
            for words in (("addr", "add", f"{network}.2/24", "dev", far), ("link", "set", far, "up"), ("link", "set", "lo", "up")):
                self._ip(*words, inside=True)
        except BaseException:
            self.close()
            raise

    @property
    def inside(self) -> list[str]:
        """What to put before a command that is to run at the far end."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--"]

    def _ip(self, *words: str, inside: bool = False) -> None:
        subprocess.run([*(self.inside if inside else ()), "ip", *words], check=True)

    def cut(self) -> None:
        self._ip("link", "set", self._near, "down")

    def heal(self) -> None:
        self._ip("link", "set", self._near, "up")

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


def why_not() -> str:
    """Why there can be no link on this machine; empty where there can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"no {', '.join(missing)} on this machine"
    made = subprocess.run(["unshare", "--net", "true"], capture_output=True)
    return "" if os.geteuid() == 0 and made.returncode == 0 else "network namespaces need root"
