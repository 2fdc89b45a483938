"""Memory of freed frames stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

_ROUNDS, _FRAMES = 40, 8
_READS_FRAMES = f"""
import resource, sys
from quorumfs.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def frames():
    return [b"x" * (1 << 20) + bytes([k]) for k in range({_FRAMES})]
frames()
before = faults()
for _ in range({_ROUNDS}):
    frames()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator, with other habits")
def test_frames_that_come_after_freed_ones_fault_no_page_in() -> None:
    pages = _ROUNDS * _FRAMES * (1 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert _faults("keep") < pages / 10


def _faults(how: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", _READS_FRAMES, how],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)
