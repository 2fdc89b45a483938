"""Local files: one that appears whole, written under a temporary name and renamed at the end; and their attributes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from quorumfs import paths
from quorumfs.checksum import Buffer
from quorumfs.errors import InvalidArgumentError
from quorumfs.mint import RandomBytes, system_random


class NewLocalFile:
    """Use as a context manager; without `publish` nothing is left of it. One thread at a time.

    A link at the target is replaced, never written through. A device, pipe or socket is neither: it is refused on
    entry, also where a link leads to it (/dev/stdout), because a file in its place would break whoever uses it.
    Raises InvalidArgumentError; OSError, which names the target.
    """

    def __init__(self, target: str | os.PathLike[str], random: RandomBytes = system_random) -> None:
        self._target = os.fspath(target)
        directory, name = os.path.split(self._target)
        # Short names only: the suffix must not push a legal name over the file system's limit.
        self._temporary = os.path.join(directory, f".{name[:40]}.{random(6).hex()}.quorumfs-tmp")  # noqa: PTH118
        self._fd = -1

    def __enter__(self) -> NewLocalFile:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with _named(self._target):
            _refuse_special(self._target)
            self._fd = os.open(self._temporary, flags, 0o600)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            os.unlink(self._temporary)  # noqa: PTH108

    def write(self, data: Buffer) -> None:
        """Append all of `data`."""
        with _named(self._target), memoryview(data) as view:
            done = os.write(self._fd, view)
            while done < len(view):
                done += os.write(self._fd, view[done:])

    def publish(self, mode: int, modified_ns: int, fsync: bool) -> None:
        """Give it its name, with these permission bits and this time. Durable on return if `fsync`."""
        with _named(self._target):
            os.fchmod(self._fd, mode & 0o7777)
            os.utime(self._fd, ns=(modified_ns, modified_ns))
            if fsync:
                os.fsync(self._fd)
            os.replace(self._temporary, self._target)  # noqa: PTH105
        os.close(self._fd)
        self._fd = -1
        if fsync:
            _sync_directory(os.path.dirname(self._target) or ".")  # noqa: PTH120


@contextmanager
def _named(target: str) -> Iterator[None]:
    """An OSError that names the target, and not the temporary name that nobody asked for, or none at all."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, target) from error


def _refuse_special(target: str) -> None:
    """Raises InvalidArgumentError when a device, pipe or socket is there, or a link to one."""
    try:
        mode = os.stat(target).st_mode  # noqa: PTH116
    except OSError:
        return  # nothing, a link that leads nowhere or in a circle; what the path lacks is said at the opening
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InvalidArgumentError(
            f"{paths.show(target)} is a device, a pipe or a socket, or a link to one",
            cause="a file that is fetched replaces what has its name",
            next="write into it from stdout: dfsctl get REMOTE - > LOCAL",
        )


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def attributes_of(source: object) -> tuple[int, int]:
    """Mode bits and time of modification (ns) of a local plain file; zeros for anything else."""
    if not isinstance(source, str | os.PathLike):
        return 0, 0
    status = Path(source).stat()
    if not stat.S_ISREG(status.st_mode):
        return 0, 0
    return status.st_mode & 0o7777, status.st_mtime_ns
