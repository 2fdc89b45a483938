"""The machine: what it is, what its processes cost, and how busy it was otherwise. Linux only, from /proc."""

from __future__ import annotations

import mmap
import os
import platform
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_KERNEL_PARENT = 2
_DROP_CACHES = _PROC / "sys/vm/drop_caches"
_MADV_POPULATE_WRITE = 23
_FSYNC_BYTES = 4096
_FSYNC_TRIES = 50


def describe(directory: Path) -> dict[str, Any]:
    """What a reader must know of this machine before a number means anything; `directory` is on the disk used."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "filesystem": _filesystem(directory),
        "fsync_ms_median": round(fsync_ms(directory), 3),
        "load_average_1m": os.getloadavg()[0],
    }


def fsync_ms(directory: Path) -> float:
    """Median time of appending 4 KiB to a file in `directory` and fdatasync, in milliseconds."""
    path = directory / "fsync-probe"
    took = []
    with open(path, "wb", buffering=0) as file:
        for _ in range(_FSYNC_TRIES):
            began = time.perf_counter()
            file.write(b"\0" * _FSYNC_BYTES)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    path.unlink()
    return statistics.median(took) * 1e3


def can_drop_caches() -> bool:
    """Whether `drop_caches` works here: root's privilege."""
    return os.access(_DROP_CACHES, os.W_OK)


def drop_caches() -> None:
    """Write back everything, then hold no file in memory that nobody has mapped. Raises OSError."""
    os.sync()
    _DROP_CACHES.write_text("3", encoding="ascii")


def warm_memory(size_bytes: int) -> None:
    """Have the machine's memory at hand: a host takes back what its guest does not use, and the first to touch it again
    would pay, up to 4 s per GiB. No more than half of what is free."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // 2
    with mmap.mmap(-1, max(1, min(size_bytes, free))) as memory, suppress(OSError):  # Linux before 5.14
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory.madvise(_MADV_POPULATE_WRITE)


def cpu_seconds(pids: Iterable[int]) -> dict[int, float]:
    """User and system time of these processes so far, by pid; those that have ended are not in it."""
    found = {}
    for pid in pids:
        fields = _stat(pid)
        if fields is not None:
            found[pid] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
    return found


def resident_bytes(pid: int) -> int:
    """What the process holds in memory now. Raises FileNotFoundError when it does not run."""
    pages = int((_PROC / str(pid) / "statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def keep_to_cores(pid: int, cores: Iterable[int]) -> None:
    """All threads of a process, and those that they will start, run on these cores only. Raises OSError."""
    wanted = set(cores)
    for task in (_PROC / str(pid) / "task").iterdir():
        os.sched_setaffinity(int(task.name), wanted)


def forget_peak(pid: int) -> None:
    """The peak is what the process holds now. Raises OSError."""
    (_PROC / str(pid) / "clear_refs").write_text("5", encoding="ascii")


def peak_bytes(pid: int) -> int:
    """The most that the process held in memory since `forget_peak`, or its start. Raises OSError."""
    for line in (_PROC / str(pid) / "status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no memory")


@dataclass(frozen=True, slots=True)
class Account:
    """What an interval cost: wall seconds, CPU seconds per group, and how many cores were busy with other things."""

    wall_seconds: float
    cpu_seconds: Mapping[str, float]
    other_cores: float


class Meter:
    """CPU of groups of processes from its making to `read`; of one that ends meanwhile, nothing.

    `groups`: name -> pids, disjoint.

    What the machine did beside them is everything else but the kernel's own threads, which write our pages back.
    """

    def __init__(self, groups: Mapping[str, Sequence[int]]) -> None:
        self._groups = groups
        self._cpu = self._by_pid()
        self._busy = _busy_seconds()
        self._began = time.monotonic()

    def read(self) -> Account:
        """The account of the time since."""
        wall = time.monotonic() - self._began
        busy = _busy_seconds() - self._busy
        after = self._by_pid()
        spent = {pid: seconds - self._cpu.get(pid, 0.0) for pid, seconds in after.items()}
        cpu = {name: sum(spent.get(pid, 0.0) for pid in pids) for name, pids in self._groups.items()}
        return Account(wall, cpu, max(0.0, (busy - sum(cpu.values())) / wall))

    def _by_pid(self) -> dict[int, float]:
        return cpu_seconds(pid for pids in self._groups.values() for pid in pids)


def _busy_seconds() -> float:
    """CPU time that the machine has spent, without idling, waiting for disks, and kernel threads."""
    first = (_PROC / "stat").read_text(encoding="ascii").splitlines()[0]
    ticks = [int(field) for field in first.split()[1:9]]
    kernel = 0
    for entry in _PROC.iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdigit() else None
        if fields is not None and int(fields[1]) == _KERNEL_PARENT:
            kernel += int(fields[11]) + int(fields[12])
    return (sum(ticks) - ticks[3] - ticks[4] - kernel) / _TICKS_PER_SECOND


def _stat(pid: int) -> list[str] | None:
    """The fields of proc(5)'s stat from the state on; None when there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _cpu_model() -> str:
    for line in (_PROC / "cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _filesystem(directory: Path) -> str:
    """Type of the file system that holds `directory`: the longest mount point above it."""
    found = ("", "unknown")
    for line in (_PROC / "self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, kind = line.split()[:3]
        if directory.resolve().is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]
