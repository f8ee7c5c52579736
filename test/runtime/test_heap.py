"""How many arenas threads leave behind, in a process of its own: it cannot be taken back."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, sys, threading
from wm_ros.runtime import heap
if sys.argv[1] == "shared":
    heap.share_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
meeting = threading.Barrier(6)
def work():
    libc.malloc(1000)
    meeting.wait()
threads = [threading.Thread(target=work) for _ in range(6)]
[t.start() for t in threads]
[t.join() for t in threads]
out = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, out)
libc.fclose(out)
print(open(sys.argv[2]).read().count("<heap nr="))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")
def test_threads_share_two_arenas(tmp_path: Path) -> None:
    def arenas(how: str) -> int:
        command = [sys.executable, "-c", PROGRAM, how, str(tmp_path / "info.xml")]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert arenas("shared") <= 2
    assert arenas("as they come") > 2
