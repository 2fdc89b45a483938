"""What the kernel knows of a process: its peak of memory, what it has read and written."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

_LOOK_SECONDS = 0.02


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not collected by its parent does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def peak_bytes(pid: int) -> int:
    """VmHWM: the most that was resident at once. 0 when the process is gone."""
    return _number(pid, "status", r"VmHWM:\s+(\d+) kB") * 1024


def bytes_read(pid: int) -> int:
    """All that went through read(), from files or not."""
    return _number(pid, "io", r"rchar: (\d+)")


def bytes_written(pid: int) -> int:
    """All that went through write(), to files or not."""
    return _number(pid, "io", r"wchar: (\d+)")


def peak_until_the_end(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Wait until `process` ends; its peak of memory, looked at until then. Its output must fit a pipe."""
    peak, rounds = 0, int(seconds / _LOOK_SECONDS)
    for _ in range(rounds):
        peak = max(peak, peak_bytes(process.pid))
        try:
            process.wait(_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return peak
    process.kill()
    raise AssertionError(f"it did not end within {seconds:g} s")


def _number(pid: int, file: str, pattern: str) -> int:
    try:
        found = re.search(pattern, Path(f"/proc/{pid}/{file}").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0
