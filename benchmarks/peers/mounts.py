"""Peers that are mounted: whoever they are, a load sees a directory, and the report sees their processes.

They run on an address of this machine that is not 127.0.0.1, which they refuse; it is given to the loopback interface
and taken away again. What this needs (root, /dev/fuse, `ip`) and what is not installed is told by `missing`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.children import WorkloadError

ADDRESS = "10.250.0.1"
_RUN_SECONDS_MAX = 60.0
_POLL_SECONDS = 0.1


class Mounted(ABC):
    """A running peer. `directory`: where its files appear; each is on three disks when it has been fsynced."""

    name: str

    def __init__(self, directory: Path, address: str) -> None:
        self._home = directory
        self._address = address
        self._mount: subprocess.Popen[bytes] | None = None
        self.mount = directory / "mount"
        self.directory = self.mount / "files"
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _kill(self) -> None:
        """All processes but the one behind the mount. May be called again, and when not all were started."""

    @abstractmethod
    def server_pids(self) -> list[int]: ...

    def client_pids(self) -> list[int]:
        """Of the process behind the mount."""
        return [self._mount.pid] if self._mount else []

    def close(self) -> None:
        """Unmount and kill all. May be called again."""
        if self.mount.is_mount():
            subprocess.run(["umount", "-l", str(self.mount)], check=False, capture_output=True)
        self._kill()
        if self._mount is not None:
            self._mount.kill()
            self._mount.wait()

    def __enter__(self) -> Mounted:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Peer:
    """A system that can be started here, if `missing` says "" and not why not."""

    name: str
    install: str
    missing: Callable[[], str]
    start: Callable[[Path, str], Mounted]
    """In a directory that is its own, on an address."""


@contextmanager
def address() -> Iterator[str]:
    """An address of the loopback interface within the block. Needs root."""
    given = run(["ip", "-4", "-o", "addr", "show", "dev", "lo"])
    there = f" {ADDRESS}/" in given
    if not there:
        run(["ip", "addr", "add", f"{ADDRESS}/32", "dev", "lo"])
    try:
        yield ADDRESS
    finally:
        if not there:
            run(["ip", "addr", "del", f"{ADDRESS}/32", "dev", "lo"])


def missing_for_mounts(*programs: str) -> str:
    """Why a peer that needs these programs, root and FUSE cannot be measured here; "" when it can."""
    absent = [name for name in ("ip", *programs) if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} is not installed"
    if os.geteuid() != 0:
        return "it is mounted, which needs root"
    return "" if os.access("/dev/fuse", os.R_OK | os.W_OK) else "there is no /dev/fuse"


def run(command: list[str]) -> str:
    """What a short command says. Raises WorkloadError when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=_RUN_SECONDS_MAX, check=False)
    if done.returncode:
        raise WorkloadError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def wait_for(what: str, holds: Callable[[], bool], seconds: float) -> None:
    """Raises WorkloadError when it does not come to hold in time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except (OSError, WorkloadError):
            pass  # not yet
        if time.monotonic() > deadline:
            raise WorkloadError(f"{what}: not within {seconds:g} s")
        time.sleep(_POLL_SECONDS)


def free_ports(host: str, count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((host, 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def listens(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), _POLL_SECONDS):
        return True
    return False
